package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/agent/agenttest"
	"github.com/evermesh/evermesh/internal/agent/settings"
	"github.com/evermesh/evermesh/internal/agent/supervise"
	"github.com/evermesh/evermesh/internal/testenv"
)

func TestRestarts(t *testing.T) {
	for _, test := range []struct {
		name, count, do string
		starts          int
		status          string
	}{
		{"AGENT-011 AGENT-047 three by default", "", "exit", 4, "status=\"code 3\""},
		{"AGENT-011 none when 0 is asked for", "0", "exit", 1, "status=\"code 3\""},
		{"AGENT-011 ten at most", "11", "exit", 11, "status=\"code 3\""},
		{"AGENT-011 a signal is an exit too", "1", "crash", 2, "status=\"signal killed\""},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newStub(t, test.do, "APPNET_ENVOY_RESTART_COUNT="+test.count)
			log, err := s.run(t.Context(), t)
			if !errors.Is(err, supervise.ErrExhausted) {
				t.Errorf("got %v", err)
			}
			if got := strings.Count(s.events(), "start pid="); got != test.starts {
				t.Errorf("started %d times, want %d", got, test.starts)
			}
			if got := strings.Count(log.String(), "envoy exited"); got != test.starts || strings.Count(log.String(), test.status) != test.starts {
				t.Errorf("the log tells %d exits, want %d with %s", got, test.starts, test.status)
			}
		})
	}
}

func TestStop(t *testing.T) {
	t.Parallel()
	t.Run("AGENT-001 AGENT-046 drains, waits, then ends Envoy", func(t *testing.T) {
		t.Parallel()
		p := play(t, newStub(t, "exit,run"))
		p.until(t, "ready")
		p.tell(t, syscall.SIGTERM)
		p.drains(t)
		_, events, _ := strings.Cut(p.events(), "ready\n")
		if events != "POST /healthcheck/fail\nPOST /drain_listeners?graceful\nterm\n" {
			t.Errorf("what happened to Envoy: %q", events)
		}
		if !strings.Contains(p.out.String(), "envoy stopped") {
			t.Error("the log does not tell the end")
		}
		if left, _ := filepath.Glob(filepath.Join(p.dir, "*")); len(left) != 1 {
			t.Errorf("files left: %q, want events alone", left)
		}
	})
	t.Run("at once when it cannot be asked to drain", func(t *testing.T) {
		t.Parallel()
		p := play(t, newStub(t, "deaf", "LISTENER_DRAIN_WAIT_TIME_S=110"))
		p.until(t, "ready")
		p.tell(t, syscall.SIGTERM)
		p.ends(t, 0) // it waits for less than that
	})
	t.Run("killed when it does not end", func(t *testing.T) {
		t.Parallel()
		p := play(t, newStub(t, "stubborn"))
		p.until(t, "ready")
		p.tell(t, syscall.SIGTERM)
		p.ends(t, 0)
		if !strings.Contains(p.out.String(), `status="signal killed"`) {
			t.Error("the log does not tell it")
		}
	})
}

func TestArguments(t *testing.T) {
	for _, test := range []struct {
		name, want string
		env        []string
	}{
		{
			"by default", "-c F -l info --drain-time-s 20 --disable-hot-restart --skip-deprecated-logs --extra 1", nil,
		},
		{
			"AGENT-005 AGENT-007 AGENT-013 as set", "-c F -l trace --concurrency 2 --drain-time-s 30 --extra 1",
			[]string{"ENVOY_LOG_LEVEL=TRACE", "ENVOY_CONCURRENCY=2", "LISTENER_DRAIN_WAIT_TIME_S=30", "DISABLE_HOT_RESTART=false", "ENVOY_SKIP_DEPRECATED_LOGS=0"},
		},
		{
			"AGENT-013 out of bounds is the default", "-c F -l info --drain-time-s 20 --disable-hot-restart --skip-deprecated-logs --extra 1",
			[]string{"ENVOY_LOG_LEVEL=loud", "ENVOY_CONCURRENCY=many", "LISTENER_DRAIN_WAIT_TIME_S=111"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, err := settings.Parse(agenttest.Environment(append(test.env, "APPMESH_RESOURCE_ARN=mesh/m/virtualNode/n", "APPMESH_XDS_ENDPOINT=c:1")...), settings.Flags{}, 0)
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(supervise.Arguments(s, "F", []string{"--extra", "1"}), " "); got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}

func TestStartedProcess(t *testing.T) {
	s := newStub(t, "run")
	ctx, cancel := context.WithCancel(t.Context())
	waited := s.happens(t, "ready", 1, cancel)
	if _, err := s.run(ctx, t); err != nil {
		t.Error(err)
	}
	waited()
	t.Run("AGENT-045 the limit of open files is the hard one", func(t *testing.T) {
		if !strings.Contains(s.events(), "files=true") {
			t.Error(s.events())
		}
	})
	t.Run("arguments of the command line are Envoy's last", func(t *testing.T) {
		if !strings.Contains(s.events(), "--skip-deprecated-logs --extra 1\n") {
			t.Error(s.events())
		}
	})
}

func TestWarnings(t *testing.T) {
	file := filepath.Join(t.TempDir(), "stats.yaml")
	if err := os.WriteFile(file, []byte("stats_config: {stats_matcher: {reject_all: true}}"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := newStub(t, "exit", "APPNET_ENVOY_RESTART_COUNT=0", "ENVOY_STATS_CONFIG_FILE="+file, "APPMESH_RESOURCE_ARN=", "APPMESH_VIRTUAL_NODE_NAME=mesh/m/virtualNode/n")
	log, _ := s.run(t.Context(), t)
	t.Run("AGENT-033 a stats matcher", func(t *testing.T) {
		if !strings.Contains(log.String(), "[warning] [AppNet Agent] stats matcher in ENVOY_STATS_CONFIG_FILE") {
			t.Error(log)
		}
	})
	t.Run("AGENT-004 a deprecated variable", func(t *testing.T) {
		if !strings.Contains(log.String(), "APPMESH_VIRTUAL_NODE_NAME is deprecated") {
			t.Error(log)
		}
	})
}

// A bootstrap that the user wrote is not touched; one that an earlier run generated is generated anew.
func TestOwnBootstrap(t *testing.T) {
	file := filepath.Join(t.TempDir(), "envoy.yaml")
	for _, test := range []struct {
		name, before string
		own          bool
	}{
		{"the user's", "admin: {}\n", true},
		{"an empty file", "", false},
		{"an earlier run's", settings.GeneratedMark + "admin: {}\n", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			if err := os.WriteFile(file, []byte(test.before), 0o600); err != nil {
				t.Fatal(err)
			}
			s := newStub(t, "exit", "APPNET_ENVOY_RESTART_COUNT=0", "ENVOY_CONFIG_FILE="+file)
			if test.own {
				s.lines = append(s.lines, "APPMESH_RESOURCE_ARN=") // it is in the file
			}
			if _, err := s.run(t.Context(), t); !errors.Is(err, supervise.ErrExhausted) {
				t.Error(err)
			}
			after, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if kept := string(after) == test.before; kept != test.own || (!test.own && !strings.HasPrefix(string(after), settings.GeneratedMark)) {
				t.Errorf("the file is now\n%s", after)
			}
			if !strings.Contains(s.events(), "args=-c "+file+" ") {
				t.Error(s.events())
			}
		})
	}
}

// startAgent starts this test program as an agent.
func startAgent(t *testing.T, lines ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
	cmd.Env = append(append(os.Environ(), lines...), part+"=agent")
	var out testenv.Output
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(out.String())
		}
	})
	return cmd
}

// Envoy must not outlive the agent that could restart or drain it, however the agent ends.
func TestAgentKilled(t *testing.T) {
	s := newStub(t, "run")
	agent := startAgent(t, s.lines...)
	testenv.Eventually(t, "Envoy runs", func() bool { return strings.Contains(s.events(), "ready") })
	var pid int
	if _, err := fmt.Sscanf(s.events(), "start pid=%d", &pid); err != nil {
		t.Fatal(err)
	}
	// The thread that started it must not take it along: let the agent's threads come and go first.
	for range 3 {
		if err := syscall.Kill(pid, 0); err != nil {
			t.Fatalf("Envoy is gone while its agent lives: %v", err)
		}
		agenttest.Tick(t)
	}
	if err := agent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, "Envoy ends with its agent", func() bool { return gone(pid) })
}

// gone says that the process has ended; a zombie that nobody waits for has.
func gone(pid int) bool {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return true
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	return strings.HasPrefix(rest, "Z") || strings.HasPrefix(rest, "X")
}

// Two agents on one file system, with the same settings but for ports, do not disturb each other.
func TestTwoAgents(t *testing.T) {
	a, b := newStub(t, "run"), newStub(t, "run")
	b.lines = append(b.lines, "TMPDIR="+a.dir)
	for _, s := range []*stub{a, b} {
		startAgent(t, s.lines...)
	}
	for _, s := range []*stub{a, b} {
		testenv.Eventually(t, "Envoy runs", func() bool { return strings.Contains(s.events(), "ready") })
	}
	sockets, err := filepath.Glob(filepath.Join(a.dir, "evermesh-agent-*", "xds.sock"))
	if err != nil || len(sockets) != 2 {
		t.Errorf("sockets: %q, %v", sockets, err)
	}
}

func TestStatusOfARunningAgent(t *testing.T) {
	port := testenv.FreePort(t)
	c := agenttest.NewControlPlane(t, "")
	s := newStub(t, "exit,run", "APPNET_AGENT_ADMIN_MODE=tcp", "APPNET_AGENT_HTTP_PORT="+strconv.Itoa(port),
		"APPNET_AGENT_HTTP_BIND_ADDRESS=127.0.0.1", "APPMESH_XDS_ENDPOINT=http://"+c.Addr,
		"APPNET_RELAY_LISTENER_UDS_PATH="+filepath.Join(agenttest.ShortDir(t), "x.sock"))
	agent := startAgent(t, s.lines...)
	ask := func() map[string]string {
		var got map[string]string
		answer, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/status", port))
		if err != nil {
			return nil
		}
		defer answer.Body.Close()
		if answer.StatusCode == http.StatusTooManyRequests {
			return nil
		}
		if err := json.NewDecoder(answer.Body).Decode(&got); err != nil {
			t.Error(err)
		}
		return got
	}
	var got map[string]string
	testenv.Eventually(t, "Envoy is live", func() bool {
		got = ask()
		return got["envoyState"] == "LIVE" && got["initialConfigUpdateStatus"] != ""
	})
	t.Run("AGENT-037 health and restarts", func(t *testing.T) {
		pid := number(t, got["envoyPid"])
		if gone(pid) || pid == agent.Process.Pid {
			t.Errorf("envoyPid %d", pid)
		}
		if !strings.HasSuffix(got["agentUptime"], "s") {
			t.Errorf("agentUptime %q", got["agentUptime"])
		}
		for name, want := range map[string]string{
			"healthStatus": "HEALTHY", "envoyRestartCount": "1", "managementServerConnectionStatus": "NOT_CONNECTED",
			"envoyReadinessState": "INITIALIZED", "initialConfigUpdateStatus": "UPDATE_SUCCESSFUL",
		} {
			if got[name] != want {
				t.Errorf("%s: got %q, want %q", name, got[name], want)
			}
		}
		if _, err := time.Parse(time.RFC3339Nano, got["managementServerDisconnectedTimestamp"]); err != nil {
			t.Error(err)
		}
	})
}
