package platform

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// token is the one that the stand-in gives out.
const token = "AQAAANjUxxhrCdvKmYbAC7S1hkqQ8sjc6uJ3Z0TUVNlPWhJAKQgNVA=="

// instance is what an instance's metadata say.
var instance = map[string]string{
	"placement/region": "us-west-2", "placement/availability-zone": "us-west-2d", "placement/availability-zone-id": "usw2-az2",
}

// standIn takes the place of EC2's instance metadata service, version 2 only as a hardened instance has it, and of ECS's
// task metadata endpoint, whose documents are files in testdata.
type standIn struct {
	*httptest.Server
	opened atomic.Int32 // connections

	mu   sync.Mutex
	asks []string // method and path, with " without a token" for what had none

	// What goes wrong, by method and path: it is called instead.
	wrong map[string]http.HandlerFunc
}

func newStandIn(t *testing.T) *standIn {
	t.Helper()
	return startStandIn(t, nil)
}

// newStandInWithin is one in memory, for a bubble in which no time passes while anybody is at work.
func newStandInWithin(t *testing.T) (*standIn, Machine) {
	t.Helper()
	l := &memory{conns: make(chan net.Conn), closed: make(chan struct{})}
	return startStandIn(t, l), Machine{dial: l.dial}
}

func startStandIn(t *testing.T, l net.Listener) *standIn {
	s := &standIn{wrong: map[string]http.HandlerFunc{}}
	s.Server = httptest.NewUnstartedServer(s)
	if l != nil {
		_ = s.Listener.Close()
		s.Listener = l
	}
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			s.opened.Add(1)
		}
	}
	s.Start()
	t.Cleanup(s.Close)
	return s
}

const tokenAsk = "PUT /latest/api/token"

func (s *standIn) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ask := r.Method + " " + r.URL.Path
	path, instanceAsk := strings.CutPrefix(ask, "GET /latest/meta-data/")
	told := ask
	if instanceAsk && r.Header.Get("X-aws-ec2-metadata-token") == "" {
		told += " without a token"
	}
	s.mu.Lock()
	s.asks = append(s.asks, told)
	s.mu.Unlock()
	document, taskAsk := strings.CutPrefix(ask, "GET /ecs/")
	ttl, err := strconv.Atoi(r.Header.Get("X-aws-ec2-metadata-token-ttl-seconds"))
	switch {
	case s.wrong[ask] != nil:
		s.wrong[ask](w, r)
	case ask == tokenAsk && (err != nil || ttl < 1 || ttl > 21600 || r.Header.Get("X-Forwarded-For") != ""):
		w.WriteHeader(http.StatusBadRequest)
	case ask == tokenAsk:
		fmt.Fprint(w, token)
	case instanceAsk && r.Header.Get("X-aws-ec2-metadata-token") != token:
		w.WriteHeader(http.StatusUnauthorized)
	case instanceAsk && instance[path] != "":
		fmt.Fprint(w, instance[path])
	case taskAsk:
		text, err := os.ReadFile(filepath.Join("testdata", strings.ReplaceAll(document, "/", "-")+".json"))
		if err != nil {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		_, _ = w.Write(text)
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

// asked are the requests that came, sorted.
func (s *standIn) asked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(slices.Values(s.asks))
}

// silent is what a container one hop too far away sees: a connection, and never an answer.
func silent(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

func says(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text) }
}

// cut ends the connection in the middle of an answer.
func cut(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Length", "100")
	_, _ = io.WriteString(w, "usw2")
	_ = http.NewResponseController(w).Flush()
	panic(http.ErrAbortHandler)
}

// once does something else the first time only.
func once(first, then http.HandlerFunc) http.HandlerFunc {
	var mu sync.Mutex
	done := false
	return func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		handler := first
		if done {
			handler = then
		}
		done = true
		mu.Unlock()
		handler(w, r)
	}
}

// memory is a listener whose connections are pipes.
type memory struct {
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

func (m *memory) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	here, there := net.Pipe()
	select {
	case m.conns <- there:
		return here, nil
	case <-m.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (m *memory) Accept() (net.Conn, error) {
	select {
	case c := <-m.conns:
		return c, nil
	case <-m.closed:
		return nil, net.ErrClosed
	}
}

func (m *memory) Close() error {
	m.once.Do(func() { close(m.closed) })
	return nil
}

func (*memory) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 80} }
