package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/client"
)

// resident is the memory of a control plane in bytes, as it says itself.
func (p *plane) resident(t *testing.T) float64 {
	t.Helper()
	_, text := p.get(t, "/metrics")
	m := regexp.MustCompile(`(?m)^process_resident_memory_bytes (\S+)$`).FindStringSubmatch(text)
	if m == nil {
		t.Fatal("no process_resident_memory_bytes")
	}
	n, err := strconv.ParseFloat(m[1], 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// Two thousand connections that say nothing, and hundreds that send a header or
// a body bit by bit or do not read their answers, stop nobody else, cost bounded
// memory, and are cut off when their time is over.
func TestTwoThousandIdleAndSlowClients(t *testing.T) {
	t.Parallel()
	p := start(t, t.TempDir())
	ctx := t.Context()
	if err := p.call(ctx, "CreateMesh", api.CreateMeshInput{MeshName: "apps"}, nil); err != nil {
		t.Fatal(err)
	}
	loaded, err := client.Load(ctx, p.dir)
	if err != nil {
		t.Fatal(err)
	}
	caller, err := client.New(loaded)
	if err != nil {
		t.Fatal(err)
	}
	times := func() []time.Duration {
		t.Helper()
		var out []time.Duration
		for i := range 100 {
			start := time.Now()
			in := map[string]any{"meshName": "apps", "virtualNodeName": fmt.Sprint("n", i), "spec": map[string]any{}}
			for _, operation := range []string{"CreateVirtualNode", "DescribeVirtualNode", "DeleteVirtualNode"} {
				if err := caller.Call(ctx, operation, in, nil); err != nil {
					t.Fatal(err)
				}
			}
			out = append(out, time.Since(start))
		}
		slices.Sort(out)
		return out
	}
	alone, memory := times(), p.resident(t)

	address := strings.TrimPrefix(loaded.Endpoint, "http://")
	open := func(text string) net.Conn {
		t.Helper()
		c, err := new(net.Dialer).DialContext(ctx, "tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		if _, err := io.WriteString(c, text); err != nil {
			t.Fatal(err)
		}
		return c
	}
	for range 2000 {
		open("")
	}
	var headers []net.Conn
	for range 200 {
		headers = append(headers, open("GET /v20190125/meshes HTTP/1.1\r\nHost: h\r\nX-Slow: "))
	}
	for i := range 200 { // half of them with more than may be held at once
		open("PUT /v20190125/meshes HTTP/1.1\r\nHost: h\r\nContent-Length: 1048576\r\n\r\n" + strings.Repeat(" ", i%2*80_000+1))
	}
	for range 100 {
		// More answers than the buffers between hold: the server waits for a reader.
		c := open("")
		_ = c.(*net.TCPConn).SetReadBuffer(4096)
		_ = c.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
		many := strings.Repeat("GET /v20190125/meshes HTTP/1.1\r\nHost: h\r\n\r\n", 1000)
		for err := error(nil); err == nil; {
			_, err = io.WriteString(c, many)
		}
	}

	crowded := times()
	for _, c := range headers {
		_, _ = io.WriteString(c, "x") // still at it
	}
	grown := p.resident(t) - memory
	t.Logf("three calls, median and slowest: alone %v %v, crowded %v %v; memory grew by %.0f MiB", alone[50], alone[99], crowded[50], crowded[99], grown/(1<<20))
	if crowded[99] > 5*time.Second || crowded[50] > 20*alone[50]+100*time.Millisecond {
		t.Error("the crowd stops others")
	}
	if grown > 200<<20 {
		t.Error("the crowd costs too much memory")
	}
	for _, c := range headers[:20] {
		_ = c.SetReadDeadline(time.Now().Add(within))
		if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal("a header that never ends is waited for without end")
		}
	}
	if status, body := p.get(t, "/readyz"); status != http.StatusOK {
		t.Errorf("/readyz: %d %s", status, body)
	}
}

// What is too much for a header is refused by name, and a server has times for
// everything that a peer can draw out.
func TestSlowPeersAreCutOff(t *testing.T) {
	t.Parallel()
	log := slog.New(slog.DiscardHandler)
	large := strings.Repeat("answer", 1<<20)
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, large)
	})
	s := httptest.NewUnstartedServer(handler)
	made := httpServer(handler, nil, log, 100)
	for what, d := range map[string]*time.Duration{"header": &made.ReadHeaderTimeout, "request": &made.ReadTimeout, "answer": &made.WriteTimeout, "next request": &made.IdleTimeout} {
		if *d <= 0 {
			t.Errorf("there is no time for the %s", what)
		}
		*d = min(*d, 300*time.Millisecond)
	}
	s.Config = made
	s.Start()
	t.Cleanup(s.Close)
	for name, text := range map[string]string{
		"says nothing":              "",
		"ends no header":            "GET / HTTP/1.1\r\nHost: h\r\n",
		"ends no body":              "PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n",
		"ends no chunk":             "PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n",
		"asks nothing more":         "HEAD / HTTP/1.1\r\nHost: h\r\n\r\n",
		"does not read its answers": strings.Repeat("GET / HTTP/1.1\r\nHost: h\r\n\r\n", 50),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, err := new(net.Dialer).DialContext(t.Context(), "tcp", s.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if _, err := io.WriteString(c, text); err != nil {
				t.Fatal(err)
			}
			if name == "does not read its answers" {
				// Writing tells when the server has hung up; what was sent before that
				// stays readable, and must not be all that was asked for.
				for tick := range time.Tick(20 * time.Millisecond) {
					_ = c.SetWriteDeadline(tick.Add(within))
					if _, err := io.WriteString(c, "G"); err != nil {
						return
					}
				}
			}
			_ = c.SetReadDeadline(time.Now().Add(within))
			if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error("it is waited for without end")
			}
		})
	}
	t.Run("a header over 64 KiB", func(t *testing.T) {
		t.Parallel()
		r, err := http.NewRequestWithContext(t.Context(), "GET", s.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("X-Long", strings.Repeat("a", 70<<10))
		resp, err := s.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("got %s", resp.Status)
		}
	})
}

// Beyond the bound the connection that waited longest makes room; one at work
// does not.
func TestConnectionsAreBounded(t *testing.T) {
	t.Parallel()
	entered, leave := make(chan struct{}), make(chan struct{})
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/work" {
			entered <- struct{}{}
			<-leave
		}
		_, _ = io.WriteString(w, "done\n")
	})
	s := httptest.NewUnstartedServer(handler)
	s.Config = httpServer(handler, nil, slog.New(slog.DiscardHandler), 10)
	s.Start()
	t.Cleanup(s.Close)
	connect := func(path string) (net.Conn, *bufio.Reader) {
		t.Helper()
		c, err := new(net.Dialer).DialContext(t.Context(), "tcp", s.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: h\r\n\r\n", path)
		return c, bufio.NewReader(c)
	}
	_, working := connect("/work")
	<-entered
	var idle []*bufio.Reader
	for range 30 {
		_, r := connect("/")
		if line, err := r.ReadString('\n'); err != nil || line != "HTTP/1.1 200 OK\r\n" {
			t.Fatalf("a new connection gets %q, %v", line, err)
		}
		idle = append(idle, r)
	}
	if _, err := io.Copy(io.Discard, idle[0]); err != nil && !strings.Contains(err.Error(), "reset") {
		t.Errorf("the longest idle: %v", err)
	}
	close(leave)
	if line, err := working.ReadString('\n'); err != nil || line != "HTTP/1.1 200 OK\r\n" {
		t.Errorf("the one at work gets %q, %v", line, err)
	}
}
