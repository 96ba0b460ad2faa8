package relay

import (
	"context"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/stats"

	"github.com/evermesh/evermesh/internal/agent/agenttest"
	"github.com/evermesh/evermesh/internal/testenv"
)

// connections counts those that a control plane takes.
type connections struct{ opened, closed atomic.Int32 }

func (*connections) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }
func (*connections) HandleRPC(context.Context, stats.RPCStats)                       {}

func (*connections) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

func (c *connections) HandleConn(_ context.Context, s stats.ConnStats) {
	switch s.(type) {
	case *stats.ConnBegin:
		c.opened.Add(1)
	case *stats.ConnEnd:
		c.closed.Add(1)
	}
}

// isReady waits until the connection that waits for Envoy is open.
func isReady(t *testing.T, r *Relay) {
	t.Helper()
	testenv.Eventually(t, "a connection waits for Envoy", func() bool {
		r.upstreams.mu.Lock()
		defer r.upstreams.mu.Unlock()
		return r.upstreams.ready != nil && r.upstreams.ready.conn.GetState() == connectivity.Ready
	})
}

func answered(t *testing.T, client discoveryv3.AggregatedDiscoveryServiceClient) {
	t.Helper()
	s, err := client.DeltaAggregatedResources(agenttest.Within(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: "type"}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Recv(); err != nil {
		t.Fatal(err)
	}
}

func TestPrepare(t *testing.T) {
	t.Parallel()
	t.Run("Envoy's first stream finds a connection, the second one has its own", func(t *testing.T) {
		t.Parallel()
		var seen connections
		c := agenttest.NewControlPlane(t, "", grpc.StatsHandler(&seen))
		r, client := proven(t, "http://"+c.Addr)
		r.Prepare()
		isReady(t, r)
		for want := int32(1); want <= 2; want++ {
			answered(t, client)
			if got := seen.opened.Load(); got != want {
				t.Errorf("%d connections, want %d", got, want)
			}
		}
	})
	t.Run("one that nobody takes ends with the relay", func(t *testing.T) {
		t.Parallel()
		var seen connections
		c := agenttest.NewControlPlane(t, "", grpc.StatsHandler(&seen))
		r, _ := proven(t, "http://"+c.Addr)
		r.Prepare()
		isReady(t, r)
		r.Close()
		testenv.Eventually(t, "it is closed", func() bool { return seen.opened.Load() == 1 && seen.closed.Load() == 1 })
	})
	t.Run("one that broke meanwhile costs no stream", func(t *testing.T) {
		t.Parallel()
		gone := agenttest.NewControlPlane(t, "")
		r, client := proven(t, "http://"+gone.Addr)
		r.Prepare()
		isReady(t, r)
		r.upstreams.mu.Lock()
		conn := r.upstreams.ready.conn
		r.upstreams.mu.Unlock()
		gone.Stop()
		testenv.Eventually(t, "it is lost", func() bool { return conn.GetState() != connectivity.Ready })
		agenttest.NewControlPlane(t, gone.Addr)
		answered(t, client)
	})
	t.Run("where nobody listens the stream says so", func(t *testing.T) {
		t.Parallel()
		r, client := proven(t, "http://"+testenv.FreeAddress(t))
		r.Prepare()
		s, err := client.DeltaAggregatedResources(agenttest.Within(t))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Recv(); err == nil {
			t.Error("it was answered")
		}
	})
}

// The endpoint that the connection was made to has had its turn when the connection comes to nothing: it comes after the
// others as one that a stream tried (EMS-058). The order of the others is random, so once proves nothing; and where the
// stream comes to the other one first, the round shows nothing.
func TestPreparedInVain(t *testing.T) {
	t.Parallel()
	c := agenttest.NewControlPlane(t, "")
	for shown := 0; shown < 10; {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close() //nolint:errcheck // a second time
		r, client := proven(t, "http://"+c.Addr+",http://"+l.Addr().String())
		one, dead := r.upstreams.endpoints[0], r.upstreams.endpoints[1]
		r.upstreams.putBehind(one, time.Now().Add(time.Hour)) // so that the dead one is what is connected to
		r.Prepare()
		conn, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		r.upstreams.putBehind(one, time.Time{})
		waits := func() bool {
			r.upstreams.mu.Lock()
			defer r.upstreams.mu.Unlock()
			return r.upstreams.ready != nil
		}
		testenv.Eventually(t, "the connection waits for the stream", waits)
		done := make(chan struct{})
		go func() { defer close(done); answered(t, client) }()
		testenv.Eventually(t, "the stream waits for the connection", func() bool { return !waits() })
		_ = l.Close()
		_ = conn.Close()
		<-done
		r.upstreams.mu.Lock()
		tried, behind := r.upstreams.faulty[dead.Address].count > 0, r.upstreams.behind[dead]
		r.upstreams.mu.Unlock()
		if tried {
			shown++
			if behind.IsZero() {
				t.Fatalf("%s comes first, which has just failed", dead)
			}
		}
		r.Close()
	}
}

// What takes the connection made ahead and says nothing is told in the words that a stream's own connection would have.
func TestPreparedSilence(t *testing.T) {
	t.Parallel()
	silent, _ := raw(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	r, client := proven(t, "https://"+silent)
	r.Prepare()
	testenv.Eventually(t, "the connection waits for the stream", func() bool {
		r.upstreams.mu.Lock()
		defer r.upstreams.mu.Unlock()
		return r.upstreams.ready != nil
	})
	for range 5 {
		agenttest.Tick(t) // as Envoy comes later
	}
	if _, err := openDelta(t, client).Recv(); err == nil {
		t.Error("it was answered")
	}
	f := r.Report().Endpoints[0].Failures
	if len(f) != 1 || f[0].Step != StepTLS || f[0].Reason != errLate.Error() || !strings.Contains(f[0].Do, "says nothing") {
		t.Errorf("got %q", r.Report().Lines())
	}
}

// An address has its turn once, however long ago that was when the endpoint's others are tried.
func TestTriedOnce(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	r, _ := proven(t, "http://"+l.Addr().String())
	e := r.upstreams.endpoints[0]
	none := &noAnswer{tried: []attempt{{e, &Failure{Endpoint: e.String(), Address: e.Address, Step: StepTCP, Reason: "for a reason"}}}}
	if up := r.upstreams.tryEndpoint(t.Context(), e, "/"+adsService+"/"+delta, none); up != nil {
		t.Error("it took a stream")
	}
	if len(none.tried) != 1 || !strings.Contains(none.Error(), e.String()+": TCP failed: for a reason") {
		t.Errorf("tried %d times: %v", len(none.tried), none)
	}
	if first := r.upstreams.order(); r.upstreams.behind[first[0]].IsZero() {
		t.Error("the endpoint does not come after others")
	}
}
