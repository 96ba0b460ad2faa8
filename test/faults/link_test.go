//go:build linux

package faults

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/evermesh/evermesh/internal/testenv"
)

// link is an address that leads to another one, until it is cut, wholly or for one sender. Cut, it is as a network that
// lost its route: what is sent is taken and goes nowhere, new connections are accepted and silent, nobody is told.
type link struct {
	t       testing.TB
	address string
	target  string
	accept  net.Listener
	running sync.WaitGroup

	mu    sync.Mutex
	cuts  map[string]chan struct{} // by sender, "" for all; closed when it is mended
	conns map[net.Conn]bool
}

// newLink opens a link to target, host:port; it ends with the test.
func newLink(t testing.TB, target string) *link {
	t.Helper()
	l := &link{t: t, address: testenv.FreeAddress(t), target: target, cuts: map[string]chan struct{}{}, conns: map[net.Conn]bool{}}
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
func (l *link) sever() { l.severFrom("") }

// severFrom cuts it for an etcd member, by its id.
func (l *link) severFrom(sender string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cuts[sender] == nil {
		l.cuts[sender] = make(chan struct{})
	}
}

// mend makes it whole again: what was held back arrives, late.
func (l *link) mend() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for sender, cut := range l.cuts {
		close(cut)
		delete(l.cuts, sender)
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

// gate waits until the link is whole for a sender.
func (l *link) gate(sender string) {
	for _, s := range []string{"", sender} {
		l.mu.Lock()
		cut := l.cuts[s]
		l.mu.Unlock()
		if cut != nil {
			<-cut
		}
	}
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
	l.gate("")
	far, err := net.Dial("tcp", l.target)
	if err != nil {
		return // the near end learns it by the end of its connection
	}
	l.hold(far, true)
	defer l.hold(far, false)
	var ways sync.WaitGroup
	var sender atomic.Value
	sender.Store("")
	ways.Go(func() {
		l.pump(far, near, &sender, func(first []byte) { sender.Store(senderOf(first)) })
	})
	ways.Go(func() { l.pump(near, far, &sender, func([]byte) {}) })
	ways.Wait()
}

func (l *link) pump(to, from net.Conn, sender *atomic.Value, look func([]byte)) {
	buf := make([]byte, 64<<10)
	for first := true; ; first = false {
		n, err := from.Read(buf)
		if first {
			look(buf[:n])
		}
		l.gate(sender.Load().(string))
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

// senderOf is the etcd member that a request between members says it comes from; "" for other requests.
func senderOf(request []byte) string {
	_, rest, _ := bytes.Cut(request, []byte("\r\nX-Server-From: "))
	id, _, found := bytes.Cut(rest, []byte("\r\n"))
	if !found {
		return ""
	}
	return string(id)
}
