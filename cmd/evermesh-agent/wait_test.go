package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/evermesh/evermesh/internal/agent/agenttest"
	"github.com/evermesh/evermesh/internal/testenv"
)

// statusOf is an agent's HTTP interface as who waits sees it.
type statusOf struct {
	healthy atomic.Bool
	asked   atomic.Int64
	quit    atomic.Int64
	refuse  atomic.Int64 // so many of the next /quit
	env     []string     // says where it is
}

func newStatus(t *testing.T, network string) *statusOf {
	t.Helper()
	s := &statusOf{}
	address := "127.0.0.1:0"
	if network == "unix" {
		address = filepath.Join(agenttest.ShortDir(t), "agent.sock")
	}
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	s.env = []string{"APPNET_AGENT_ADMIN_MODE=uds", "APPNET_AGENT_ADMIN_UDS_PATH=" + address}
	if network == "tcp" {
		s.env = []string{fmt.Sprintf("APPNET_AGENT_HTTP_PORT=%d", l.Addr().(*net.TCPAddr).Port)} // tcp is the default
	}
	server := &http.Server{ReadHeaderTimeout: wait, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.Method + r.URL.Path {
		case "GET/status":
			s.asked.Add(1)
			health := "UNHEALTHY"
			if s.healthy.Load() {
				health = "HEALTHY"
			}
			fmt.Fprintf(w, `{"healthStatus": %q}`, health)
		case "POST/quit":
			s.quit.Add(1)
			if s.refuse.Add(-1) >= 0 {
				http.Error(w, "Too Many Requests", http.StatusTooManyRequests)
			}
		default:
			http.NotFound(w, r)
		}
	})}
	served := make(chan struct{})
	go func() { defer close(served); _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close(); <-served })
	return s
}

// program is this program with those arguments, in a process of its own.
func (s *statusOf) program(t *testing.T, args ...string) (*exec.Cmd, *testenv.Output) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", args...)
	cmd.Env = append([]string{part + "=agent", "PATH=" + os.Getenv("PATH")}, s.env...)
	out := &testenv.Output{}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(out)
		}
	})
	return cmd, out
}

func code(cmd *exec.Cmd) int {
	_ = cmd.Wait()
	return cmd.ProcessState.ExitCode()
}

func TestWait(t *testing.T) {
	for _, network := range []string{"unix", "tcp"} {
		t.Run("BP-006 BP-008 a command starts when Envoy is ready, as the same process: "+network, func(t *testing.T) {
			t.Parallel()
			s := newStatus(t, network)
			cmd, out := s.program(t, "wait", "--timeout", "60s", "--", "sh", "-c", `echo pid $$ "$1"; exit 7`, "sh", "an argument")
			testenv.Eventually(t, "it asks again", func() bool { return s.asked.Load() >= 2 })
			if out.String() != "" {
				t.Error("started before")
			}
			s.healthy.Store(true)
			if got := code(cmd); got != 7 {
				t.Errorf("exit code %d", got)
			}
			if want := fmt.Sprintf("pid %d an argument\n", cmd.Process.Pid); out.String() != want {
				t.Errorf("got %q, want %q", out, want)
			}
		})
		t.Run("AGENT-042 -envoyReadiness needs no variables of the proxy: "+network, func(t *testing.T) {
			t.Parallel()
			s := newStatus(t, network)
			once := append(s.env, "APPNET_AGENT_POLL_ENVOY_READINESS_INTERVAL_S=0")
			for _, healthy := range []bool{false, true} {
				s.healthy.Store(healthy)
				if s.env = once; healthy { // a busy machine may be late with the first answer
					s.env = append(once, "APPNET_AGENT_POLL_ENVOY_READINESS_INTERVAL_S=1")
				}
				cmd, _ := s.program(t, "-envoyReadiness")
				if got := code(cmd); (got == 0) != healthy || got > 1 {
					t.Errorf("healthy %t: exit code %d", healthy, got)
				}
			}
		})
	}
	t.Run("a signal is the command's", func(t *testing.T) {
		t.Parallel()
		s := newStatus(t, "unix")
		s.healthy.Store(true)
		cmd, out := s.program(t, "wait", "--", "sh", "-c", `trap 'echo got it; exit 3' TERM; echo ready; while :; do sleep 0.05; done`)
		testenv.Eventually(t, "it runs", func() bool { return out.String() == "ready\n" })
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if got := code(cmd); got != 3 || !strings.Contains(out.String(), "got it") {
			t.Errorf("exit code %d: %s", got, out)
		}
	})
	t.Run("no command: it only waits", func(t *testing.T) {
		t.Parallel()
		s := newStatus(t, "unix")
		s.healthy.Store(true)
		cmd, out := s.program(t, "wait")
		if got := code(cmd); got != 0 || out.String() != "" {
			t.Errorf("%d: %s", got, out)
		}
	})
	t.Run("not in time", func(t *testing.T) {
		t.Parallel()
		s := newStatus(t, "unix")
		cmd, out := s.program(t, "wait", "--timeout", "3s", "--", "echo", "started")
		if got := code(cmd); got != 1 || !strings.Contains(out.String(), "envoy is not ready after 3s: envoy is UNHEALTHY") || strings.Contains(out.String(), "started") {
			t.Errorf("%d: %s", got, out)
		}
	})
	t.Run("told to end meanwhile", func(t *testing.T) {
		t.Parallel()
		s := newStatus(t, "unix")
		cmd, out := s.program(t, "wait", "--", "echo", "started")
		testenv.Eventually(t, "it asks", func() bool { return s.asked.Load() >= 1 })
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if got := code(cmd); got != 1 || out.String() != "evermesh-agent: told to end before envoy was ready\n" {
			t.Errorf("%d: %s", got, out)
		}
	})
}

func TestJobs(t *testing.T) {
	for _, test := range []struct {
		name, script string
		signal       syscall.Signal
		code         int
	}{
		{"it succeeds", "exit 0", 0, 0},
		{"it fails", "exit 5", 0, 5},
		{"it is ended by a signal", "kill -KILL $$", 0, 128 + int(syscall.SIGKILL)},
		{"it gets the signals that come, and takes its time", "trap 'sleep 0.3; exit 4' TERM; echo ready; while :; do sleep 0.05; done", syscall.SIGTERM, 4},
	} {
		t.Run("a job ends, and the agent is told: "+test.name, func(t *testing.T) {
			t.Parallel()
			s := newStatus(t, "unix")
			s.healthy.Store(true)
			cmd, out := s.program(t, "wait", "--quit-after", "--", "sh", "-c", test.script)
			if test.signal != 0 {
				testenv.Eventually(t, "it runs", func() bool { return out.String() == "ready\n" })
				if s.quit.Load() != 0 {
					t.Error("the agent was told to end while the job runs")
				}
				if err := cmd.Process.Signal(test.signal); err != nil {
					t.Fatal(err)
				}
			}
			if got := code(cmd); got != test.code {
				t.Errorf("exit code %d, want %d", got, test.code)
			}
			if n := s.quit.Load(); n != 1 {
				t.Errorf("the agent was told %d times", n)
			}
		})
	}
	t.Run("the agent is gone: the job's code counts", func(t *testing.T) {
		t.Parallel()
		s := newStatus(t, "unix")
		s.healthy.Store(true)
		cmd, out := s.program(t, "wait", "--quit-after", "--", "sh", "-c", "rm $APPNET_AGENT_ADMIN_UDS_PATH; exit 6")
		if got := code(cmd); got != 6 || !strings.Contains(out.String(), "the agent was not told to end") {
			t.Errorf("%d: %s", got, out)
		}
	})
	t.Run("the agent answers others first: it is told again", func(t *testing.T) {
		t.Parallel()
		s := newStatus(t, "tcp")
		s.healthy.Store(true)
		s.refuse.Store(3)
		cmd, out := s.program(t, "wait", "--quit-after", "--", "true")
		if got := code(cmd); got != 0 || out.String() != "" || s.quit.Load() != 4 {
			t.Errorf("%d: told %d times: %s", got, s.quit.Load(), out)
		}
	})
	for _, test := range []struct {
		name, script string
		code         int
		hurry        bool
	}{
		{"a job that succeeded ends with 125", "exit 0", 125, false},
		{"the code of a job that failed counts", "exit 6", 6, true},
	} {
		t.Run("the agent refuses all the time: "+test.name, func(t *testing.T) {
			t.Parallel()
			s := newStatus(t, "unix")
			s.healthy.Store(true)
			s.refuse.Store(1 << 30)
			cmd, out := s.program(t, "wait", "--quit-after", "--", "sh", "-c", test.script)
			if test.hurry { // no time for the rest
				testenv.Eventually(t, "it is told again", func() bool { return s.quit.Load() >= 3 })
				if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
					t.Fatal(err)
				}
			}
			if got := code(cmd); got != test.code || !strings.Contains(out.String(), "the agent was not told to end: ask the agent: 429") {
				t.Errorf("%d: %s", got, out)
			}
		})
	}
	t.Run("evermesh-agent quit", func(t *testing.T) {
		t.Parallel()
		s := newStatus(t, "tcp")
		cmd, _ := s.program(t, "quit")
		if got := code(cmd); got != 0 || s.quit.Load() != 1 {
			t.Errorf("exit code %d, told %d times", got, s.quit.Load())
		}
	})
	t.Run("a second signal while the job ends is the job's, too", func(t *testing.T) {
		t.Parallel()
		s := newStatus(t, "unix")
		s.healthy.Store(true)
		cmd, out := s.program(t, "wait", "--quit-after", "--", "sh", "-c", "trap 'echo one' TERM; echo ready; while :; do sleep 0.05; done")
		for _, want := range []string{"ready\n", "ready\none\n"} {
			testenv.Eventually(t, want, func() bool { return out.String() == want })
			if want == "ready\n" {
				if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := cmd.Process.Signal(syscall.SIGQUIT); err != nil {
			t.Fatal(err)
		}
		if got := code(cmd); got != 128+int(syscall.SIGQUIT) {
			t.Errorf("exit code %d", got)
		}
	})
}
