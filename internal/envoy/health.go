package envoy

import (
	"cmp"
	"strconv"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"

	"github.com/evermesh/evermesh/internal/api"
)

// healthChecks are those that clients run against a node's listener (EMS-045).
// host is the node's name in discovery. They speak TLS as the cluster does.
func healthChecks(node *api.Resource, l *api.Listener, host string, tls bool, f *faults) []*corev3.HealthCheck {
	h, port := l.HealthCheck, l.PortMapping.Port
	if h == nil {
		return nil
	}
	if h.Protocol == api.PortProtocolGRPC && !isHTTP2(l.PortMapping.Protocol) {
		// Envoy refuses the cluster.
		f.add(node.Key, ReasonMismatch, "the listener on port %d speaks %s, which a grpc health check cannot use; the check is left out", port, l.PortMapping.Protocol)
		return nil
	}
	check := &corev3.HealthCheck{
		Timeout: millis(h.TimeoutMillis), Interval: millis(h.IntervalMillis),
		UnhealthyThreshold: count(h.UnhealthyThreshold),
		HealthyThreshold:   count(h.HealthyThreshold),
		// Envoy's own interval without traffic is 60 s: a check that failed once
		// at the start would stand that long.
		NoTrafficInterval: millis(h.IntervalMillis),
	}
	if h.Port != nil {
		check.AltPort = count(*h.Port)
	}
	switch h.Protocol {
	case api.PortProtocolHTTP, api.PortProtocolHTTP2:
		http := &corev3.HealthCheck_HttpHealthCheck{Host: host + ":" + strconv.FormatInt(port, 10), Path: "/"}
		if h.Path != nil {
			http.Path = cmp.Or(*h.Path, "/")
		}
		if h.Protocol == api.PortProtocolHTTP2 {
			http.CodecClientType = typev3.CodecClientType_HTTP2
		} else if tls && isHTTP2(l.PortMapping.Protocol) {
			// Requests agree on HTTP/2 in the handshake; this check must not.
			check.TlsOptions = &corev3.HealthCheck_TlsOptions{AlpnProtocols: []string{"http/1.1"}}
		}
		check.HealthChecker = &corev3.HealthCheck_HttpHealthCheck_{HttpHealthCheck: http}
	case api.PortProtocolGRPC:
		check.HealthChecker = &corev3.HealthCheck_GrpcHealthCheck_{GrpcHealthCheck: &corev3.HealthCheck_GrpcHealthCheck{}}
	default:
		check.HealthChecker = &corev3.HealthCheck_TcpHealthCheck_{TcpHealthCheck: &corev3.HealthCheck_TcpHealthCheck{}}
	}
	if err := check.ValidateAll(); err != nil {
		f.add(node.Key, ReasonInvalid, "the health check of the listener on port %d is left out, Envoy would refuse it: %v", port, reason(err))
		return nil
	}
	return []*corev3.HealthCheck{check}
}

// outlierDetection is done by clients too (VN-012, VN-013). The model lets
// durations be 0, which Envoy does not; the node keeps its endpoints without.
func outlierDetection(node *api.Resource, l *api.Listener, f *faults) *clusterv3.OutlierDetection {
	o := l.OutlierDetection
	if o == nil {
		return nil
	}
	out := &clusterv3.OutlierDetection{
		Consecutive_5Xx:    count(o.MaxServerErrors),
		Interval:           duration(&o.Interval),
		BaseEjectionTime:   duration(&o.BaseEjectionDuration),
		MaxEjectionPercent: count(o.MaxEjectionPercent),
	}
	if err := out.ValidateAll(); err != nil {
		f.add(node.Key, ReasonInvalid, "the outlier detection of the listener on port %d is left out, Envoy would refuse it: %v", l.PortMapping.Port, reason(err))
		return nil
	}
	return out
}
