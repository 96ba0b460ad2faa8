package relay

import (
	"context"
	"testing"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/evermesh/evermesh/internal/agent/agenttest"
	"github.com/evermesh/evermesh/internal/testenv"
)

// quiet is what the control plane does with an Envoy that has all: it says that it serves, and nothing else until end.
func quiet(end <-chan error) stream {
	return func(s discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
		if _, err := s.Recv(); err != nil {
			return err
		}
		if err := s.SendHeader(metadata.Pairs(headKey, headServed)); err != nil {
			return err
		}
		select {
		case err := <-end:
			return err
		case <-s.Context().Done():
			return nil
		}
	}
}

// An Envoy that comes back with all that it is to have is sent nothing: it is connected all the same, what it runs on is
// the control plane's, and the planned end of its stream is no failure.
func TestQuietStreamIsConnected(t *testing.T) {
	t.Parallel()
	c := newEndpoint(t)
	relay, client := kept(t, c)
	end := make(chan error)
	c.do(func(discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
		return status.Error(codes.Unavailable, "cut off")
	})
	if _, _, err := start(agenttest.Within(t), client); status.Code(err) != codes.Unavailable {
		t.Fatal(err)
	}
	if serving, _ := relay.LastGood(); !serving {
		t.Fatal("the last good configuration is not served")
	}
	c.do(quiet(end))
	relay.upstreams.served(c.Addr) // it is not left alone any more
	for range 3 {
		ended := make(chan error, 1)
		go func() { _, err := returning(context.WithoutCancel(t.Context()), client); ended <- err }()
		testenv.Eventually(t, "connected", func() bool { on, _ := relay.Connected(); return on })
		if serving, _ := relay.LastGood(); serving {
			t.Error("the relay says that the last good configuration is served")
		}
		if r := relay.Report(); !r.OK() {
			t.Errorf("the report says %q", r.Lines())
		}
		end <- nil
		if err := <-ended; err == nil || status.Code(err) != codes.Unknown { // io.EOF is status 0
			t.Errorf("Envoy's stream ended with %v", err)
		}
		testenv.Eventually(t, "not connected", func() bool { on, _ := relay.Connected(); return !on })
		if f := relay.upstreams.fault(c.Addr); f.count > 0 {
			t.Errorf("the end counts as a failure: %+v", f)
		}
	}
}

// A head that says nothing of serving is no answer: what comes after it is.
func TestHeadAloneIsNoAnswer(t *testing.T) {
	agenttest.Unsigned(t)
	c := newEndpoint(t)
	c.do(func(s discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
		if err := s.SendHeader(metadata.Pairs("server", "something between")); err != nil {
			return err
		}
		if _, err := s.Recv(); err != nil {
			return err
		}
		return status.Error(codes.PermissionDenied, "no")
	})
	relay, client := newTestRelay(t, "APPMESH_XDS_ENDPOINT=http://"+c.Addr)
	if _, err := returning(agenttest.Within(t), client); status.Code(err) != codes.PermissionDenied {
		t.Errorf("got %v", err)
	}
	if r := relay.Report(); r.OK() {
		t.Error("the report says that the control plane serves")
	}
}
