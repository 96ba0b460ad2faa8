//go:build linux

package stage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/evermesh/evermesh/test/ground"
)

// appVariable makes a program that uses this package an application: its value is an [App].
const appVariable = "EVERMESH_STAGE_APP"

// App is an application beside which an agent may run: a server of HTTP/1.1, and of HTTP/2 without TLS.
//
// It answers every request 200 with a [Seen] as its body and its name in the header X-App. Request headers make it
// behave: X-Delay: 200ms waits first; X-Hold: ID waits until a request with X-Release: ID has come; X-Status: 503 answers
// with that code; X-Fail: ID,2 does so, or answers 503, for
// the first two requests of that ID alone. X-Reset: ID,2 breaks the connections of the first two. A request to upgrade
// to WebSocket is granted, and what comes is sent back. X-Health: 503 makes it answer checks of its health, which ask for
// /health, with that code from then on, and everything else as before.
type App struct {
	Name   string   `json:"name"`
	Listen []string `json:"listen"` // addresses, such as ":9080"
	// Status is what it answers unless a header says otherwise; 0 is 200.
	Status int `json:"status,omitempty"`
	// Calls makes it a caller: each request is passed on, as POST, to this URL, and answered as that was, with both
	// names in X-App. Anything but an answer becomes a 502.
	Calls string `json:"calls,omitempty"`
	// Env are variables that it finds in its environment, besides.
	Env []string `json:"-"`
}

// Seen is what an App saw of a request.
type Seen struct {
	App    string      `json:"app"`
	Port   int         `json:"port"` // that it came to
	Proto  string      `json:"proto"`
	Method string      `json:"method"`
	Path   string      `json:"path"` // with the query
	Host   string      `json:"host"`
	Header http.Header `json:"header"`
	Body   string      `json:"body,omitempty"`
	Try    int         `json:"try,omitempty"` // of the ID in X-Fail: 1 for the first
	// Delayed is how many requests with X-Delay or X-Hold came so far.
	Delayed int `json:"delayed,omitempty"`
}

// App starts an application on the host, as the ground's own user, and waits until it listens.
func (s *Stage) App(h *ground.Host, a App) (*ground.Process, error) {
	text, err := json.Marshal(a)
	if err != nil {
		return nil, fmt.Errorf("start app %s: %w", a.Name, err)
	}
	p, err := h.Start(ground.Command{Name: "app-" + a.Name, Path: s.Programs.self, Env: append([]string{appVariable + "=" + string(text)}, a.Env...)})
	if err != nil {
		return nil, err
	}
	return p, awaitProcess(context.Background(), p, a.Name+" listens", func(ctx context.Context) bool {
		for _, addr := range a.Listen {
			if strings.HasPrefix(addr, ":") {
				addr = "127.0.0.1" + addr
			}
			conn, err := h.Dial(ctx, "tcp", addr)
			if err != nil || conn.Close() != nil {
				return false
			}
		}
		return true
	})
}

// Play runs the application that this program was started as, to its end, and exits. In a program that was not
// started as one it returns at once.
func Play() {
	text := os.Getenv(appVariable)
	if text == "" {
		return
	}
	var a App
	err := json.Unmarshal([]byte(text), &a)
	if err == nil {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
		err = a.run(ctx)
		stop()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func (a App) run(ctx context.Context) error {
	handler := http.Handler(&answerer{name: a.Name, status: max(a.Status, http.StatusOK), tries: map[string]int{}, gates: map[string]chan struct{}{}})
	if a.Calls != "" {
		handler = &caller{name: a.Name, url: a.Calls}
	}
	// Envoy makes connections for requests that then find another one. Such a connection waits for its first request, which
	// is lost if this side ends it at that moment.
	server := &http.Server{Handler: handler, ReadHeaderTimeout: time.Hour, Protocols: &http.Protocols{}}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetUnencryptedHTTP2(true)
	var running sync.WaitGroup
	failed := make(chan error, len(a.Listen))
	for _, addr := range a.Listen {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			return errors.Join(err, server.Close())
		}
		running.Go(func() {
			if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				failed <- err
			}
		})
	}
	var err error
	select {
	case err = <-failed:
		err = errors.Join(err, server.Close())
	case <-ctx.Done():
		soon, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		err = server.Shutdown(soon)
	}
	running.Wait()
	return err
}

// answerer is an application at the end of the line.
type answerer struct {
	name   string
	status int

	mu      sync.Mutex
	tries   map[string]int           // requests seen, by X-Fail's ID
	ill     int                      // what it answers to checks of its health; 0 for what it answers else
	delayed int                      // requests with X-Delay or X-Hold
	gates   map[string]chan struct{} // by the ID in X-Hold and X-Release; closed when those held may go
}

func (a *answerer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		return // the caller has gone
	}
	if strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		a.echo(w)
		return
	}
	seen := Seen{App: a.name, Proto: r.Proto, Method: r.Method, Path: r.URL.RequestURI(), Host: r.Host, Header: r.Header, Body: string(body)}
	if at, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr); ok {
		seen.Port = at.Port
	}
	status := a.status
	if code, err := strconv.Atoi(r.Header.Get("X-Status")); err == nil {
		status = code
	}
	if code := a.health(r); code != 0 {
		status = code
	}
	delay, _ := time.ParseDuration(r.Header.Get("X-Delay")) // 0 for none
	if try, bad := a.try(r.Header.Get("X-Reset")); try > 0 {
		if seen.Try = try; bad {
			panic(http.ErrAbortHandler) // net/http's way to break a connection
		}
	}
	if try, bad := a.try(r.Header.Get("X-Fail")); try > 0 {
		seen.Try = try
		switch {
		case !bad:
			status, delay = http.StatusOK, 0
		case status == http.StatusOK:
			status = http.StatusServiceUnavailable
		}
	}
	if id := r.Header.Get("X-Release"); id != "" {
		a.release(id)
	}
	hold := r.Header.Get("X-Hold")
	seen.Delayed = a.countDelayed(delay > 0 || hold != "")
	select {
	case <-time.After(delay):
	case <-r.Context().Done():
		return
	}
	if hold != "" {
		select {
		case <-a.gate(hold):
		case <-r.Context().Done():
			return
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-App", a.name)
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(seen) // who has gone reads nothing
}

// health is what a check of it is answered; 0 for other requests, and for one that is well.
func (a *answerer) health(r *http.Request) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	if code, err := strconv.Atoi(r.Header.Get("X-Health")); err == nil {
		a.ill = code
	}
	if r.URL.Path != "/health" {
		return 0
	}
	return a.ill
}

// countDelayed notes a request that is not answered at once, and returns how many there were.
func (a *answerer) countDelayed(late bool) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	if late {
		a.delayed++
	}
	return a.delayed
}

// gate is closed when the requests that it holds may go.
func (a *answerer) gate(id string) chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.gates[id] == nil {
		a.gates[id] = make(chan struct{})
	}
	return a.gates[id]
}

// release lets go what is held, and what comes to be.
func (a *answerer) release(id string) {
	gate := a.gate(id)
	a.mu.Lock()
	defer a.mu.Unlock()
	select {
	case <-gate:
	default:
		close(gate)
	}
}

// echo takes the connection over and sends back what comes.
func (a *answerer) echo(w http.ResponseWriter) {
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer conn.Close()
	_, err = fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX-App: %s\r\n\r\n", a.name)
	if err == nil {
		_, _ = io.Copy(conn, buffered) // ends when the other side has gone
	}
}

// try counts the requests of an ID in "ID,2"; bad are as many as the number says. Without an ID it is 0.
func (a *answerer) try(text string) (try int, bad bool) {
	id, count, ok := strings.Cut(text, ",")
	if !ok {
		return 0, false
	}
	most, _ := strconv.Atoi(count) // 0 for none
	a.mu.Lock()
	defer a.mu.Unlock()
	a.tries[id]++
	return a.tries[id], a.tries[id] <= most
}

// caller is an application that calls another one.
type caller struct {
	name, url string
}

func (c *caller) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// A POST without a body is not repeated by net/http: every failure is seen.
	req, err := http.NewRequestWithContext(r.Context(), http.MethodPost, c.url, http.NoBody)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		http.Error(w, c.name+": "+err.Error(), http.StatusBadGateway)
		return
	}
	defer resp.Body.Close()
	w.Header().Set("X-App", c.name+" "+resp.Header.Get("X-App"))
	w.WriteHeader(resp.StatusCode)
	_, _ = io.Copy(w, resp.Body) // who has gone reads nothing
}
