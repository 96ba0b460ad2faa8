package meshdns

import (
	"container/list"
	"net"
	"sync"
)

// bounded is a listener of so many connections at once. For one that is one too many
// the oldest is closed: clients ask and go, so that it is one that does nothing.
type bounded struct {
	net.Listener
	most int

	mu   sync.Mutex
	open list.List // of *counted, the oldest first
}

// Accept satisfies net.Listener.
func (b *bounded) Accept() (net.Conn, error) {
	conn, err := b.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &counted{Conn: conn, of: b}
	b.mu.Lock()
	var oldest *counted
	if b.open.Len() >= b.most {
		oldest = b.open.Front().Value.(*counted)
	}
	c.at = b.open.PushBack(c)
	b.mu.Unlock()
	if oldest != nil {
		_ = oldest.Close() // its client finds out
	}
	return c, nil
}

// counted is a connection that its listener counts.
type counted struct {
	net.Conn
	of *bounded
	at *list.Element
}

// Close satisfies net.Conn.
func (c *counted) Close() error {
	c.of.mu.Lock()
	if c.at != nil {
		c.of.open.Remove(c.at)
		c.at = nil
	}
	c.of.mu.Unlock()
	return c.Conn.Close()
}
