package ads

import (
	"context"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/test/bufconn"

	"github.com/evermesh/evermesh/internal/ads/adstest"
	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/envoy"
)

// inBubble runs a test on a clock of its own: hours pass in milliseconds.
func inBubble(t *testing.T, f func(t *testing.T, r *rig, conn *grpc.ClientConn)) {
	synctest.Test(t, func(t *testing.T) {
		r := bareRig(nil)
		l := bufconn.Listen(1 << 16)
		ctx, stop := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- r.Serve(ctx, l, nil) }()
		r.give("a", simple())
		conn, err := grpc.NewClient("passthrough:bubble", grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }),
			grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second, PermitWithoutStream: true}))
		adstest.Must(t, err)
		f(t, r, conn)
		adstest.Must(t, conn.Close())
		stop()
		adstest.Must(t, <-done)
		synctest.Wait()
	})
}

func TestAStreamThatAsksForNothingEnds(t *testing.T) {
	inBubble(t, func(t *testing.T, _ *rig, conn *grpc.ClientConn) {
		s := adstest.Open(t, conn, adstest.Options{Node: nodeID("a"), Delta: true})
		if _, err := s.Recv(); err == nil {
			t.Fatal("something was sent")
		} else if code, _ := adstest.Status(err); code != codes.DeadlineExceeded {
			t.Errorf("ended with %v", code)
		}
	})
}

// Pings every 10 s are no reason to end a connection, half an hour is one to end
// a stream.
func TestAStreamLastsHalfAnHourOfPings(t *testing.T) {
	t.Run("EMS-008 EMS-062", halfAnHour)
}

func halfAnHour(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig, conn *grpc.ClientConn) {
		began := time.Now()
		s := adstest.Open(t, conn, adstest.Options{Node: nodeID("a"), Delta: true})
		feed(t, s)
		if _, err := s.Recv(); err == nil {
			t.Fatal("something was sent")
		} else if code, text := adstest.Status(err); code != codes.OK || text != "" {
			t.Errorf("ended with %v, %q", code, text)
		}
		if took := time.Since(began); took < 27*time.Minute || took > 33*time.Minute {
			t.Errorf("the stream lasted %v", took)
		}
		if got := conn.GetState().String(); got != "READY" {
			t.Errorf("the connection is %s", got)
		}
	})
}

func TestASilentProxyIsGivenItsRoutesAndNoted(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig, conn *grpc.ClientConn) {
		s := adstest.Open(t, conn, adstest.Options{Node: nodeID("a"), Delta: true})
		feed(t, s)
		newer := simple()
		newer[envoy.Cluster] = append(newer[envoy.Cluster], resource("c", "1"))
		newer[envoy.Route] = []*envoy.Resource{routeOf("r", virtualHost("x", "1", "a"), virtualHost("y", "2", "c"))}
		r.give("a", newer)
		s.Expect(t, "cds c") // and no answer
		sent := time.Now()
		got, err := s.Recv()
		adstest.Must(t, err)
		if waited := time.Since(sent); got.String() != "rds r" || waited != testSilence {
			t.Errorf("got %q after %v", got, waited)
		}
		if got := r.notes("a"); got != "Its clusters have not been acknowledged for 30s: routes were sent without." {
			t.Errorf("the ledger says %q", got)
		}
		if got := r.state("a"); got != api.ProxyStatePending {
			t.Errorf("state is %s", got)
		}
	})
}

func TestUnknownEndpointsAreNoted(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig, conn *grpc.ClientConn) {
		unknown := simple()
		unknown[envoy.LoadAssignment] = nil
		r.give("a", unknown)
		s := adstest.Open(t, conn, adstest.Options{Node: nodeID("a"), Delta: true})
		adstest.Must(t, s.Send(adstest.Request{Type: adstest.CDS}))
		s.Expect(t, "cds a b")
		asked := time.Now()
		adstest.Must(t, s.Send(adstest.Request{Type: adstest.EDS, Subscribe: []string{"b"}}))
		got, err := s.Recv()
		adstest.Must(t, err)
		if waited := time.Since(asked); got.String() != "eds b" || waited != testPatience {
			t.Errorf("got %q after %v", got, waited)
		}
		if got := r.notes("a"); got != "Endpoints of b are not known: it was given an empty set." {
			t.Errorf("the ledger says %q", got)
		}
	})
}

func TestEndsAreSpreadOverADrain(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig, conn *grpc.ClientConn) {
		const n = 5
		ends := make(chan time.Duration, n)
		var began time.Time
		for range n {
			s := adstest.Open(t, conn, adstest.Options{Node: nodeID("a"), Delta: true})
			feed(t, s)
			go func() {
				_, err := s.Recv()
				if code, text := adstest.Status(err); code != codes.OK || text != "" {
					t.Errorf("ended with %v, %q", code, text)
				}
				ends <- time.Since(began)
			}()
		}
		began = time.Now()
		r.Drain(t.Context(), 20*time.Second)
		seen := map[time.Duration]bool{}
		for range n {
			seen[<-ends] = true
		}
		for i := range n {
			if at := 20 * time.Second * time.Duration(i) / n; !seen[at] {
				t.Errorf("no stream ended at %v; ends were at %v", at, seen)
			}
		}
	})
}

// The end of a drain's last stream arrives, although the server goes at once.
func TestTheLastEndOfADrainArrives(t *testing.T) {
	for range 50 {
		r := bareRig(nil)
		l := bufconn.Listen(1 << 16)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- r.Serve(ctx, l, nil) }()
		r.give("a", simple())
		conn, err := grpc.NewClient("passthrough:last", grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
		adstest.Must(t, err)
		s := adstest.Open(t, conn, adstest.Options{Node: nodeID("a"), Delta: true})
		feed(t, s)
		r.Drain(t.Context(), 0)
		stop()
		if code, text := s.End(t); code != codes.OK {
			t.Fatalf("ended with %v, %q", code, text)
		}
		adstest.Must(t, <-done)
		adstest.Must(t, conn.Close())
	}
}
