package main

import (
	"crypto/tls"
	"log/slog"
	"net/http"
	"syscall"
	"time"

	"github.com/evermesh/evermesh/internal/gate"
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
// and what only waits makes room for others: without that, connections that do
// nothing would use up the descriptors that the store needs.
func httpServer(h http.Handler, c *tls.Config, log *slog.Logger, most int) *http.Server {
	return &http.Server{
		Handler: h, TLSConfig: c, ErrorLog: httpLog(log), ConnState: gate.New(most).State,
		ReadHeaderTimeout: headerTime, ReadTimeout: readTime, WriteTimeout: answerTime, IdleTimeout: idleTime, MaxHeaderBytes: maxHeader,
	}
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
