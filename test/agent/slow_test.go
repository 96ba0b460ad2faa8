//go:build linux

package agent

import (
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/agent/agenttest"
	"github.com/evermesh/evermesh/internal/agent/pause"
	"github.com/evermesh/evermesh/internal/testenv"
)

// dripping leads to the address, a few bytes at a time in each direction.
func dripping(t *testing.T, address string) *server {
	t.Helper()
	return serveRaw(t, "127.0.0.1:0", func(c net.Conn) {
		up, err := net.Dial("tcp", address)
		if err != nil {
			return
		}
		var both sync.WaitGroup
		pour := func(to, from net.Conn) {
			defer to.Close()
			for drop := make([]byte, 200); ; {
				n, err := from.Read(drop)
				if _, failed := to.Write(drop[:n]); err != nil || failed != nil || pause.For(t.Context(), 5*time.Millisecond) != nil {
					return
				}
			}
		}
		both.Go(func() { pour(up, c) })
		both.Go(func() { pour(c, up) })
		both.Wait()
	})
}

// A control plane that answers slowly serves in the end, and meanwhile what was there before it does.
func TestSlowControlPlane(t *testing.T) {
	t.Parallel()
	envoys := agenttest.Envoys(t)
	t.Run("bytes that drip", func(t *testing.T) {
		t.Parallel()
		p := newProxy(t, envoys[len(envoys)-1])
		slow := dripping(t, p.control.Addr)
		p.set("APPMESH_XDS_ENDPOINT=http://" + slow.listener.Addr().String())
		r := p.start(t)
		r.serves(t, 1, "first")
		p.unbroken(t, func() {
			p.say("second")
			r.serves(t, 1, "second")
		})
		if n := slow.taken.Load(); n != 1 {
			t.Errorf("%d connections: it was given up", n)
		}
		r.hurries(t)
	})
	t.Run("AGENT-043 a first answer that takes long: Envoy waits for it", func(t *testing.T) {
		t.Parallel()
		p := newProxy(t, envoys[0])
		p.silence(true)
		r := p.start(t)
		r.waits(t, "starting main dispatch loop")
		testenv.Eventually(t, "its stream", func() bool { return p.opened() == 1 })
		must(t, pause.For(t.Context(), 5*time.Second)) // longer than anything that could give up
		if r.isOver() || p.opened() != 1 || p.ask(t.Context()) != "" {
			t.Fatalf("%d streams, want the one that waits", p.opened())
		}
		p.silence(false)
		r.serves(t, 1, "first")
		r.hurries(t)
	})
	t.Run("one that never answers: the last good configuration is served, until it does", func(t *testing.T) {
		t.Parallel()
		p := newProxy(t, envoys[0])
		r := p.start(t)
		r.serves(t, 1, "first")
		testenv.Eventually(t, "it is kept", func() bool { return lastGood(p.at("state")) })
		signal(t, r.pid(), syscall.SIGKILL)
		testenv.Eventually(t, "nobody is left", func() bool { return len(p.processes()) == 0 })
		p.silence(true)
		r = p.start(t)
		r.serves(t, 1, "first")
		if !r.says("the last good configuration is served") {
			t.Error("the log does not say so")
		}
		p.unbroken(t, func() {
			p.silence(false)
			p.say("second")
			r.serves(t, 1, "second")
		})
		r.hurries(t)
	})
}
