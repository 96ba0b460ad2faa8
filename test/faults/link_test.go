//go:build linux

package faults

import (
	"errors"
	"io"
	"net"
	"sync"
	"testing"
)

// link is an address that leads to another one, until it is cut. Cut, it is as a network that lost its route: what is
// sent is taken and goes nowhere, new connections are accepted and silent, nobody is told.
type link struct {
	t       testing.TB
	address string
	target  string
	accept  net.Listener
	running sync.WaitGroup

	mu    sync.Mutex
	cut   chan struct{} // closed while the link is whole
	conns map[net.Conn]bool
}

// newLink opens a link to target, host:port; it ends with the test.
func newLink(t testing.TB, target string) *link {
	t.Helper()
	l := &link{t: t, address: address(t), target: target, cut: make(chan struct{}), conns: map[net.Conn]bool{}}
	close(l.cut)
	var err error
	l.accept, err = net.Listen("tcp", l.address)
	must(t, err)
	l.running.Go(l.serve)
	t.Cleanup(func() {
		_ = l.accept.Close()
		l.drop()
		l.mend()
		l.running.Wait()
	})
	return l
}

// sever cuts the link.
func (l *link) sever() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.whole() {
		l.cut = make(chan struct{})
	}
}

// mend makes it whole again: what was held back arrives, late.
func (l *link) mend() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.whole() {
		close(l.cut)
	}
}

// drop ends every connection, so that whoever has one notices and connects anew.
func (l *link) drop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.conns {
		_ = c.Close()
	}
}

func (l *link) whole() bool {
	select {
	case <-l.cut:
		return true
	default:
		return false
	}
}

// gate waits until the link is whole.
func (l *link) gate() {
	l.mu.Lock()
	cut := l.cut
	l.mu.Unlock()
	<-cut
}

func (l *link) serve() {
	for {
		near, err := l.accept.Accept()
		if err != nil {
			return // closed
		}
		l.hold(near, true)
		l.running.Go(func() { l.carry(near) })
	}
}

func (l *link) hold(c net.Conn, yes bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if yes {
		l.conns[c] = true
		return
	}
	delete(l.conns, c)
	_ = c.Close()
}

func (l *link) carry(near net.Conn) {
	defer l.hold(near, false)
	l.gate()
	far, err := net.Dial("tcp", l.target)
	if err != nil {
		return // the near end learns it by the end of its connection
	}
	l.hold(far, true)
	defer l.hold(far, false)
	var ways sync.WaitGroup
	pump := func(to, from net.Conn) {
		buf := make([]byte, 64<<10)
		for {
			n, err := from.Read(buf)
			l.gate()
			if n > 0 {
				if _, werr := to.Write(buf[:n]); werr != nil {
					err = errors.Join(err, werr)
				}
			}
			if err != nil {
				if !errors.Is(err, io.EOF) {
					_ = from.Close()
				}
				_ = to.Close()
				return
			}
		}
	}
	ways.Go(func() { pump(far, near) })
	ways.Go(func() { pump(near, far) })
	ways.Wait()
}
