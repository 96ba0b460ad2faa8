package agent

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/agent/agenttest"
	"github.com/evermesh/evermesh/internal/testenv"
)

// played is an agent in a process of its own, with the stub as its Envoy.
type played struct {
	*stub
	cmd *exec.Cmd
	out *testenv.Output

	told time.Time // when it was sent the last signal
}

func play(t *testing.T, s *stub) *played {
	t.Helper()
	return playWith(t, s, "/proc/self/exe")
}

// playWith is play with another program.
func playWith(t *testing.T, s *stub, program string) *played {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program)
	cmd.Env = append(append(os.Environ(), s.lines...), part+"=agent")
	p := &played{stub: s, cmd: cmd, out: &testenv.Output{}}
	cmd.Stdout, cmd.Stderr = p.out, p.out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s\n%s", p.events(), p.out)
		}
	})
	return p
}

// until waits for text in the events of the stub.
func (p *played) until(t *testing.T, text string) {
	t.Helper()
	testenv.Eventually(t, text, func() bool { return strings.Contains(p.events(), text) })
}

// says waits for text in the log, which comes to the test after what it tells of.
func (p *played) says(t *testing.T, text string) {
	t.Helper()
	testenv.Eventually(t, "the log says "+text, func() bool { return strings.Contains(p.out.String(), text) })
}

func (p *played) tell(t *testing.T, s syscall.Signal) {
	t.Helper()
	p.told = time.Now()
	if err := p.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// ends waits for the agent's end, and returns how long that took since it was told.
func (p *played) ends(t *testing.T, code int) time.Duration {
	t.Helper()
	ended := make(chan struct{})
	go func() { defer close(ended); _ = p.cmd.Wait() }()
	late := time.NewTimer(agenttest.Wait)
	defer late.Stop()
	select {
	case <-ended:
	case <-late.C:
		t.Error("the agent does not end")
		_ = p.cmd.Process.Kill()
		<-ended
	}
	if got := p.cmd.ProcessState.ExitCode(); got != code {
		t.Errorf("exit code %d, want %d", got, code)
	}
	return time.Since(p.told)
}

// drains waits for the end of an agent whose drain time is newStub's.
func (p *played) drains(t *testing.T) {
	t.Helper()
	// On a busy machine it may take longer, but less than by default.
	if took := p.ends(t, 0); took < 5*time.Second || took > 20*time.Second {
		t.Errorf("ended after %s, want the 5 s of LISTENER_DRAIN_WAIT_TIME_S", took)
	}
}

func TestEnvoyHangs(t *testing.T) {
	t.Parallel()
	t.Run("AGENT-047 an Envoy that stops answering is ended and started again", func(t *testing.T) {
		t.Parallel()
		p := play(t, newStub(t, "mute,run", "HC_POLL_INTERVAL_MS=2000", "EVERMESH_ENVOY_SILENT_POLLS=1"))
		testenv.Eventually(t, "a second Envoy", func() bool { return strings.Count(p.events(), "ready") >= 2 })
		p.says(t, "envoy does not answer: it is ended")
	})
	t.Run("AGENT-047 one that never answers has longer", func(t *testing.T) {
		t.Parallel()
		from := time.Now()
		p := play(t, newStub(t, "deaf,run", "HC_POLL_INTERVAL_MS=2000", "EVERMESH_ENVOY_SILENT_POLLS=1"))
		testenv.Eventually(t, "a second Envoy", func() bool { return strings.Count(p.events(), "ready") >= 2 })
		if took := time.Since(from); took < 8*time.Second {
			t.Errorf("ended after %s, want four polls", took)
		}
	})
}

func TestSegmentationFault(t *testing.T) {
	t.Parallel()
	t.Run("AGENT-001 TRBL-021 a segmentation fault is told, with the limit of open files", func(t *testing.T) {
		p := play(t, newStub(t, "segfault", "APPNET_ENVOY_RESTART_COUNT=1"))
		p.ends(t, 1)
		for _, want := range []string{`status="signal segmentation fault"`, "raise the nofile ulimit of the container", "nofile="} {
			if strings.Count(p.out.String(), want) != 2 {
				t.Errorf("want %q twice", want)
			}
		}
	})
	t.Run("a program that cannot be started is one that ended", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "envoy")
		testenv.Script(t, file, "no program")
		p := play(t, newStub(t, "run", "APPNET_ENVOY_RESTART_COUNT=1", "ENVOY_PATH="+file))
		p.ends(t, 1)
		if got := p.out.String(); strings.Count(got, "envoy does not start") != 2 || !strings.Contains(got, "exec format error") {
			t.Error("the log does not tell two failed starts, and why")
		}
	})
}

// The orphans of an Envoy come to the agent, whether it is PID 1 or not.
func TestOrphansAreCollected(t *testing.T) {
	t.Parallel()
	t.Run("AGENT-012 AGENT-001", func(t *testing.T) {
		p := play(t, newStub(t, "orphan,run", "PID_POLL_INTERVAL_MS=100"))
		p.until(t, "ready")
		_, rest, _ := strings.Cut(p.events(), "orphan pid=")
		var pid int
		if _, err := fmt.Sscan(rest, &pid); err != nil {
			t.Fatal(err)
		}
		testenv.Eventually(t, "nothing is left of the orphan", func() bool {
			_, err := os.Stat("/proc/" + strconv.Itoa(pid))
			return os.IsNotExist(err)
		})
		p.says(t, `status="code 3"`)
		if n := strings.Count(p.out.String(), `status="code 3"`); n != 1 {
			t.Errorf("the log tells Envoy's exit %d times", n)
		}
	})
}

// answering is a control plane that answers a drain with this.
func answering(t *testing.T, answer string) (endpoint string, asked func() string) {
	t.Helper()
	var got testenv.Output
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			fmt.Fprintln(&got, r.URL.RequestURI())
			if answer == "" {
				<-r.Context().Done()
			}
			fmt.Fprint(w, answer)
		}
	}))
	t.Cleanup(s.Close)
	return "APPMESH_XDS_ENDPOINT=" + s.URL, got.String
}

func TestDrain(t *testing.T) {
	t.Parallel()
	t.Run("AGENT-046 it ends early when no client may choose it and nothing is open", func(t *testing.T) {
		t.Parallel()
		endpoint, asked := answering(t, `{"status": "DRAINED"}`)
		open := filepath.Join(t.TempDir(), "open")
		if err := os.WriteFile(open, []byte("1"), 0o600); err != nil {
			t.Fatal(err)
		}
		p := play(t, newStub(t, "run", endpoint, "LISTENER_DRAIN_WAIT_TIME_S=60", "STUB_OPEN="+open))
		p.until(t, "ready")
		testenv.Eventually(t, "the agent knows that Envoy serves", func() bool { return strings.Contains(p.out.String(), "envoy started") })
		p.tell(t, syscall.SIGTERM)
		p.until(t, "POST /drain_listeners?graceful")
		testenv.Eventually(t, "it has looked for longer than it waits for new requests", func() bool {
			text, err := os.ReadFile(open + ".asked")
			return err == nil && len(text) >= 10 // 200 ms apart at least
		})
		if strings.Contains(p.events(), "term") {
			t.Error("ended with an open request")
		}
		if err := os.WriteFile(open, []byte("0"), 0o600); err != nil {
			t.Fatal(err)
		}
		p.ends(t, 0)
		_, events, _ := strings.Cut(p.events(), "ready\n")
		if events != "POST /healthcheck/fail\nPOST /drain_listeners?graceful\nterm\n" {
			t.Errorf("what happened to Envoy: %q", events)
		}
		if path := asked(); !strings.HasPrefix(path, "/evermesh/v1/proxies/") || !strings.HasSuffix(path, "/drain?resourceArn=mesh%2Fm%2FvirtualNode%2Fn\n") {
			t.Errorf("asked %q", path)
		}
	})
	for name, answer := range map[string]string{
		"clients may not have heard": `{"status": "TIMED_OUT"}`, "clients find it by a name": `{"status": "NOTHING_TO_DO"}`, "it is silent": "", "it talks nonsense": "<html>",
	} {
		t.Run("AGENT-013 AGENT-046 it takes the whole time when the control plane says that "+name, func(t *testing.T) {
			t.Parallel()
			endpoint, _ := answering(t, answer)
			p := play(t, newStub(t, "run", endpoint))
			p.until(t, "ready")
			p.tell(t, syscall.SIGTERM)
			p.drains(t)
		})
	}
	t.Run("a second signal ends it at once", func(t *testing.T) {
		t.Parallel()
		p := play(t, newStub(t, "run", "LISTENER_DRAIN_WAIT_TIME_S=60"))
		p.until(t, "ready")
		p.tell(t, syscall.SIGTERM)
		p.until(t, "POST /healthcheck/fail")
		p.tell(t, syscall.SIGTERM)
		p.ends(t, 0)
		if !strings.HasSuffix(p.events(), "term\n") {
			t.Error("Envoy was not asked to end")
		}
	})
	t.Run("an Envoy that has served nothing yet is ended at once", func(t *testing.T) {
		t.Parallel()
		p := play(t, newStub(t, "early", "LISTENER_DRAIN_WAIT_TIME_S=60"))
		p.until(t, "ready")
		p.tell(t, syscall.SIGTERM)
		p.ends(t, 0)
		if strings.Contains(p.events(), "POST") {
			t.Error("there was nothing to drain")
		}
	})
	t.Run("between two starts there is nothing to drain", func(t *testing.T) {
		t.Parallel()
		p := play(t, newStub(t, "exit", "APPNET_ENVOY_RESTART_COUNT=10", "EVERMESH_ENVOY_RESTART_DELAY_MS=10000"))
		testenv.Eventually(t, "a pause", func() bool { return strings.Contains(p.out.String(), "started again after a pause") })
		p.tell(t, syscall.SIGTERM)
		p.ends(t, 0)
	})
}

func TestQuitWith(t *testing.T) {
	t.Parallel()
	other := exec.CommandContext(t.Context(), "sleep", "1000")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	p := play(t, newStub(t, "early", "AGENT_TEST_WITH="+strconv.Itoa(other.Process.Pid)))
	p.until(t, "ready")
	if err := other.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	p.ends(t, 0)
	_ = other.Wait()
	if !strings.Contains(p.out.String(), "the process that this agent serves has ended") {
		t.Error("the log does not say why")
	}
}

// TestHundredRestarts kills Envoy ten times, which is all it may be restarted, and agents a hundred times, and looks for
// what is left.
func TestHundredRestarts(t *testing.T) {
	t.Parallel()
	t.Run("ten of Envoy: the agent has as many descriptors and children as after the first", func(t *testing.T) {
		t.Parallel()
		s := newStub(t, "run", "APPNET_ENVOY_RESTART_COUNT=10", "EVERMESH_ENVOY_RESTART_FORGET_S=0")
		p := play(t, s)
		p.until(t, "ready")
		pid := p.cmd.Process.Pid
		before, same := 0, 0
		testenv.Eventually(t, "the agent has all the descriptors that it is to have", func() bool {
			now := descriptors(t, pid)
			if same++; now != before {
				before, same = now, 0
			}
			return same >= 50
		})
		for n := 1; n <= 10; n++ {
			kill(t, lastStart(t, p.events()))
			testenv.Eventually(t, "another one", func() bool { return strings.Count(p.events(), "ready") == n+1 })
		}
		testenv.Eventually(t, "as many descriptors as before", func() bool { return descriptors(t, pid) <= before })
		if n := len(childrenOf(t, pid)); n != 1 {
			t.Errorf("%d children, want Envoy alone", n)
		}
	})
	t.Run("a hundred of the agent, by kill -9: what an earlier one left is taken over or gone", func(t *testing.T) {
		t.Parallel()
		root, err := testenv.Root()
		if err != nil {
			t.Fatal(err)
		}
		// The program as it ships starts faster than a test, a hundred times.
		program := filepath.Join(root, "bin", "evermesh-agent")
		if _, err := os.Stat(program); err != nil {
			t.Fatalf("%v: make build", err)
		}
		s := newStub(t, "run")
		envoy := filepath.Join(t.TempDir(), "envoy")
		script := fmt.Sprintf("#!/bin/sh\ncase \"$*\" in *--version*) exit 1;; esac\necho start pid=$$ >> %[1]s/events\necho ready >> %[1]s/events\nexec sleep 1000\n", s.dir)
		testenv.Script(t, envoy, script)
		s.lines = append(s.lines, "ENVOY_PATH="+envoy, "APPNET_RELAY_LISTENER_UDS_PATH="+filepath.Join(s.dir, "xds.sock"), "ENVOY_CONFIG_FILE="+filepath.Join(s.dir, "envoy.yaml"),
			"APPNET_AGENT_ADMIN_MODE=uds", "APPNET_AGENT_ADMIN_UDS_PATH="+filepath.Join(s.dir, "agent.sock"))
		for n := 1; n <= 100; n++ {
			p := playWith(t, s, program)
			testenv.Eventually(t, "Envoy runs", func() bool { return strings.Count(s.events(), "ready") == n })
			kill(t, p.cmd.Process.Pid)
			_ = p.cmd.Wait()
			pid := lastStart(t, s.events())
			testenv.Eventually(t, "Envoy ends with its agent", func() bool { return gone(pid) })
		}
		p := playWith(t, s, program)
		testenv.Eventually(t, "Envoy runs", func() bool { return strings.Count(s.events(), "ready") == 101 })
		p.tell(t, syscall.SIGTERM)
		p.tell(t, syscall.SIGTERM)
		p.ends(t, 0)
		left, err := filepath.Glob(filepath.Join(s.dir, "*"))
		if err != nil {
			t.Fatal(err)
		}
		for i, f := range left {
			left[i] = filepath.Base(f)
		}
		if got := strings.Join(left, " "); got != "envoy.yaml events" {
			t.Errorf("left: %s", got)
		}
	})
}

func kill(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

// lastStart is the pid of the Envoy that was started last.
func lastStart(t *testing.T, events string) (pid int) {
	t.Helper()
	i := strings.LastIndex(events, "start pid=")
	if i < 0 {
		t.Fatal("none was started")
	}
	if _, err := fmt.Sscanf(events[i:], "start pid=%d", &pid); err != nil {
		t.Fatal(err)
	}
	return pid
}

func descriptors(t *testing.T, pid int) int {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func childrenOf(t *testing.T, pid int) (out []string) {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			continue // a thread that has ended
		}
		out = append(out, strings.Fields(string(text))...)
	}
	return out
}
