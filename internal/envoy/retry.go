package envoy

import (
	"slices"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	previoushostsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/host/previous_hosts/v3"

	"github.com/evermesh/evermesh/internal/api"
)

// retrying is the part that every policy shares: a retry goes to another host
// where there is one (EMS-066).
func retrying(on []string, retries int64, codes []uint32) *routev3.RetryPolicy {
	return &routev3.RetryPolicy{
		RetryOn:    strings.Join(on, ","),
		NumRetries: count(retries),
		RetryHostPredicate: []*routev3.RetryPolicy_RetryHostPredicate{{
			Name:       "envoy.retry_host_predicates.previous_hosts",
			ConfigType: &routev3.RetryPolicy_RetryHostPredicate_TypedConfig{TypedConfig: pack(&previoushostsv3.PreviousHostsPredicate{})},
		}},
		HostSelectionRetryMaxAttempts: 5,
		RetriableStatusCodes:          codes,
	}
}

// defaultRetry is App Mesh's hidden policy of routes without one and of
// services that a node provides (EMS-038, EMS-039); nil where the mesh's settings
// say that there is none.
func (b *build) defaultRetry() *routev3.RetryPolicy {
	if b.meshWide.noRetry {
		return nil
	}
	return b.owner.steady().retry
}

// hiddenRetry makes what defaultRetry returns.
func hiddenRetry() *routev3.RetryPolicy {
	return retrying([]string{"unavailable", "reset", "connect-failure", "refused-stream", "retriable-status-codes"}, 2, []uint32{503})
}

// statusEvents are the events that stand for status codes (EMS-044).
func statusEvents(event string) []uint32 {
	switch event {
	case "server-error":
		return []uint32{500, 501, 502, 503, 504, 505, 506, 507, 508, 510, 511}
	case "gateway-error":
		return []uint32{502, 503, 504}
	case "client-error":
		return []uint32{409}
	}
	return nil
}

func (b *build) retryPolicy(spec *api.RouteSpec) *routev3.RetryPolicy {
	http := spec.HTTPRoute
	if http == nil {
		http = spec.HTTP2Route
	}
	switch {
	case http != nil && http.RetryPolicy != nil:
		p := http.RetryPolicy
		return explicitRetry(nil, p.HTTPRetryEvents, p.TCPRetryEvents, p.MaxRetries, &p.PerRetryTimeout)
	case spec.GRPCRoute != nil && spec.GRPCRoute.RetryPolicy != nil:
		p := spec.GRPCRoute.RetryPolicy
		return explicitRetry(p.GRPCRetryEvents, p.HTTPRetryEvents, p.TCPRetryEvents, p.MaxRetries, &p.PerRetryTimeout)
	}
	return b.defaultRetry()
}

// explicitRetry translates a policy. The order of Envoy's words and of codes is
// App Mesh's: gRPC words, reset, connect-failure, refused-stream, codes in the
// order of the events.
func explicitRetry(grpc []api.GRPCRetryPolicyEvent, http []string, tcp []api.TCPRetryPolicyEvent, retries int64, perTry *api.Duration) *routev3.RetryPolicy {
	var on []string
	for _, e := range grpc {
		on = append(on, string(e))
	}
	var codes []uint32
	for _, e := range http {
		for _, c := range statusEvents(e) {
			if !slices.Contains(codes, c) {
				codes = append(codes, c)
			}
		}
	}
	stream := slices.Contains(http, "stream-error")
	if stream {
		on = append(on, "reset")
	}
	if slices.Contains(tcp, api.TCPRetryPolicyEventConnectionError) {
		on = append(on, "connect-failure")
	}
	if stream {
		on = append(on, "refused-stream")
	}
	if len(codes) > 0 {
		on = append(on, "retriable-status-codes")
	}
	p := retrying(on, retries, codes)
	p.PerTryTimeout = duration(perTry)
	return p
}
