//go:build linux

package stage

import (
	"context"
	"net"
	"sync"

	"github.com/evermesh/evermesh/test/ground"
)

// Gate stands before a server's address and passes connections on, both ways. Closed it holds what they carry: nothing
// arrives, nothing is refused, and all of it goes on when the gate opens, as on a network that loses every packet for a
// while.
type Gate struct {
	// Addr is where it listens, host:port.
	Addr string

	host     *ground.Host
	target   string
	listener net.Listener
	running  sync.WaitGroup

	mu    sync.Mutex
	open  chan struct{} // closed while the gate is open
	conns map[net.Conn]bool
	ended bool
}

// NewGate opens a gate on the host's addr, before target. The caller must End it.
func NewGate(h *ground.Host, addr, target string) (*Gate, error) {
	l, err := h.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	g := &Gate{Addr: l.Addr().String(), host: h, target: target, listener: l, open: make(chan struct{}), conns: map[net.Conn]bool{}}
	close(g.open)
	g.running.Go(g.accept)
	return g, nil
}

// Hold lets nothing through any more, until Release.
func (g *Gate) Hold() {
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-g.open:
		g.open = make(chan struct{})
	default:
	}
}

// Release lets everything through that was held, and what comes.
func (g *Gate) Release() {
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-g.open:
	default:
		close(g.open)
	}
}

// End takes the gate away, with all its connections.
func (g *Gate) End() {
	g.mu.Lock()
	g.ended = true
	for c := range g.conns {
		_ = c.Close() // a copy that fails is the purpose
	}
	g.mu.Unlock()
	g.Release()
	_ = g.listener.Close()
	g.running.Wait()
}

func (g *Gate) accept() {
	for {
		near, err := g.listener.Accept()
		if err != nil {
			return
		}
		if g.keep(near) {
			g.running.Go(func() { g.serve(near) })
		}
	}
}

// serve connects the caller to the target once the gate is open.
func (g *Gate) serve(near net.Conn) {
	defer g.drop(near)
	g.wait()
	far, err := g.host.Dial(context.Background(), "tcp", g.target)
	if err != nil || !g.keep(far) {
		return
	}
	defer g.drop(far)
	g.running.Go(func() {
		g.pass(far, near)
		_ = near.Close() // ends the other direction
	})
	g.pass(near, far)
}

// pass copies what comes, when the gate is open; the end of one side is the other's.
func (g *Gate) pass(from, to net.Conn) {
	defer to.Close()
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		g.wait()
		if n > 0 {
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (g *Gate) wait() {
	g.mu.Lock()
	open := g.open
	g.mu.Unlock()
	<-open
}

// keep notes a connection, to be closed at the end; it refuses one that comes after.
func (g *Gate) keep(c net.Conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ended {
		_ = c.Close()
		return false
	}
	g.conns[c] = true
	return true
}

func (g *Gate) drop(c net.Conn) {
	_ = c.Close()
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.conns, c)
}
