// Package gate bounds the connections of an HTTP server, so that those that do nothing leave room for others.
package gate

import (
	"container/list"
	"net"
	"net/http"
	"sync"
)

// Gate bounds connections. Beyond the bound the connection that has waited for its next request for the longest is
// closed, which clients take for the end of a kept connection; where none waits, the new one is. Its methods may be
// called by several goroutines.
type Gate struct {
	most int

	mu      sync.Mutex
	open    int
	waiting list.List // of net.Conn, the longest first
	at      map[net.Conn]*list.Element
}

// New makes a Gate for so many connections.
func New(most int) *Gate { return &Gate{most: most, at: map[net.Conn]*list.Element{}} }

// State satisfies http.Server.ConnState.
func (g *Gate) State(c net.Conn, s http.ConnState) {
	if longest := g.note(c, s); longest != nil {
		if t, ok := longest.(interface{ NetConn() net.Conn }); ok { // TLS
			longest = t.NetConn() // a polite end would wait for its peer
		}
		_ = longest.Close() // its server notices, and says that it is closed
	}
}

// note notes a connection's state, and returns the one that is to make room for it.
func (g *Gate) note(c net.Conn, s http.ConnState) (longest net.Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if e := g.at[c]; e != nil {
		g.waiting.Remove(e)
		delete(g.at, c)
	}
	switch s {
	case http.StateNew:
		g.open++
		g.at[c] = g.waiting.PushBack(c)
	case http.StateIdle:
		g.at[c] = g.waiting.PushBack(c)
	case http.StateClosed, http.StateHijacked:
		g.open--
	}
	if first := g.waiting.Front(); s == http.StateNew && g.open > g.most && first != nil {
		longest, _ = first.Value.(net.Conn)
		g.waiting.Remove(first)
		delete(g.at, longest)
	}
	return longest
}
