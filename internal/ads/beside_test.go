package ads_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/evermesh/evermesh/internal/ads"
)

// One port takes both: what begins as HTTP/1.1 is handed over whole, all else is gRPC's,
// and who says nothing holds up nobody.
func TestBesideStreamsOthersAreServed(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	creds, others := ads.Beside(nil)
	streams := grpc.NewServer(grpc.Creds(creds))
	healthpb.RegisterHealthServer(streams, health.NewServer())
	web := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.Method, " ", r.URL.Path)
	})}
	ended := make(chan error, 2)
	go func() { ended <- streams.Serve(l) }()
	go func() { ended <- web.Serve(others) }()
	t.Cleanup(func() {
		_ = web.Close()
		streams.Stop()
		<-ended
		<-ended
	})
	silent, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	for _, method := range []string{"PUT", "DELETE", "POST", "GET", "PATCH"} {
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		for range 2 { // the connection is kept
			fmt.Fprintf(conn, "%s /a HTTP/1.1\r\nHost: x\r\n\r\n", method)
			answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatalf("%s: %v", method, err)
			}
			body, err := io.ReadAll(answer.Body)
			answer.Body.Close()
			if got := string(body); err != nil || got != method+" /a" {
				t.Errorf("%s is answered %q, error %v", method, got, err)
			}
		}
	}
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if _, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{}); err != nil {
		t.Errorf("gRPC: %v", err)
	}
}

// Deadlines of who serves the others hold: gRPC takes its own off a connection after it
// has handed it over, and must not take off theirs.
func TestDeadlinesBesideStreams(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	creds, others := ads.Beside(nil)
	streams := grpc.NewServer(grpc.Creds(creds))
	web := &http.Server{ReadHeaderTimeout: 100 * time.Millisecond, Handler: http.NotFoundHandler()}
	ended := make(chan error, 2)
	go func() { ended <- streams.Serve(l) }()
	go func() { ended <- web.Serve(others) }()
	t.Cleanup(func() {
		_ = web.Close()
		streams.Stop()
		<-ended
		<-ended
	})
	for range 50 {
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprint(conn, "PUT /a HTTP/1.1\r\n")
		_ = conn.SetReadDeadline(time.Now().Add(30 * time.Second))
		if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal("a header that does not end is waited for without end")
		}
	}
}
