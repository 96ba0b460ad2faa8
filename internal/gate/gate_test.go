package gate

import (
	"net"
	"net/http"
	"testing"
)

// conn is a connection that notes whether it was closed.
type conn struct {
	net.Conn
	closed bool
}

func (c *conn) Close() error { c.closed = true; return nil }

// Who has waited for its next request for the longest makes room; who is served does not.
func TestGate(t *testing.T) {
	t.Parallel()
	g := New(2)
	var all [4]conn
	busy, idle, third, fourth := &all[0], &all[1], &all[2], &all[3]
	for _, c := range []*conn{busy, idle} {
		g.State(c, http.StateNew)
		g.State(c, http.StateActive)
	}
	g.State(idle, http.StateIdle)
	g.State(third, http.StateNew)
	if busy.closed || !idle.closed || third.closed {
		t.Errorf("closed: busy %t, idle %t, new %t", busy.closed, idle.closed, third.closed)
	}
	g.State(idle, http.StateClosed)
	g.State(third, http.StateActive)
	g.State(fourth, http.StateNew)
	if !fourth.closed || busy.closed || third.closed {
		t.Error("where all are served the new one is closed")
	}
	g.State(fourth, http.StateClosed)
	if g.open != 2 {
		t.Errorf("%d are open, want 2", g.open)
	}
}
