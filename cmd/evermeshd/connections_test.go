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
	"strings"
	"testing"
	"time"
)

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
		patient := httptest.NewUnstartedServer(handler)
		patient.Config = httpServer(handler, nil, log, 100) // a busy machine sends it slowly
		patient.Start()
		t.Cleanup(patient.Close)
		r, err := http.NewRequestWithContext(t.Context(), "GET", patient.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("X-Long", strings.Repeat("a", 70<<10))
		resp, err := patient.Client().Do(r)
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
