package envoy

import (
	"cmp"
	"strconv"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	healthv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/health_check/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/evermesh/evermesh/internal/api"
)

const (
	// checker is the User-Agent with which Envoy checks.
	checker = "Envoy/HC"
	// grpcCheck is the path of a check by grpc.
	grpcCheck = "/grpc.health.v1.Health/Check"
)

// answersChecks is the filter by which a proxy that is to stop fails the checks of its
// clients by itself (POST /healthcheck/fail, AGENT-046): they choose it no more, at the
// first one. Until then the application answers, as without it. It looks at checks of
// Envoys alone: what it takes for a check is in no statistics of requests and in no
// trace, and a check's path may be one that people use.
func answersChecks(l *api.Listener) []*hcmv3.HttpFilter {
	h := l.HealthCheck
	if h == nil || h.Port != nil && *h.Port != l.PortMapping.Port {
		return nil // it does not come here
	}
	path := grpcCheck
	switch h.Protocol {
	case api.PortProtocolHTTP, api.PortProtocolHTTP2:
		path = checkPath(h)
	case api.PortProtocolGRPC:
		if !isHTTP2(l.PortMapping.Protocol) {
			return nil
		}
	default:
		return nil
	}
	return []*hcmv3.HttpFilter{{Name: "envoy.filters.http.health_check", ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: pack(&healthv3.HealthCheck{
		PassThroughMode: wrapperspb.Bool(true),
		Headers:         []*routev3.HeaderMatcher{headerIs(":path", path), headerIs("user-agent", checker)},
	})}}}
}

// hopHeaders are headers of answers that are for the proxy that sent the request. A proxy
// that fails its checks sets the first one: the proxy before it chooses it no more, and
// reads that before its routes remove the header. Passed on, it would take the passing one
// out of its own clients' choice, one hop after the other; and an application must not
// fail the checks of its proxy with it. The second one, of answers to checks, tells the
// node's name. What the filter of answersChecks sets is set after the routes of its own
// listener are done.
var hopHeaders = []string{"x-envoy-immediate-health-check-fail", "x-envoy-upstream-healthchecked-cluster"}

// checkPath is the path that a check by HTTP asks for.
func checkPath(h *api.HealthCheckPolicy) string {
	if h.Path != nil {
		return cmp.Or(*h.Path, "/")
	}
	return "/"
}

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
		http := &corev3.HealthCheck_HttpHealthCheck{Host: host + ":" + strconv.FormatInt(port, 10), Path: checkPath(h)}
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
