package envoy

import (
	"strings"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
)

// inspect tells of what a resource says and that is cut, has no effect, or can match nothing. App Mesh took all of
// it, and stored resources stay as they are.
func (f *faults) inspect(r *api.Resource) {
	if r == nil {
		return
	}
	f.cut(r)
	switch spec := r.Spec.(type) {
	case *api.VirtualNodeSpec:
		f.ineffective(r.Key, spec)
	case *api.RouteSpec:
		m := routeMatch(spec)
		f.unmatched(r.Key, routeMember(spec.HTTPRoute != nil, spec.HTTP2Route != nil), &m)
	case *api.GatewayRouteSpec:
		m, host := gatewayMatch(spec)
		member := routeMember(spec.HTTPRoute != nil, spec.HTTP2Route != nil)
		if len(m.prefix) > 1 && member != grpcMember {
			m.prefix = strings.TrimRight(m.prefix, "/") // as forms does
		}
		f.unmatched(r.Key, member, &m)
		f.unmatchedHost(r.Key, member, host)
	}
}

const grpcMember = "grpcRoute"

// routeMember is the member of a route's or gateway route's spec that says what it matches.
func routeMember(http, http2 bool) string {
	switch {
	case http:
		return "httpRoute"
	case http2:
		return "http2Route"
	}
	return grpcMember
}

// ineffective tells of a node's members that are for another protocol than the one beside them, and of a host name that
// no resolver finds.
func (f *faults) ineffective(key api.Key, spec *api.VirtualNodeSpec) {
	for i := range spec.Listeners {
		l := &spec.Listeners[i]
		speaks := l.PortMapping.Protocol
		if t := l.Timeout; t != nil {
			for _, of := range []struct {
				protocol api.PortProtocol
				is       bool
			}{
				{api.PortProtocolHTTP, t.HTTP != nil},
				{api.PortProtocolHTTP2, t.HTTP2 != nil},
				{api.PortProtocolGRPC, t.GRPC != nil},
				{api.PortProtocolTCP, t.TCP != nil},
			} {
				if of.is && of.protocol != speaks {
					f.add(key, ReasonNotTranslated, "spec.listeners[%d].timeout.%s has no effect: the listener on port %d speaks %s, whose timeouts are timeout.%[4]s",
						i, of.protocol, l.PortMapping.Port, speaks)
				}
			}
		}
		if h := l.HealthCheck; h != nil && h.Path != nil && *h.Path != "" && !byPath(h.Protocol) {
			f.add(key, ReasonNotTranslated, "spec.listeners[%d].healthCheck.path has no effect: a check by %s asks for no path, one by http or http2 does", i, h.Protocol)
		}
	}
	if d := spec.ServiceDiscovery; d != nil && d.DNS != nil && d.DNS.Hostname != "" && !findable(d.DNS.Hostname) {
		f.add(key, ReasonInvalid, "spec.serviceDiscovery.dns.hostname %q is neither an address nor a name that DNS can have, so the node has no endpoints and its callers are answered 503: "+
			"write the name or address alone, without blanks, scheme or port", d.DNS.Hostname)
	}
}

// byPath says whether a health check asks for a path (VN-016).
func byPath(p api.PortProtocol) bool { return p == api.PortProtocolHTTP || p == api.PortProtocolHTTP2 }

// findable says whether a text is an address, or can be a name in DNS: one of 253 bytes, in labels of 1 to 63 letters,
// digits, hyphens and underscores, with or without a dot at its end. Numbers in dots that are no address are not.
func findable(host string) bool {
	if isAddress(host) {
		return true
	}
	name := strings.TrimSuffix(host, ".")
	if len(name) > 253 || strings.Contains(name, ".") && strings.Trim(name, "0123456789.") == "" {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || strings.ContainsFunc(label, func(c rune) bool { return !inLabel(c) }) {
			return false
		}
	}
	return true
}

func inLabel(c rune) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_'
}

// unmatched remarks on matches of a route that no request can meet. member is the spec's that has the match.
func (f *faults) unmatched(key api.Key, member string, m *requestMatch) {
	headers, path, of := "headers", m.prefix+m.exact, "path"
	if member == grpcMember {
		headers, of = "metadata", "path /serviceName/methodName, here"
	}
	if why := neverAsked(path); why != "" {
		f.add(key, mesh.ReasonUnmatched, "spec.%s.match matches nothing, because no request has the %s %q: %s", member, of, path, why)
	}
	for i, h := range m.headers {
		if h.match != nil && h.match.Range != nil && h.match.Range.Start >= h.match.Range.End {
			f.add(key, mesh.ReasonUnmatched, "spec.%s.match.%s[%d].match.range matches nothing, because no number is from %d to below %d: set an end that is greater than the start",
				member, headers, i, h.match.Range.Start, h.match.Range.End)
		}
	}
}

// neverAsked says why no request has, or begins with, that path once Envoy has normalised it (RT-017, GR-012), and
// what to write instead; empty where one may.
func neverAsked(path string) string {
	switch {
	case strings.ContainsAny(path, "?#"):
		return "paths are matched without query and fragment; leave them out"
	case strings.Contains(path, "//") && path != "//": // which is what Envoy makes of nothing but slashes
		return "Envoy makes one slash of several before it matches; write one"
	case strings.Contains(path, "/./") || strings.Contains(path, "/../"):
		return "Envoy resolves dots before it matches; write the path that they lead to"
	case strings.ContainsFunc(path, func(c rune) bool { return c <= ' ' || c >= 0x7f }):
		return "blanks and characters that are not ASCII come escaped; write them as %XX"
	}
	return ""
}
