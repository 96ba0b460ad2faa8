package agenttest

import (
	"context"
	"sync"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/peer"

	"github.com/evermesh/evermesh/internal/testenv"
)

// ControlPlane is an ADS server whose answers the test writes.
type ControlPlane struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	Addr   string // where it listens
	server *grpc.Server
	wg     sync.WaitGroup

	// The streams' handlers. The default ones answer each request with its own version and names.
	Whole func(discoveryv3.AggregatedDiscoveryService_StreamAggregatedResourcesServer) error
	Delta func(discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error

	mu      sync.Mutex
	streams int
	peers   map[string]bool
}

func (c *ControlPlane) opened(ctx context.Context) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.streams++
	if p, ok := peer.FromContext(ctx); ok {
		c.peers[p.Addr.String()] = true
	}
}

// Count is how many streams were opened.
func (c *ControlPlane) Count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.streams
}

// StreamAggregatedResources is state of the world.
func (c *ControlPlane) StreamAggregatedResources(s discoveryv3.AggregatedDiscoveryService_StreamAggregatedResourcesServer) error {
	c.opened(s.Context())
	return c.handlers().whole(s)
}

// DeltaAggregatedResources is delta.
func (c *ControlPlane) DeltaAggregatedResources(s discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	c.opened(s.Context())
	return c.handlers().delta(s)
}

func echoWhole(s discoveryv3.AggregatedDiscoveryService_StreamAggregatedResourcesServer) error {
	for {
		r, err := s.Recv()
		if err != nil {
			return nil
		}
		if err := s.Send(&discoveryv3.DiscoveryResponse{TypeUrl: r.TypeUrl, VersionInfo: r.VersionInfo, Nonce: r.ResponseNonce}); err != nil {
			return err
		}
	}
}

func echoDelta(s discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	for {
		r, err := s.Recv()
		if err != nil {
			return nil
		}
		if err := s.Send(&discoveryv3.DeltaDiscoveryResponse{TypeUrl: r.TypeUrl, Nonce: r.ResponseNonce, RemovedResources: r.ResourceNamesSubscribe}); err != nil {
			return err
		}
	}
}

// ServeDelta has delta streams handled so from now on. Unlike an assignment it is ordered before the streams of other
// processes too, as far as the race detector can see.
func (c *ControlPlane) ServeDelta(by func(discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.Delta = by
}

// ServeWhole is ServeDelta for state of the world.
func (c *ControlPlane) ServeWhole(by func(discoveryv3.AggregatedDiscoveryService_StreamAggregatedResourcesServer) error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.Whole = by
}

type handlers struct {
	whole func(discoveryv3.AggregatedDiscoveryService_StreamAggregatedResourcesServer) error
	delta func(discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error
}

func (c *ControlPlane) handlers() handlers {
	c.mu.Lock()
	defer c.mu.Unlock()
	return handlers{c.Whole, c.Delta}
}

// NewControlPlane listens on address, which may be the path of a socket. "" is a port of the loopback that is this test's
// until it ends: one that stops can be followed by another one there.
func NewControlPlane(t testing.TB, address string, options ...grpc.ServerOption) *ControlPlane {
	t.Helper()
	if address == "" {
		address = testenv.FreeAddress(t)
	}
	l := testenv.Listen(t, network(address), address)
	c := &ControlPlane{Addr: l.Addr().String(), Whole: echoWhole, Delta: echoDelta, peers: map[string]bool{}}
	c.server = grpc.NewServer(append([]grpc.ServerOption{
		grpc.MaxRecvMsgSize(64 << 20), grpc.WaitForHandlers(true),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}),
	}, options...)...)
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(c.server, c)
	c.wg.Go(func() { _ = c.server.Serve(l) })
	t.Cleanup(c.Stop)
	return c
}

// Stop ends the server without a word to its clients.
func (c *ControlPlane) Stop() {
	c.server.Stop()
	c.wg.Wait()
}

func network(address string) string {
	if address[0] == '/' {
		return "unix"
	}
	return "tcp"
}
