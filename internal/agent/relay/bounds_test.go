package relay

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/evermesh/evermesh/internal/agent/agenttest"
	"github.com/evermesh/evermesh/internal/testenv"
)

type (
	deltaServer = discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer
	deltaClient = discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesClient
)

// relayMode is a relay for Envoys that others run, before that control plane.
func relayMode(t *testing.T, endpoint string, lines ...string) (*Relay, discoveryv3.AggregatedDiscoveryServiceClient) {
	t.Helper()
	return newTestRelay(t, append([]string{
		"APPNET_ENABLE_RELAY_MODE_FOR_XDS=1", "APPMESH_XDS_ENDPOINT=" + endpoint, "EVERMESH_TOKEN_FILE=" + write(t, "token", "a.b.c"),
	}, lines...)...)
}

func openDelta(t *testing.T, client discoveryv3.AggregatedDiscoveryServiceClient) deltaClient {
	t.Helper()
	s, err := client.DeltaAggregatedResources(agenttest.Within(t))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// smallEnvoy is an Envoy that takes 64 KiB before it reads, and not more the faster it is.
func smallEnvoy(t *testing.T, r *Relay) discoveryv3.AggregatedDiscoveryServiceClient {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+r.listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithStaticStreamWindowSize(leastWindow), grpc.WithStaticConnWindowSize(leastWindow))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return discoveryv3.NewAggregatedDiscoveryServiceClient(conn)
}

func TestIdleStreams(t *testing.T) {
	t.Parallel()
	const idle = time.Second
	t.Run("one on which nothing is said ends, and its endpoint has not failed", func(t *testing.T) {
		t.Parallel()
		c := agenttest.NewControlPlane(t, "")
		r, client := relayMode(t, "http://"+c.Addr, "RELAY_STREAM_IDLE_TIMEOUT=0.4s")
		s := openDelta(t, client)
		if err := s.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: "hello"}); err != nil {
			t.Fatal(err)
		}
		var err error
		for err == nil { // the answer, if it comes in time
			_, err = s.Recv()
		}
		if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "for 400ms (RELAY_STREAM_IDLE_TIMEOUT)") {
			t.Errorf("got %v", err)
		}
		if f := r.upstreams.fault(c.Addr); f.count > 0 {
			t.Errorf("the end counts as a failure: %+v", f)
		}
	})
	t.Run("one that the control plane never answers, too", func(t *testing.T) {
		t.Parallel()
		c := agenttest.NewControlPlane(t, "")
		c.ServeDelta(func(s deltaServer) error { <-s.Context().Done(); return nil })
		r, client := relayMode(t, "http://"+c.Addr, "RELAY_STREAM_IDLE_TIMEOUT=400ms")
		if _, err := openDelta(t, client).Recv(); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "RELAY_STREAM_IDLE_TIMEOUT") {
			t.Errorf("got %v", err)
		}
		if f := r.upstreams.fault(c.Addr); f.count > 0 {
			t.Errorf("the end counts as a failure: %+v", f)
		}
	})
	t.Run("one whose Envoy does not read, too", func(t *testing.T) {
		t.Parallel()
		c := agenttest.NewControlPlane(t, "")
		var open atomic.Int32
		c.ServeDelta(func(s deltaServer) error {
			open.Add(1)
			defer open.Add(-1)
			for {
				if err := s.Send(&discoveryv3.DeltaDiscoveryResponse{TypeUrl: "t", RemovedResources: []string{strings.Repeat("x", pieceSize)}}); err != nil {
					return err
				}
			}
		})
		r, _ := relayMode(t, "http://"+c.Addr, "RELAY_STREAM_IDLE_TIMEOUT=400ms", "RELAY_BUFFER_LIMIT_BYTES=65536")
		client := smallEnvoy(t, r)
		var s deltaClient
		testenv.Eventually(t, "it is served", func() bool { // not at once, where this machine stands still before
			s = openDelta(t, client)
			head, err := s.Header()
			return err == nil && head != nil
		})
		testenv.Eventually(t, "the control plane's stream has ended", func() bool { return open.Load() == 0 })
		testenv.Eventually(t, "not connected", func() bool { on, _ := r.Connected(); return !on })
		var err error
		for err == nil { // what was on its way
			_, err = s.Recv()
		}
		if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "RELAY_STREAM_IDLE_TIMEOUT") {
			t.Errorf("got %v", err)
		}
		if f := r.upstreams.fault(c.Addr); f.count > 0 {
			t.Errorf("the end counts as a failure: %+v", f)
		}
	})
	for name, of := range map[string]struct{ envoy, control bool }{"while Envoy speaks": {envoy: true}, "while the control plane speaks": {control: true}} {
		t.Run("not "+name, func(t *testing.T) {
			t.Parallel()
			c := agenttest.NewControlPlane(t, "")
			more := make(chan struct{})
			c.ServeDelta(func(s deltaServer) error {
				for {
					if _, err := s.Recv(); err != nil {
						return nil
					}
					if err := s.Send(&discoveryv3.DeltaDiscoveryResponse{TypeUrl: "hello"}); err != nil || of.envoy {
						continue
					}
					for range more {
						if err := s.Send(&discoveryv3.DeltaDiscoveryResponse{TypeUrl: "hello"}); err != nil {
							return err
						}
					}
				}
			})
			defer close(more)
			_, client := relayMode(t, "http://"+c.Addr, "RELAY_STREAM_IDLE_TIMEOUT="+idle.String())
			s := openDelta(t, client)
			if err := s.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: "hello"}); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			last, before := began, began // when the last word was asked for, and the one before it
			for ; last.Sub(began) < 3*idle; agenttest.Tick(t) {
				if _, err := s.Recv(); err != nil {
					if quiet := time.Since(before); quiet < idle {
						t.Errorf("it ended after %s: %v", quiet, err)
					}
					t.Logf("this machine stood still for a moment: %v", err)
					return
				}
				before, last = last, time.Now()
				if !of.envoy {
					select {
					case more <- struct{}{}:
					case <-s.Context().Done():
					}
				} else if err := s.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: "t"}); err != nil && !errors.Is(err, io.EOF) {
					t.Fatal(err)
				}
			}
		})
	}
	t.Run("none, without the mode", func(t *testing.T) {
		t.Parallel()
		c := agenttest.NewControlPlane(t, "")
		r, _ := newTestRelay(t, "APPMESH_XDS_ENDPOINT=http://"+c.Addr, "RELAY_STREAM_IDLE_TIMEOUT="+idle.String(), "EVERMESH_TOKEN_FILE="+write(t, "token", "a.b.c"))
		if b := r.upstreams.bounds; b.Idle != 0 || b.Buffer != 0 || b.Curves != nil {
			t.Errorf("got %+v", b)
		}
	})
}

// pieceSize is how large the messages are that the tests of buffers send.
const pieceSize = 16 << 10

// What the control plane does not answer is not taken from Envoy without end: it has to wait, and loses nothing.
func TestBufferOfRequests(t *testing.T) {
	t.Parallel()
	const all, held = 40, 4 // of a little more than a quarter of the limit
	c := agenttest.NewControlPlane(t, "")
	var came atomic.Int32
	answer := make(chan struct{})
	c.ServeDelta(func(s deltaServer) error {
		r, err := s.Recv()
		if err != nil || r.TypeUrl == "hello" {
			return s.Send(&discoveryv3.DeltaDiscoveryResponse{TypeUrl: "hello"})
		}
		go func() { <-answer; _ = s.Send(&discoveryv3.DeltaDiscoveryResponse{TypeUrl: "t"}) }()
		for came.Add(1) < all {
			if _, err := s.Recv(); err != nil {
				return err
			}
		}
		<-s.Context().Done()
		return nil
	})
	_, client := relayMode(t, "http://"+c.Addr, "RELAY_BUFFER_LIMIT_BYTES=65536")
	s := openDelta(t, client)
	sent := make(chan error, 1)
	go func() {
		for range all {
			if err := s.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: "t", ResourceNamesSubscribe: []string{strings.Repeat("x", pieceSize)}}); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	testenv.Eventually(t, "as much has come as is taken", func() bool { return came.Load() == held })
	for range 3 {
		converse(t, client) // others are served
	}
	if n := came.Load(); n != held {
		t.Errorf("%d requests were taken, want %d", n, held)
	}
	close(answer)
	testenv.Eventually(t, "all has come", func() bool { return came.Load() == all })
	if err := <-sent; err != nil {
		t.Error(err)
	}
}

// What Envoy does not read is not taken from the control plane without end.
func TestBufferOfAnswers(t *testing.T) {
	t.Parallel()
	const all = 256 // 4 MiB
	for _, test := range []struct {
		limit string
		whole bool
	}{{"65536", false}, {"", true}} { // by default ten MiB are taken
		t.Run("limit "+test.limit, func(t *testing.T) {
			t.Parallel()
			c := agenttest.NewControlPlane(t, "")
			var sent atomic.Int32
			c.ServeDelta(func(s deltaServer) error {
				r, err := s.Recv()
				if err != nil || r.TypeUrl == "hello" {
					return s.Send(&discoveryv3.DeltaDiscoveryResponse{TypeUrl: "hello"})
				}
				for range all {
					if err := s.Send(&discoveryv3.DeltaDiscoveryResponse{TypeUrl: "t", RemovedResources: []string{strings.Repeat("x", pieceSize)}}); err != nil {
						return err
					}
					sent.Add(1)
				}
				<-s.Context().Done()
				return nil
			})
			r, client := relayMode(t, "http://"+c.Addr, "RELAY_BUFFER_LIMIT_BYTES="+test.limit)
			s := openDelta(t, smallEnvoy(t, r)) // what is counted is what the relay takes
			if err := s.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: "t"}); err != nil {
				t.Fatal(err)
			}
			if test.whole {
				testenv.Eventually(t, "all is taken", func() bool { return sent.Load() == all })
			} else {
				testenv.Eventually(t, "it is served", func() bool { on, _ := r.Connected(); return on })
				for range 10 {
					converse(t, client)
				}
				if n := sent.Load(); n > all/4 {
					t.Errorf("%d of %d answers were taken", n, all)
				}
			}
			for range all {
				if _, err := s.Recv(); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func TestCurves(t *testing.T) {
	t.Parallel()
	certificate, ca := agenttest.Certificate(t, nil, net.ParseIP("127.0.0.1"))
	c := agenttest.NewControlPlane(t, "", certificate)
	agreed := make(chan tls.CurveID, 1)
	c.ServeDelta(func(s deltaServer) error {
		if p, ok := peer.FromContext(s.Context()); ok {
			if info, ok := p.AuthInfo.(credentials.TLSInfo); ok {
				agreed <- info.State.CurveID
			}
		}
		return s.Send(&discoveryv3.DeltaDiscoveryResponse{TypeUrl: "t"})
	})
	for _, test := range []struct {
		name, env string
		want      tls.CurveID
	}{
		{"by default", "", tls.CurveP256},
		{"as set", "TLS_CURVE=P-521", tls.CurveP521},
		{"two", "TLS_CURVE=X25519:P-384", tls.X25519},
		{"by region", "AWS_REGION=us-isof-south-1", tls.CurveP384},
		{"without the mode, whatever both sides like most", "APPNET_ENABLE_RELAY_MODE_FOR_XDS=0", tls.X25519MLKEM768},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, client := relayMode(t, "https://"+c.Addr, "APPMESH_XDS_CA_FILE="+ca, test.env)
			if _, err := openDelta(t, client).Recv(); err != nil {
				t.Fatal(err)
			}
			if got := <-agreed; got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}
