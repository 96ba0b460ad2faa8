package main

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/evermesh/evermesh/internal/ads"
)

// Who sends a part of a request holds nobody up on the port of the streams, and nobody
// asks there more often than at the API.
func TestRequestsBesideStreamsAreBounded(t *testing.T) {
	t.Parallel()
	e, key := newEtcd(t).start(t), masterKey(t)
	p := start(t, t.TempDir(), "--auth", "off", "--etcd-endpoints", e.endpoint, "--master-key-file", key, "--api-rate", "20")
	cloudMapMesh(t, p, "red")
	r := newRegistrar(t, p)
	red := r.service("red")
	r.register(red, "one", "10.0.0.1")
	r.register(red, "two", "10.0.0.2")
	p.proxyOf(t, "red", "r-1", true, "10.0.0.1/24")
	p.known(t, "r-1")
	for name, header := range map[string]string{"a body that does not come": "Content-Length: 10", "chunks that do not come": "Transfer-Encoding: chunked"} {
		t.Run(name, func(t *testing.T) {
			var open []net.Conn
			for range xdsRequests + 10 {
				c, err := net.Dial("tcp", p.xds(t))
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				fmt.Fprintf(c, "PUT /evermesh/v1/proxies/x/drain HTTP/1.1\r\nHost: x\r\n%s\r\n\r\n", header)
				open = append(open, c)
			}
			if status, _, body := p.drain(t, http.MethodPut, "r-1"); status != http.StatusOK {
				t.Errorf("meanwhile: %d %s", status, body)
			}
			for _, c := range open {
				_ = c.SetDeadline(time.Now().Add(within))
				text, err := io.ReadAll(c)
				if err != nil || !strings.HasPrefix(string(text), "HTTP/1.1 400") || !strings.Contains(string(text), "must have no body") {
					t.Fatalf("it gets %q, %v", text, err)
				}
			}
		})
	}
	t.Run("who asks too often", func(t *testing.T) {
		var mu sync.Mutex
		answers := map[int]int{}
		// A busy machine may answer the first ones as slowly as they are allowed.
		eventually(t, "some are refused and some not", func() bool {
			var asking sync.WaitGroup
			for range 100 {
				asking.Go(func() {
					status, _, _ := p.drain(t, http.MethodPut, "nobody")
					mu.Lock()
					defer mu.Unlock()
					answers[status]++
				})
			}
			asking.Wait()
			return answers[http.StatusTooManyRequests] > 0 && answers[http.StatusNotFound] > 0
		})
		if len(answers) > 2 {
			t.Errorf("answers: %v", answers)
		}
	})
}

// counted counts what is read from a connection.
type counted struct {
	net.Conn
	bytes int
}

func (c *counted) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.bytes += n
	return n, err
}

// A connection with TLS that makes room is cut: its peer is told nothing, and not waited
// for.
func TestConnectionsBesideStreamsMakeRoom(t *testing.T) {
	t.Parallel()
	certified := httptest.NewTLSServer(http.NotFoundHandler())
	certificates := certified.TLS.Certificates
	certified.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	creds, others := ads.Beside(credentials.NewTLS(&tls.Config{Certificates: certificates, NextProtos: []string{"h2", "http/1.1"}, MinVersion: tls.VersionTLS12}))
	streams := grpc.NewServer(grpc.Creds(creds))
	web := httpServer(http.NotFoundHandler(), nil, slog.New(slog.DiscardHandler), 1)
	idle, state := make(chan struct{}, 2), web.ConnState
	web.ConnState = func(c net.Conn, s http.ConnState) {
		state(c, s)
		if s == http.StateIdle {
			idle <- struct{}{}
		}
	}
	var serving sync.WaitGroup
	serving.Go(func() { _ = streams.Serve(l) })
	serving.Go(func() { _ = web.Serve(others) })
	t.Cleanup(func() {
		_ = web.Close()
		streams.Stop()
		serving.Wait()
	})
	connect := func() (net.Conn, *counted) {
		raw, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		below := &counted{Conn: raw}
		c := tls.Client(below, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
		t.Cleanup(func() { c.Close() })
		fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		return c, below
	}
	read := func(c net.Conn) *bufio.Reader {
		b := bufio.NewReader(c)
		resp, err := http.ReadResponse(b, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		return b
	}
	first, below := connect()
	waiting, before := read(first), below.bytes
	<-idle // only then it may make room
	second, _ := connect()
	read(second)
	_ = first.SetReadDeadline(time.Now().Add(within))
	if _, err := waiting.ReadByte(); !errors.Is(err, io.EOF) || below.bytes != before {
		t.Errorf("the first one ends with %v, after %d bytes", err, below.bytes-before)
	}
}
