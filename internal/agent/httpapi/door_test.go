package httpapi

import (
	"bufio"
	"errors"
	"net"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/agent/agenttest"
	"github.com/evermesh/evermesh/internal/testenv"
)

// farListener has connections that come from elsewhere.
type farListener struct{ net.Listener }

type farConn struct{ net.Conn }

func (l farListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return farConn{c}, err
}

func (farConn) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(10, 9, 9, 9), Port: 1} }

// far serves v to callers from elsewhere, too, and returns a function that connects as one.
func far(t *testing.T, v *Server) (connect func() net.Conn) {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() { defer close(served); _ = v.http.Serve(farListener{l}) }()
	t.Cleanup(func() { v.Close(); <-served })
	return func() net.Conn {
		c, err := new(net.Dialer).DialContext(agenttest.Within(t), "tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
}

// request asks over the connection, and returns the answer's code; 0 for a connection that was closed.
func request(t *testing.T, c net.Conn) int {
	t.Helper()
	_ = c.SetDeadline(time.Now().Add(agenttest.Wait))
	if _, err := c.Write([]byte("GET /status HTTP/1.1\r\nHost: agent\r\n\r\n")); err != nil {
		return 0
	}
	answer, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return 0
	}
	_ = answer.Body.Close()
	return answer.StatusCode
}

// Whoever reaches the port from elsewhere takes nothing from this host's callers, which end jobs.
func TestCallersFromElsewhere(t *testing.T) {
	quits := 0
	_, v, ask := newTestServer(t, time.Hour, func(o *ServerOptions) { o.Quit = func() { quits++ } })
	v.doors.far.limiter.SetLimit(0) // a slow machine does not ask so often
	connect := far(t, v)
	c := connect()
	for code := 0; code != http.StatusTooManyRequests; {
		if code = request(t, c); code == 0 {
			t.Fatal("closed")
		}
	}
	held := []net.Conn{c}
	for range 3 * mostConnections {
		held = append(held, connect())
	}
	if code, text := ask(http.MethodPost, "/quit", ""); code != http.StatusOK || quits != 1 {
		t.Errorf("got %d %s", code, text)
	}
	// The last of them are taken from the system's queue when it suits the server: all but so many are closed in the end.
	closed := map[net.Conn]bool{}
	testenv.Eventually(t, "those beyond the bound are closed", func() bool {
		for _, c := range held {
			_ = c.SetReadDeadline(time.Now().Add(time.Millisecond))
			if _, err := c.Read(make([]byte, 1)); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
				closed[c] = true
			}
		}
		return len(held)-len(closed) <= mostConnections
	})
	for _, c := range held {
		if !closed[c] && request(t, c) == 0 {
			t.Error("one within the bound is closed")
		}
	}
	if len(held)-len(closed) != mostConnections {
		t.Errorf("%d are open, want %d", len(held)-len(closed), mostConnections)
	}
	if code := request(t, connect()); code == 0 {
		t.Error("a new one is not answered")
	}
}

// What is sent slowly, or not at all, is not waited for.
func TestTimesOfTheServer(t *testing.T) {
	_, v, _ := newTestServer(t, time.Hour)
	h := v.http
	for what, d := range map[string]time.Duration{"header": h.ReadHeaderTimeout, "request": h.ReadTimeout, "answer": h.WriteTimeout, "next request": h.IdleTimeout} {
		if d <= 0 || d > time.Minute {
			t.Errorf("time for the %s: %s", what, d)
		}
	}
	if h.MaxHeaderBytes <= 0 || h.MaxHeaderBytes > 16<<10 {
		t.Errorf("bytes of a header: %d", h.MaxHeaderBytes)
	}
}
