package envoy

import (
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"

	"github.com/evermesh/evermesh/internal/api"
)

// nodePool are the limits of a node's connection pool. They stand on the
// server's side, between its Envoy and the application; clients are never
// limited (VN-011). What a pool does not say is unlimited (VN-010).
func nodePool(p *api.VirtualNodeConnectionPool) *clusterv3.CircuitBreakers_Thresholds {
	t := limits()
	switch {
	case p == nil:
	case p.HTTP != nil:
		httpPool(t, p.HTTP.MaxConnections, p.HTTP.MaxPendingRequests)
	case p.HTTP2 != nil:
		t.MaxRequests = count(p.HTTP2.MaxRequests)
	case p.GRPC != nil:
		t.MaxRequests = count(p.GRPC.MaxRequests)
	case p.TCP != nil:
		t.MaxConnections = count(p.TCP.MaxConnections)
	}
	return t
}

// gatewayPool are the limits between a gateway's two hops (VG-005).
func gatewayPool(p *api.VirtualGatewayConnectionPool) *clusterv3.CircuitBreakers_Thresholds {
	t := limits()
	switch {
	case p == nil:
	case p.HTTP != nil:
		httpPool(t, p.HTTP.MaxConnections, p.HTTP.MaxPendingRequests)
	case p.HTTP2 != nil:
		t.MaxRequests = count(p.HTTP2.MaxRequests)
	case p.GRPC != nil:
		t.MaxRequests = count(p.GRPC.MaxRequests)
	}
	return t
}

func httpPool(t *clusterv3.CircuitBreakers_Thresholds, connections int64, pending *int64) {
	t.MaxConnections = count(connections)
	if pending != nil {
		t.MaxPendingRequests = count(*pending)
	}
}
