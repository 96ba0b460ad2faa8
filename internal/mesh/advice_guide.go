package mesh

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/evermesh/evermesh/internal/api"
)

// Checked says how much health checks add up to: each proxy of a client checks each
// of the node's own, so that the number grows with both (EMS-046, TRBL-022). It
// takes the numbers of connected proxies, and is empty for what is not checked.
func Checked(of *api.Resource, clients, servers int) (out []string) {
	spec := of.VirtualNodeSpec()
	if spec == nil || clients == 0 || servers == 0 {
		return nil
	}
	for i := range spec.Listeners {
		l := &spec.Listeners[i]
		if l.HealthCheck == nil || l.HealthCheck.IntervalMillis <= 0 {
			continue
		}
		every := time.Duration(l.HealthCheck.IntervalMillis) * time.Millisecond
		each := float64(clients) / every.Seconds()
		out = append(out, fmt.Sprintf("the healthCheck on port %d makes about %.3g checks a second: %d connected client proxies × %d proxies of this node, every %v; %.3g a second at each. "+
			"Where the application feels that, check less often, or let outlierDetection watch the requests that are there anyway",
			l.PortMapping.Port, each*float64(servers), clients, servers, every, each))
	}
	return out
}

// outside: a node with TLS in a mesh under DROP_ALL reaches nothing else by TLS than
// its backends and AWS (TLS-029).
func outside(r Reader, of *api.Resource) []string {
	m := r.Get(of.Key.MeshKey())
	if m == nil || !secured(of.VirtualNodeSpec()) {
		return nil
	}
	if spec := m.MeshSpec(); spec != nil && spec.EgressFilter != nil && spec.EgressFilter.Type == api.EgressFilterTypeAllowAll {
		return nil
	}
	return []string{"the mesh's egressFilter is DROP_ALL, so that with TLS, as without, nothing outside of the mesh is reached but names under amazonaws.com on port 443: " +
		"model other hosts as virtual services and list them as backends, or set ALLOW_ALL"}
}

// entitled: proxies that speak TLS to each other have to be authorised, those of the
// backends too, and none of them for more than its own node (VN-039).
func entitled(of *api.Resource) []string {
	if !demanding(of.VirtualNodeSpec()) {
		return nil
	}
	return []string{"it demands TLS of backends, so that their proxies, as its own, need proxy authorization: " +
		"allow each role appmesh:StreamAggregatedResources on the virtual nodes alone that its proxies are of, rather than on *"}
}

// secured says whether a node has TLS, on a listener or towards backends.
func secured(spec *api.VirtualNodeSpec) bool {
	return demanding(spec) || slices.ContainsFunc(spec.Listeners, func(l api.Listener) bool { return l.TLS != nil && l.TLS.Mode != api.ListenerTLSModeDisabled })
}

// demanding says whether a node has a client policy of TLS.
func demanding(spec *api.VirtualNodeSpec) bool {
	tls := func(p *api.ClientPolicy) bool { return p != nil && p.TLS != nil }
	if spec.BackendDefaults != nil && tls(spec.BackendDefaults.ClientPolicy) {
		return true
	}
	return slices.ContainsFunc(spec.Backends, func(b api.Backend) bool { return b.VirtualService != nil && tls(b.VirtualService.ClientPolicy) })
}

// pathless: Envoy matches the path alone, without what follows its ? or #, so that a
// match with one of them is met by no request.
func pathless(of *api.Resource) (out []string) {
	look := func(kind string, prefix *string, path *api.HTTPPathMatch) {
		member, text := "prefix", ""
		switch {
		case prefix != nil:
			text = *prefix
		case path != nil:
			member, text = "path.exact", path.Exact
		}
		if i := strings.IndexAny(text, "?#"); i >= 0 {
			out = append(out, fmt.Sprintf("spec.%s.match.%s is %q, which no request has: a path ends before its %q; match what follows a question mark by queryParameters", kind, member, text, text[i:i+1]))
		}
	}
	if spec := of.RouteSpec(); spec != nil {
		if r := spec.HTTPRoute; r != nil {
			look("httpRoute", r.Match.Prefix, r.Match.Path)
		}
		if r := spec.HTTP2Route; r != nil {
			look("http2Route", r.Match.Prefix, r.Match.Path)
		}
	}
	if spec := of.GatewayRouteSpec(); spec != nil {
		if r := spec.HTTPRoute; r != nil {
			look("httpRoute", r.Match.Prefix, r.Match.Path)
		}
		if r := spec.HTTP2Route; r != nil {
			look("http2Route", r.Match.Prefix, r.Match.Path)
		}
	}
	return out
}

// literals: a pattern that was meant to look ahead, as in the guide's own sample, is
// a group that begins with a literal (TRBL-036).
func literals(spec any) (out []string) {
	text, err := json.Marshal(spec)
	var tree any
	if err != nil || json.Unmarshal(text, &tree) != nil {
		return nil // a spec that cannot be written is nowhere
	}
	eachRegex("spec", tree, func(path, regex string) {
		for _, literal := range []string{"!", "=", "<"} {
			if strings.Contains(regex, "(?:"+literal) {
				out = append(out, fmt.Sprintf("%s has %q, a group that begins with the character %q: it looks neither ahead nor behind, which Envoy's patterns (RE2) cannot", path, "(?:"+literal, literal))
			}
		}
	})
	return out
}

// eachRegex calls fn for every member regex of a JSON tree, in a steady order.
func eachRegex(path string, tree any, fn func(path, regex string)) {
	switch t := tree.(type) {
	case map[string]any:
		for _, name := range slices.Sorted(maps.Keys(t)) {
			if regex, ok := t[name].(string); ok && name == "regex" {
				fn(path+"."+name, regex)
				continue
			}
			eachRegex(path+"."+name, t[name], fn)
		}
	case []any:
		for i := range t {
			eachRegex(fmt.Sprintf("%s[%d]", path, i), t[i], fn)
		}
	}
}
