package main

import (
	"container/list"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"
)

// Times that a caller of the API has. Streams of lines go on beyond them, each
// line with a time of its own.
const (
	headerTime = 10 * time.Second // from the connection, or the answer before
	readTime   = time.Minute      // header and body
	answerTime = 90 * time.Second // from the header's end until the answer is sent
	idleTime   = 2 * time.Minute
	maxHeader  = 64 << 10
)

// httpServer makes a server that lets nobody hold it: what is slow is cut off,
// and what only waits makes room for others.
func httpServer(h http.Handler, c *tls.Config, log *slog.Logger, most int) *http.Server {
	g := &gate{most: most, at: map[net.Conn]*list.Element{}}
	return &http.Server{
		Handler: h, TLSConfig: c, ErrorLog: httpLog(log), ConnState: g.state,
		ReadHeaderTimeout: headerTime, ReadTimeout: readTime, WriteTimeout: answerTime, IdleTimeout: idleTime, MaxHeaderBytes: maxHeader,
	}
}

// gate bounds the connections of a server. Beyond the bound the connection that
// has waited for its next request for the longest is closed, which clients take
// for the end of a kept connection. Without it, connections that do nothing
// would use up the descriptors that the store needs.
type gate struct {
	most    int
	mu      sync.Mutex
	open    int
	waiting list.List // of net.Conn, the longest first
	at      map[net.Conn]*list.Element
}

// state satisfies http.Server.ConnState.
func (g *gate) state(c net.Conn, s http.ConnState) {
	if longest := g.note(c, s); longest != nil {
		if t, ok := longest.(interface{ NetConn() net.Conn }); ok { // TLS
			longest = t.NetConn() // a polite end would wait for its peer
		}
		_ = longest.Close()
	}
}

// note notes a connection's state, and returns the one that is to make room for it.
func (g *gate) note(c net.Conn, s http.ConnState) (longest net.Conn) {
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

// mostConnections is how many connections the API may have: half of what the
// process may open, the rest is for proxies and the store.
func mostConnections() int {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil || limit.Cur > 1<<20 {
		return 1 << 19
	}
	return int(limit.Cur / 2)
}
