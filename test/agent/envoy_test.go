//go:build linux

package agent

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/agent/agenttest"
	"github.com/evermesh/evermesh/internal/testenv"
)

// Envoys that crash in a loop, however they do it, end the agent with 1 after the restarts that it may do.
func TestCrashLoops(t *testing.T) {
	t.Parallel()
	envoys := agenttest.Envoys(t)
	for i, s := range []struct {
		signal syscall.Signal
		status string
	}{
		{syscall.SIGSEGV, `status="signal segmentation fault"`},
		{syscall.SIGKILL, `status="signal killed"`}, // as by the kernel when memory is out
		{syscall.SIGABRT, `status="signal aborted"`},
		{syscall.SIGBUS, `status="signal bus error"`},
	} {
		t.Run("AGENT-011 AGENT-047 "+s.status, func(t *testing.T) {
			t.Parallel()
			p := newProxy(t, envoys[i%len(envoys)], "APPNET_ENVOY_RESTART_COUNT=2")
			r := p.start(t)
			for n := 1; n <= 3; n++ {
				signal(t, r.serves(t, n, "first"), s.signal)
			}
			r.ends(t, 1)
			if got := strings.Count(r.out.String(), s.status); got != 3 {
				t.Errorf("%d exits are told with %s", got, s.status)
			}
			if !strings.HasSuffix(strings.TrimSpace(r.out.String()), "evermesh-agent: envoy ended and has used up its restarts (APPNET_ENVOY_RESTART_COUNT=2): last exit "+strings.Trim(strings.TrimPrefix(s.status, "status="), `"`)) {
				t.Error("the last line does not say why")
			}
			p.wantNothingLeft(t)
		})
	}
}

// An Envoy that cannot start ends the agent with 1 too, and somebody says why.
func TestRefusesToStart(t *testing.T) {
	t.Parallel()
	envoys := agenttest.Envoys(t)
	for i, s := range []struct {
		name    string
		prepare func(*testing.T, *proxy)
		why     string
		exit    int
	}{
		{"a bootstrap of the user's that Envoy refuses", func(t *testing.T, p *proxy) {
			must(t, os.WriteFile(p.at("state/own.yaml"), []byte("static_resources: {clusters: [{name: broken, type: STATIC, lb_policy: CLUSTER_PROVIDED}]}\n"), 0o600))
			p.set("ENVOY_RESOURCES_CONFIG_FILE=" + p.at("state/own.yaml"))
		}, "broken", 1},
		{"a flag that Envoy does not know", nil, "--no-such-flag", 1},
		{"its administration port is taken", func(t *testing.T, p *proxy) {
			l, err := net.Listen("tcp", net.JoinHostPort("0.0.0.0", strconv.Itoa(p.admin)))
			must(t, err)
			t.Cleanup(func() { l.Close() })
		}, "ENVOY_ADMIN_ACCESS_PORT", 1},
		{"no program at all", func(t *testing.T, p *proxy) {
			testenv.Script(t, p.at("state/envoy"), "not a program")
			p.set("ENVOY_PATH=" + p.at("state/envoy"))
		}, "exec format error", 1},
		{"one that may not be run", func(t *testing.T, p *proxy) {
			must(t, os.WriteFile(p.at("state/envoy"), []byte("#!/bin/sh\n"), 0o644))
			p.set("ENVOY_PATH=" + p.at("state/envoy"))
		}, "permission denied", 1},
		{"none", func(_ *testing.T, p *proxy) { p.set("ENVOY_PATH=" + p.at("state/envoy")) }, "ENVOY_PATH", 2},
	} {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			p := newProxy(t, envoys[i%len(envoys)], "APPNET_ENVOY_RESTART_COUNT=1")
			var args []string
			if s.prepare == nil {
				args = []string{"--", "--no-such-flag"}
			} else {
				s.prepare(t, p)
			}
			r := p.start(t, args...)
			r.ends(t, s.exit)
			if !r.says(s.why) {
				t.Errorf("nobody says %q", s.why)
			}
			lines := strings.Split(strings.TrimSpace(r.out.String()), "\n")
			if last := lines[len(lines)-1]; !strings.HasPrefix(last, "evermesh-agent: ") {
				t.Errorf("the last line is %q", last)
			}
			if got := len(p.processes()); got > 0 {
				t.Errorf("%d processes are left", got)
			}
		})
	}
	t.Run("a binary that goes while Envoy runs, and comes back", func(t *testing.T) {
		t.Parallel()
		p := newProxy(t, envoys[0], "APPNET_ENVOY_RESTART_COUNT=10", "EVERMESH_ENVOY_RESTART_DELAY_MS=200")
		must(t, os.Symlink(envoys[0], p.at("envoy")))
		p.set("ENVOY_PATH=" + p.at("envoy"))
		r := p.start(t)
		pid := r.serves(t, 1, "first")
		must(t, os.Remove(p.at("envoy")))
		signal(t, pid, syscall.SIGKILL)
		r.waitsFor(t, "envoy does not start", 2)
		must(t, os.Symlink(envoys[len(envoys)-1], p.at("envoy")))
		r.serves(t, 2, "first")
		r.hurries(t)
	})
}

// A hanging Envoy does not keep the agent from its end.
func TestHangs(t *testing.T) {
	t.Parallel()
	envoys := agenttest.Envoys(t)
	const most = 20 * time.Second // 5 s of questions, 5 s to end by itself, and much for a busy machine
	for i, s := range []struct {
		name   string
		silent bool // the control plane, so that Envoy never serves
		when   string
		code   int
	}{
		{"AGENT-046 before its first configuration", true, "starting main dispatch loop", 0},
		{"AGENT-046 while it serves", false, "starting workers", 0},
		{"AGENT-046 while it drains", false, "draining envoy", 0},
	} {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			p := newProxy(t, envoys[i%len(envoys)], "EVERMESH_ENVOY_SILENT_POLLS=0")
			p.silence(s.silent)
			r := p.start(t)
			draining := s.when == "draining envoy"
			if draining {
				r.serves(t, 1, "first")
				r.tell(t, syscall.SIGTERM)
			}
			r.waits(t, s.when)
			signal(t, r.envoy(t), syscall.SIGSTOP)
			if !draining {
				r.tell(t, syscall.SIGTERM)
			}
			if took := r.ends(t, s.code); took > most {
				t.Errorf("it took %s", took)
			}
			p.wantNothingLeft(t)
		})
	}
	t.Run("AGENT-047 before its first answer: it is ended and started again", func(t *testing.T) {
		t.Parallel()
		p := newProxy(t, envoys[0], "EVERMESH_ENVOY_SILENT_POLLS=1")
		r := p.start(t)
		r.waits(t, "envoy started")
		signal(t, r.envoy(t), syscall.SIGSTOP)
		r.waits(t, "envoy does not answer: it is ended")
		r.serves(t, 2, "first")
		r.hurries(t)
		p.wantNothingLeft(t)
	})
	t.Run("AGENT-046 an Envoy that crashes while it drains is not started again", func(t *testing.T) {
		t.Parallel()
		p := newProxy(t, envoys[len(envoys)-1], "LISTENER_DRAIN_WAIT_TIME_S=60")
		r := p.start(t)
		pid := r.serves(t, 1, "first")
		r.tell(t, syscall.SIGTERM)
		r.waits(t, "draining envoy")
		signal(t, pid, syscall.SIGSEGV)
		if took := r.ends(t, 0); took > most {
			t.Errorf("it took %s", took)
		}
		if n := strings.Count(r.out.String(), "envoy started"); n != 1 {
			t.Errorf("it was started %d times", n)
		}
	})
	t.Run("an agent that stands still for long takes its Envoy for no hanging one", func(t *testing.T) {
		t.Parallel()
		p := newProxy(t, envoys[0], "EVERMESH_ENVOY_SILENT_POLLS=1")
		r := p.start(t)
		pid := r.serves(t, 1, "first")
		signal(t, r.pid(), syscall.SIGSTOP)
		testenv.Eventually(t, "it stands still", func() bool { return state(t, r.pid()) == 'T' })
		for asked := time.Now(); time.Since(asked) < 5*time.Second; agenttest.Tick(t) { // Envoy goes on
			if got := p.ask(t.Context()); got != "first" {
				t.Fatalf("got %q", got)
			}
		}
		signal(t, r.pid(), syscall.SIGCONT)
		p.say("second")
		if r.serves(t, 1, "second") != pid {
			t.Error("another Envoy")
		}
		r.hurries(t)
	})
}

// state is a process's, as ps has it.
func state(t *testing.T, pid int) byte {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	must(t, err)
	_, rest, found := strings.Cut(string(text), ") ")
	if !found || rest == "" {
		t.Fatalf("stat: %s", text)
	}
	return rest[0]
}
