package mesh

import (
	"fmt"
	"slices"
	"time"

	"github.com/evermesh/evermesh/internal/api"
)

// defaultPerRequest is App Mesh's timeout of a request where nothing is said.
const defaultPerRequest = 15 * time.Second

// Advice is what is recommended and the resource does otherwise, as sentences for
// people. Everything acts as it says all the same: advice is no problem. Routes
// have what App Mesh's guide recommends (RT-033, RT-037, RT-038); routes and nodes,
// what keeps requests from being lost (advice_leaving.go, advice_retries.go); and there is what the
// guide warns of (advice_guide.go).
func Advice(r Reader, of *api.Resource) []string {
	if of.VirtualNodeSpec() != nil {
		return slices.Concat(unseen(of), outside(r, of), entitled(of))
	}
	return slices.Concat(routed(r, of), tries(r, of), pathless(of), literals(of.Spec))
}

// tries is the advice on how a route tries.
func tries(r Reader, of *api.Resource) []string {
	spec := of.RouteSpec()
	if spec == nil {
		return nil
	}
	t := tryingOf(spec)
	if t == nil {
		return nil
	}
	return slices.Concat(t.unrepeated(r, of), t.retries(), t.cutOff(), t.bounded(r, of), t.lost(r, of))
}

// trying is how long a route tries, and how often.
type trying struct {
	kind       string
	explicit   bool // it has a retry policy of its own
	maxRetries int64
	perTry     time.Duration
	perRequest time.Duration // 0 is without end
	grpc       bool
	events     []string // of all three lists
	targets    []api.WeightedTarget
}

func tryingOf(spec *api.RouteSpec) *trying {
	limit := func(d *api.Duration) time.Duration {
		if d == nil {
			return defaultPerRequest
		}
		return seconds(d)
	}
	http, t := spec.HTTPRoute, &trying{kind: "httpRoute", perRequest: defaultPerRequest}
	if http == nil {
		http, t.kind = spec.HTTP2Route, "http2Route"
	}
	switch g := spec.GRPCRoute; {
	case http != nil:
		t.targets = http.Action.WeightedTargets
		if http.Timeout != nil {
			t.perRequest = limit(http.Timeout.PerRequest)
		}
		if p := http.RetryPolicy; p != nil {
			t.explicit, t.maxRetries, t.perTry = true, p.MaxRetries, seconds(&p.PerRetryTimeout)
			t.events = append(t.events, p.HTTPRetryEvents...)
			for _, e := range p.TCPRetryEvents {
				t.events = append(t.events, string(e))
			}
		}
	case g != nil:
		t.kind, t.grpc, t.targets = "grpcRoute", true, g.Action.WeightedTargets
		if g.Timeout != nil {
			t.perRequest = limit(g.Timeout.PerRequest)
		}
		if p := g.RetryPolicy; p != nil {
			t.explicit, t.maxRetries, t.perTry = true, p.MaxRetries, seconds(&p.PerRetryTimeout)
			t.events = append(t.events, p.HTTPRetryEvents...)
			for _, e := range p.TCPRetryEvents {
				t.events = append(t.events, string(e))
			}
			for _, e := range p.GRPCRetryEvents {
				t.events = append(t.events, string(e))
			}
		}
	default:
		return nil
	}
	return t
}

// retries: what a retry policy should have (RT-033). A route without one has
// App Mesh's own.
func (t *trying) retries() (out []string) {
	if !t.explicit {
		return nil
	}
	if t.maxRetries < 2 {
		out = append(out, fmt.Sprintf("spec.%s.retryPolicy.maxRetries is %d: at least 2 are recommended", t.kind, t.maxRetries))
	}
	lacks := func(list string, of ...string) {
		of = slices.DeleteFunc(of, func(e string) bool {
			// What is a server-error includes what is a gateway-error.
			return slices.Contains(t.events, e) || (e == "gateway-error" && slices.Contains(t.events, "server-error"))
		})
		for _, e := range of {
			out = append(out, fmt.Sprintf("spec.%s.retryPolicy.%s is without %s, which is recommended", t.kind, list, e))
		}
	}
	lacks("httpRetryEvents", "stream-error", "gateway-error")
	lacks("tcpRetryEvents", "connection-error")
	if t.grpc {
		lacks("grpcRetryEvents", "cancelled", "unavailable")
	}
	return out
}

// cutOff: a request's time should last for all of its tries (RT-037).
func (t *trying) cutOff() []string {
	// Bounded by division: maxRetries may be any number.
	if !t.explicit || t.perRequest == 0 || t.maxRetries == 0 || t.perTry <= t.perRequest/time.Duration(t.maxRetries) {
		return nil
	}
	return []string{fmt.Sprintf("spec.%s: %d retries of %v each do not fit into %v, which is all the time that a request has: timeout.perRequest cuts them off",
		t.kind, t.maxRetries, t.perTry, t.perRequest)}
}

// bounded: what a route lets last for more than 15 s the listeners of its targets
// must let last as long (RT-038).
func (t *trying) bounded(r Reader, of *api.Resource) (out []string) {
	if t.perRequest != 0 && t.perRequest <= defaultPerRequest {
		return nil
	}
	for _, target := range t.targets {
		node := r.Get(of.Key.In(api.KindVirtualNode, "", target.VirtualNode)).VirtualNodeSpec()
		if node == nil {
			continue
		}
		for i := range node.Listeners {
			l := &node.Listeners[i]
			if target.Port != nil && *target.Port != l.PortMapping.Port {
				continue
			}
			its := listenerPerRequest(l)
			if its == 0 || (t.perRequest != 0 && its >= t.perRequest) {
				continue
			}
			route := "any time"
			if t.perRequest != 0 {
				route = t.perRequest.String()
			}
			out = append(out, fmt.Sprintf("spec.%s.timeout.perRequest lets a request last %s, but the listener of virtual node %s on port %d ends it after %v: give it a timeout.perRequest too",
				t.kind, route, target.VirtualNode, l.PortMapping.Port, its))
		}
	}
	return out
}

// listenerPerRequest is how long a listener lets a request last; 0 is without
// end, which a tcp listener is.
func listenerPerRequest(l *api.Listener) time.Duration {
	var d *api.Duration
	switch t := l.Timeout; {
	case l.PortMapping.Protocol == api.PortProtocolTCP:
		return 0
	case t == nil:
	case l.PortMapping.Protocol == api.PortProtocolHTTP && t.HTTP != nil:
		d = t.HTTP.PerRequest
	case l.PortMapping.Protocol == api.PortProtocolHTTP2 && t.HTTP2 != nil:
		d = t.HTTP2.PerRequest
	case l.PortMapping.Protocol == api.PortProtocolGRPC && t.GRPC != nil:
		d = t.GRPC.PerRequest
	}
	if d == nil {
		return defaultPerRequest
	}
	return seconds(d)
}

// seconds is a duration of the API. What is longer than a year counts as one.
func seconds(d *api.Duration) time.Duration {
	const year = 365 * 24 * time.Hour
	unit := time.Second
	if d.Unit == api.DurationUnitMs {
		unit = time.Millisecond
	}
	if d.Value == nil {
		return 0
	}
	return unit * time.Duration(min(*d.Value, int64(year/unit)))
}
