//go:build linux

package agent

import (
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/agent/agenttest"
	"github.com/evermesh/evermesh/internal/testenv"
)

// newUpgrade is a proxy with hot restart, whose Envoy can be replaced.
func newUpgrade(t *testing.T) (p *proxy, envoy string) {
	t.Helper()
	envoy = agenttest.Envoys(t)[0]
	p = newProxy(t, envoy, "DISABLE_HOT_RESTART=false")
	p.install(t, "exec "+envoy+` "$@"`)
	p.set("ENVOY_PATH=" + p.at("state/envoy"))
	return p, envoy
}

// install has a shell's words be the Envoy that is started next.
func (p *proxy) install(t *testing.T, words string) {
	t.Helper()
	testenv.Script(t, p.at("state/envoy.new"), "#!/bin/sh\n"+words+"\n")
	must(t, os.Rename(p.at("state/envoy.new"), p.at("state/envoy")))
}

// wantNobody wants no process of the proxy's, whatever the files are.
func (p *proxy) wantNobody(t *testing.T) {
	t.Helper()
	testenv.Eventually(t, "no process is left", func() bool { return len(p.processes()) == 0 })
}

// Hand-overs to another Envoy that go wrong.
func TestHandOverFaults(t *testing.T) {
	t.Parallel()
	t.Run("the new one ends after a while: the old one serves on", func(t *testing.T) {
		t.Parallel()
		p, _ := newUpgrade(t)
		r := p.start(t)
		r.serves(t, 1, "first")
		p.install(t, "sleep 1; exit 9")
		p.unbroken(t, func() {
			r.tell(t, syscall.SIGHUP)
			r.waits(t, `status="code 9"`)
			p.say("second")
			testenv.Eventually(t, "the old one has the new word", func() bool { return p.ask(t.Context()) == "second" })
		})
		if n := len(p.processes()); n != 2 {
			t.Errorf("%d processes, want the agent and the old Envoy", n)
		}
		r.hurries(t)
		p.wantNobody(t)
	})
	t.Run("AGENT-046 told to end while the new one starts: what serves drains", func(t *testing.T) {
		t.Parallel()
		p, envoy := newUpgrade(t)
		p.set("LISTENER_DRAIN_WAIT_TIME_S=60")
		r := p.start(t)
		r.serves(t, 1, "first")
		p.install(t, "sleep 2; exec "+envoy+` "$@"`)
		r.tell(t, syscall.SIGHUP)
		r.waits(t, "envoy hands over")
		p.unbroken(t, func() {
			r.tell(t, syscall.SIGTERM)
			r.waits(t, "draining envoy")
			for range 100 {
				if r.isOver() {
					t.Fatal("it did not drain")
				}
				agenttest.Tick(t)
			}
		})
		r.tell(t, syscall.SIGTERM)
		r.ends(t, 0)
		p.wantNobody(t)
	})
	t.Run("AGENT-046 the new one hangs: the old one serves, and SIGTERM ends both", func(t *testing.T) {
		t.Parallel()
		p, _ := newUpgrade(t)
		r := p.start(t)
		r.serves(t, 1, "first")
		p.install(t, "exec sleep 1000")
		p.unbroken(t, func() {
			r.tell(t, syscall.SIGHUP)
			r.waits(t, "envoy hands over")
			p.say("second")
			testenv.Eventually(t, "the old one has the new word", func() bool { return p.ask(t.Context()) == "second" })
		})
		r.tell(t, syscall.SIGTERM)
		if took := r.ends(t, 0); took > 25*time.Second {
			t.Errorf("it took %s", took)
		}
		p.wantNobody(t)
	})
	t.Run("the agent is killed meanwhile: nobody is left", func(t *testing.T) {
		t.Parallel()
		p, _ := newUpgrade(t)
		for round := range 3 {
			r := p.start(t)
			r.serves(t, 1, "first")
			r.tell(t, syscall.SIGHUP)
			r.waits(t, []string{"envoy hands over", "envoy started", "envoy has taken over"}[round])
			signal(t, r.pid(), syscall.SIGKILL)
			p.wantNobody(t)
		}
		r := p.start(t)
		r.serves(t, 1, "first")
		r.hurries(t)
	})
	t.Run("asked for again and again: one is left, and no request was lost", func(t *testing.T) {
		t.Parallel()
		p, _ := newUpgrade(t)
		r := p.start(t)
		r.serves(t, 1, "first")
		p.unbroken(t, func() {
			for n := range 12 {
				r.tell(t, syscall.SIGHUP)
				if n%4 == 3 {
					r.waitsFor(t, "envoy has taken over", n/4+1)
				}
			}
			testenv.Eventually(t, "one Envoy is left", func() bool { return len(p.processes()) == 2 })
			p.say("second")
			testenv.Eventually(t, "it has the new word", func() bool { return p.ask(t.Context()) == "second" })
		})
		t.Logf("%d Envoys were started", strings.Count(r.out.String(), "envoy started"))
		r.hurries(t)
		p.wantNobody(t)
	})
}
