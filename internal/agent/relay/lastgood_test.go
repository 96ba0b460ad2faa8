package relay

import (
	"context"
	"errors"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/evermesh/evermesh/internal/agent/agenttest"
	"github.com/evermesh/evermesh/internal/testenv"
)

const (
	cdsType = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
	ldsType = "type.googleapis.com/envoy.config.listener.v3.Listener"
)

var self = &corev3.Node{Id: "mesh/m/virtualNode/n"}

// named is a resource of either type.
func named(typ, name string) *anypb.Any {
	return &anypb.Any{TypeUrl: typ, Value: append([]byte{0x0a, byte(len(name))}, name...)}
}

// stream is what an endpoint does with a delta stream.
type stream = func(discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error

// endpoint does with delta streams what it was told last: at first it serves one cluster and one listener.
type endpoint struct {
	*agenttest.ControlPlane
	does atomic.Pointer[stream]
}

func newEndpoint(t *testing.T) *endpoint {
	e := &endpoint{ControlPlane: agenttest.NewControlPlane(t, "")}
	e.do(serveOne)
	e.Delta = func(s discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
		return (*e.does.Load())(s)
	}
	return e
}

func (e *endpoint) do(what stream) { e.does.Store(&what) }

func serveOne(s discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	for {
		r, err := s.Recv()
		if err != nil {
			return nil
		}
		if r.ResponseNonce != "" {
			continue
		}
		answer := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: r.TypeUrl, Nonce: "n", Resources: []*discoveryv3.Resource{
			{Name: "one", Version: "7", Resource: named(r.TypeUrl, "one")},
		}}
		if err := s.Send(answer); err != nil {
			return err
		}
	}
}

// start is what a delta Envoy says that has nothing, and what it is given; the error is the end of its stream. who is the
// nonce of the first answer.
func start(ctx context.Context, client discoveryv3.AggregatedDiscoveryServiceClient) (given []string, who string, end error) {
	s, err := client.DeltaAggregatedResources(ctx)
	if err != nil {
		return nil, "", err
	}
	for _, typ := range []string{cdsType, ldsType} {
		if err := s.Send(&discoveryv3.DeltaDiscoveryRequest{Node: self, TypeUrl: typ}); err != nil && !errors.Is(err, io.EOF) {
			return given, who, err
		}
		r, err := s.Recv()
		if err != nil {
			return given, who, err
		}
		if who == "" {
			who = r.Nonce
		}
		for _, one := range r.Resources {
			given = append(given, one.Name+" "+one.Version)
		}
		if err := s.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: typ, ResponseNonce: r.Nonce}); err != nil && !errors.Is(err, io.EOF) {
			return given, who, err
		}
	}
	if who == "n" { // the control plane's stream goes on
		return given, who, nil
	}
	_, err = s.Recv()
	return given, who, err
}

// returning is an Envoy that has both.
func returning(ctx context.Context, client discoveryv3.AggregatedDiscoveryServiceClient) (time.Duration, error) {
	began := time.Now()
	s, err := client.DeltaAggregatedResources(ctx)
	if err != nil {
		return 0, err
	}
	for _, typ := range []string{cdsType, ldsType} {
		if err := s.Send(&discoveryv3.DeltaDiscoveryRequest{Node: self, TypeUrl: typ, InitialResourceVersions: map[string]string{"one": "7"}}); err != nil {
			break
		}
	}
	_, err = s.Recv()
	return time.Since(began), err
}

// kept is a relay that has kept what its Envoy acknowledged.
func kept(t *testing.T, c *endpoint) (*Relay, discoveryv3.AggregatedDiscoveryServiceClient) {
	t.Helper()
	dir := t.TempDir()
	relay, client := newTestRelay(t, "APPMESH_XDS_ENDPOINT=http://"+c.Addr, "EVERMESH_STATE_DIR="+dir, "EVERMESH_TOKEN_FILE="+write(t, "token", "a.b.c"))
	relay.patience, relay.first = 500*time.Millisecond, testenv.Patience // a busy machine lets Envoy wait for its turn
	ctx, leave := context.WithCancel(agenttest.Within(t))
	defer leave()
	if given, who, err := start(ctx, client); err != nil || who != "n" || !slices.Equal(given, []string{"one 7", "one 7"}) {
		t.Fatalf("got %v from %q, %v", given, who, err)
	}
	testenv.Eventually(t, "it is kept", func() bool { f, _ := filepath.Glob(filepath.Join(dir, "*.lastgood")); return len(f) == 1 })
	leave()
	testenv.Eventually(t, "its stream has ended", func() bool { on, _ := relay.Connected(); return !on })
	return relay, client
}

func TestLastGoodIsServed(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]func(*endpoint){
		"no endpoint there": func(c *endpoint) { c.Stop() },
		"the endpoint is cut off from its store": func(c *endpoint) {
			c.do(func(discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
				return status.Error(codes.Unavailable, "cut off")
			})
		},
		"the endpoint is silent": func(c *endpoint) {
			c.do(func(s discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
				<-s.Context().Done()
				return nil
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newEndpoint(t)
			relay, client := kept(t, c)
			fail(c)
			before, began := c.Count(), time.Now()
			given, who, err := start(agenttest.Within(t), client)
			if !slices.Equal(given, []string{"one 7", "one 7"}) || who == "n" || status.Code(err) != codes.Unavailable || !strings.Contains(status.Convert(err).Message(), "last good configuration") {
				t.Errorf("got %v from %q, %v", given, who, err)
			}
			if took := time.Since(began); took < relay.patience {
				t.Errorf("served after %s", took)
			}
			if serving, _ := relay.LastGood(); !serving {
				t.Error("the relay does not say so")
			}
			if on, _ := relay.Connected(); on {
				t.Error("the relay says that the control plane is there")
			}
			if said := strings.Join(relay.Report().Lines(), "\n"); strings.Contains(said, "canceled") || relay.Report().OK() || name == "the endpoint is silent" && !strings.Contains(said, "had not answered") {
				t.Errorf("the report says %s", said)
			}
			if tries := c.Count() - before; tries > 12 {
				t.Errorf("%d streams in %s: a tight loop", tries, time.Since(began))
			}
			if name == "no endpoint there" {
				// Envoy now has it: it is not held up, and its streams tell the truth at once.
				fastest := time.Hour // of several: the machine may be busy, but not each time
				for range 5 {
					took, err := returning(agenttest.Within(t), client)
					if status.Code(err) != codes.Unavailable {
						t.Errorf("got %v after %s", err, took)
					}
					fastest = min(fastest, took)
				}
				if fastest > time.Second {
					t.Errorf("not once in less than %s", fastest)
				}
			}
		})
	}
}

// An Envoy whose first word comes late is not taken for one that has all.
func TestLastGoodForASlowEnvoy(t *testing.T) {
	t.Parallel()
	c := newEndpoint(t)
	relay, client := kept(t, c)
	relay.patience = time.Millisecond
	c.do(silent(nil, nil))
	before := c.Count()
	s := openDelta(t, client)
	testenv.Eventually(t, "the endpoint has the stream", func() bool { return c.Count() > before })
	for range 3 {
		agenttest.Tick(t)
	}
	if err := s.Send(&discoveryv3.DeltaDiscoveryRequest{Node: self, TypeUrl: cdsType}); err != nil {
		t.Fatal(err)
	}
	if r, err := s.Recv(); err != nil || len(r.Resources) != 1 {
		t.Errorf("got %v, %v", r, err)
	}
}

// A control plane that refuses the proxy has answered: nothing is served, and Envoy is told at once.
func TestLastGoodIsNotServedToWhoIsRefused(t *testing.T) {
	t.Parallel()
	c := newEndpoint(t)
	relay, client := kept(t, c)
	relay.patience = time.Hour // what comes is the endpoint's word
	for _, code := range []codes.Code{codes.InvalidArgument, codes.NotFound, codes.PermissionDenied, codes.Unauthenticated} {
		c.do(func(discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
			return status.Error(code, "no")
		})
		testenv.Eventually(t, "the endpoint is asked again", func() bool {
			given, _, err := start(agenttest.Within(t), client)
			if len(given) > 0 {
				t.Fatalf("%s: served %v", code, given)
			}
			return status.Code(err) == code
		})
	}
}

// While it is served the control plane is asked, and its first word ends Envoy's stream.
func TestLastGoodGivesWay(t *testing.T) {
	t.Parallel()
	c := newEndpoint(t)
	_, client := kept(t, c)
	speak := make(chan struct{})
	c.do(func(s discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
		r, err := s.Recv()
		if err != nil || r.TypeUrl != cdsType || r.ResponseNonce != "" {
			t.Errorf("the endpoint is asked %v, %v", r, err)
		}
		select {
		case <-speak:
		case <-s.Context().Done():
			return nil
		}
		return s.Send(&discoveryv3.DeltaDiscoveryResponse{TypeUrl: r.GetTypeUrl(), Nonce: "n"})
	})
	s, err := client.DeltaAggregatedResources(agenttest.Within(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Send(&discoveryv3.DeltaDiscoveryRequest{Node: self, TypeUrl: cdsType}); err != nil {
		t.Fatal(err)
	}
	if r, err := s.Recv(); err != nil || len(r.Resources) != 1 {
		t.Fatalf("got %v, %v", r, err)
	}
	close(speak)
	if _, err := s.Recv(); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "the control plane answers again") {
		t.Errorf("got %v", err)
	}
}

// Without anything kept an Envoy without a configuration is told at once as well.
func TestNothingIsKept(t *testing.T) {
	agenttest.Unsigned(t)
	_, client := newTestRelay(t, "APPMESH_XDS_ENDPOINT=http://127.0.0.1:1", "EVERMESH_STATE_DIR=none")
	fastest := time.Hour // of several: the machine may be busy, but not each time
	for range 5 {
		began := time.Now()
		if _, _, err := start(agenttest.Within(t), client); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "http://127.0.0.1:1") {
			t.Errorf("got %v", err)
		}
		fastest = min(fastest, time.Since(began))
	}
	if fastest > firstWait {
		t.Errorf("not once in less than %s", fastest)
	}
}

func TestLastGoodInTheStateOfTheWorld(t *testing.T) {
	t.Parallel()
	c := newEndpoint(t)
	_, client := kept(t, c)
	c.Stop()
	s, err := client.StreamAggregatedResources(agenttest.Within(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, typ := range []string{cdsType, ldsType} {
		if err := s.Send(&discoveryv3.DiscoveryRequest{Node: self, TypeUrl: typ}); err != nil {
			t.Fatal(err)
		}
		r, err := s.Recv()
		if err != nil || len(r.Resources) != 1 || r.VersionInfo == "" {
			t.Fatalf("got %v, %v", r, err)
		}
		if err := s.Send(&discoveryv3.DiscoveryRequest{TypeUrl: typ, VersionInfo: r.VersionInfo, ResponseNonce: r.Nonce}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("got %v", err)
	}
}
