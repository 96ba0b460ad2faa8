package envoy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
)

// gateway plans the proxies of a virtual gateway. A request takes two hops in
// one Envoy: the ingress listener chooses a gateway route, rewrites host and
// path and sends the request to 127.0.0.1:15001, where the routes of the
// virtual service are matched against what was rewritten. One hop could keep
// neither the names and statistics that users know nor rewrites before matches.
func (b *build) gateway(spec *api.VirtualGatewaySpec) {
	for i := range spec.Listeners {
		b.gatewayIngress(spec, i)
	}
	for _, r := range b.view.GatewayRoutes {
		if why := b.entersNowhere(spec, r.GatewayRouteSpec()); why != "" {
			b.report([]mesh.Problem{{Key: r.Key, Reason: ReasonMismatch, Message: why}})
		}
	}
	if len(spec.Listeners) > 0 {
		b.gatewayEgress(gatewayPort(&spec.Listeners[0]).protocol)
	}
}

func gatewayPort(l *api.VirtualGatewayListener) portOf {
	return portOf{uint32(l.PortMapping.Port), api.PortProtocol(l.PortMapping.Protocol)}
}

// entersNowhere says why a gateway route is on no listener; empty where it is on one.
func (b *build) entersNowhere(gateway *api.VirtualGatewaySpec, spec *api.GatewayRouteSpec) string {
	fits := false
	for i := range gateway.Listeners {
		at := gatewayPort(&gateway.Listeners[i])
		if enters(spec, at) {
			return ""
		}
		fits = fits || speaks(spec, at)
	}
	if !fits {
		return fmt.Sprintf("no listener of virtual gateway %s has the route's protocol and port; the route is left out", b.own.Key.Name)
	}
	_, host := gatewayMatch(spec)
	return fmt.Sprintf("%s has the port of no listener of virtual gateway %s that the route is for, and so matches nothing: leave the port out, as Envoy does not look at it; the route is left out",
		said(routeMember(spec.HTTPRoute != nil, spec.HTTP2Route != nil), host), b.own.Key.Name)
}

// enters says whether a gateway route is one of those on that port (GR-007).
func enters(spec *api.GatewayRouteSpec, at portOf) bool {
	if !speaks(spec, at) {
		return false
	}
	_, host := gatewayMatch(spec)
	return hostnameOf(host).on(at.port)
}

// speaks says whether a gateway route has the port's protocol, and that port if it names one.
func speaks(spec *api.GatewayRouteSpec, at portOf) bool {
	if spec == nil {
		return false
	}
	m, _ := gatewayMatch(spec)
	protocol := api.PortProtocolGRPC
	switch {
	case spec.HTTPRoute != nil:
		protocol = api.PortProtocolHTTP
	case spec.HTTP2Route != nil:
		protocol = api.PortProtocolHTTP2
	}
	return protocol == at.protocol && (m.port == nil || uint32(*m.port) == at.port)
}

// gatewayIngress makes a listener of the gateway and its first hop.
func (b *build) gatewayIngress(spec *api.VirtualGatewaySpec, i int) {
	l := &spec.Listeners[i]
	at := gatewayPort(l)
	if at.port == egressPort {
		b.proxysOwn(at.port)
		return
	}
	if slices.ContainsFunc(spec.Listeners[:i], func(o api.VirtualGatewayListener) bool { return o.PortMapping.Port == l.PortMapping.Port }) {
		b.repeated(at.port)
		return
	}
	if l.HealthCheck != nil {
		b.report([]mesh.Problem{{Key: b.own.Key, Reason: ReasonNotTranslated, Message: fmt.Sprintf("spec.listeners[%d].healthCheck has no effect: nothing in the mesh calls a gateway", i)}})
	}
	t, where := gatewayTermination(l.TLS), fmt.Sprintf("listeners[%d]", i)
	tls, refs := b.socket(t, at.protocol, where)
	if tls == nil && !t.offersPlaintext() {
		return // its certificate is none; Envoy takes no listener without chains
	}
	loop := fmt.Sprintf("cds_ingress_%s_%s_self_redirect_%s_%d", b.mesh, b.own.Key.Name, at.protocol, egressPort)
	if len(spec.Listeners) > 1 {
		loop = fmt.Sprintf("cds_ingress_%s_%s_self_redirect_%d_%s_%d", b.mesh, b.own.Key.Name, at.port, at.protocol, egressPort)
	}
	b.localCluster(loop, at.protocol, egressPort, gatewayPool(l.ConnectionPool))
	config := rds(ingressPrefix, at.protocol, at.port)
	b.redirects(config, at, loop)
	b.listener(corev3.TrafficDirection_INBOUND, b.anywhere(at.port), b.ip.any, []*api.Resource{b.own}, refs, func(_ *piece, out *listenerv3.Listener) {
		out.ListenerFilters = []*listenerv3.ListenerFilter{tlsInspector(nil)}
		out.FilterChains = t.chains(at.port, true, tls, func() *listenerv3.Filter {
			return b.connectionManager(ingressStats(len(spec.Listeners), at.protocol, at.port), config)
		})
	})
}

// redirects makes the first hop's routes: a virtual host for each host name
// that gateway routes match, as Envoy takes each domain once.
func (b *build) redirects(config string, at portOf, loop string) {
	byDomain := map[string][]mesh.GatewayRoute{}
	for _, r := range b.view.GatewayRoutes {
		if enters(r.GatewayRouteSpec(), at) {
			_, host := gatewayMatch(r.GatewayRouteSpec())
			domain := hostnameOf(host).domain()
			byDomain[domain] = append(byDomain[domain], r)
		}
	}
	domains := make([]string, 0, len(byDomain))
	for d := range byDomain {
		domains = append(domains, d)
	}
	// Exact names, then suffixes, then the rest; Envoy itself takes the most
	// specific one.
	slices.SortFunc(domains, func(x, y string) int { return cmp.Or(cmp.Compare(rank(x), rank(y)), cmp.Compare(x, y)) })
	var hosts []*VirtualHost
	for _, d := range domains {
		routes := byDomain[d]
		var in []*api.Resource
		for _, r := range routes {
			in = append(in, r.Resource)
			if r.Service != nil {
				in = append(in, inputs(r.Service)...)
			}
		}
		name := "self_redirect"
		if d != "*" {
			name += "_" + d
		}
		hosts = append(hosts, b.host(config, name, []string{d}, loop, in, b.own.Key, func(f *faults) []*routev3.Route {
			return redirect(routes, loop, f)
		}))
	}
	// Ports in the Host header are ignored.
	b.routeConfig(&routev3.RouteConfiguration{Name: config, IgnorePortInHostMatching: true}, hosts)
}

func rank(domain string) int {
	switch {
	case domain == "*":
		return 2
	case strings.HasPrefix(domain, "*"):
		return 1
	}
	return 0
}

// candidate is a route of the first hop with what orders it.
type candidate struct {
	priority int64
	match    requestMatch
	route    *routev3.Route
}

// redirect makes the routes of one virtual host: lower priority first and none
// last, then the longer path, then by path (GR-006, GR-009).
func redirect(routes []mesh.GatewayRoute, loop string, f *faults) []*routev3.Route {
	var all []candidate
	for _, r := range routes {
		spec := r.GatewayRouteSpec()
		m, _ := gatewayMatch(spec)
		for _, form := range forms(spec, m) {
			match, err := form.match.envoy()
			if err != nil {
				f.add(r.Key, ReasonInvalid, "the gateway route is left out: its match is not valid: %v", err)
				continue
			}
			route := &routev3.Route{Match: match}
			if r.Service == nil || !hasTargetPort(r, f) {
				unavailable(route)
			} else {
				form.action.ClusterSpecifier = &routev3.RouteAction_Cluster{Cluster: loop}
				form.action.Timeout, form.action.IdleTimeout = longest(r.Service), longestIdle(r.Service)
				if keepsHost(spec) {
					// The second hop cannot tell by the host what was chosen here. The
					// value is a format, in which a percent sign is special.
					route.RequestHeadersToAdd = []*corev3.HeaderValueOption{{
						Header:       &corev3.HeaderValue{Key: serviceHeader, Value: strings.ReplaceAll(authority(r), "%", "%%")},
						AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
					}}
				} else {
					form.action.HostRewriteSpecifier = &routev3.RouteAction_HostRewriteLiteral{HostRewriteLiteral: authority(r)}
					route.RequestHeadersToRemove = []string{serviceHeader} // a client's own
				}
				route.Action = &routev3.Route_Route{Route: form.action}
			}
			if err := route.ValidateAll(); err != nil {
				f.add(r.Key, ReasonInvalid, "the gateway route is left out, Envoy would refuse it: %v", reason(err))
				continue
			}
			all = append(all, candidate{priority(spec.Priority), form.match, route})
		}
	}
	slices.SortStableFunc(all, func(x, y candidate) int {
		return cmp.Or(
			cmp.Compare(x.priority, y.priority), cmp.Compare(y.match.length(), x.match.length()),
			cmp.Compare(x.match.prefix+x.match.exact+x.match.regex, y.match.prefix+y.match.exact+y.match.regex),
		)
	})
	out := make([]*routev3.Route, len(all))
	for i, c := range all {
		out[i] = c.route
	}
	return out
}

// serviceHeader names the virtual service where the host is kept.
const serviceHeader = "x-app-mesh-virtual-service"

// keepsHost says whether the host is not rewritten to the service's name.
func keepsHost(spec *api.GatewayRouteSpec) bool {
	var h *api.GatewayRouteHostnameRewrite
	switch http := httpGatewayRoute(spec); {
	case http != nil && http.Action.Rewrite != nil:
		h = http.Action.Rewrite.Hostname
	case spec.GRPCRoute != nil && spec.GRPCRoute.Action.Rewrite != nil:
		h = spec.GRPCRoute.Action.Rewrite.Hostname
	}
	return h != nil && h.DefaultTargetHostname == api.DefaultGatewayRouteRewriteDisabled
}

func httpGatewayRoute(spec *api.GatewayRouteSpec) *api.HTTPGatewayRoute {
	if spec.HTTPRoute != nil {
		return spec.HTTPRoute
	}
	return spec.HTTP2Route
}

// hasTargetPort says whether the port that the route's target names leads
// anywhere. Where the service has one port alone, that is taken in any case.
func hasTargetPort(r mesh.GatewayRoute, f *faults) bool {
	on, port := ports(r.Service), r.Target().Port
	if port == nil || len(on) == 0 || slices.ContainsFunc(on, func(at portOf) bool { return int64(at.port) == *port }) {
		return true
	}
	if len(on) == 1 {
		f.add(r.Key, ReasonMismatch, "action.target.port: virtual service %s has no listener on port %d; its only one, on port %d, is used", r.Service.Key.Name, *port, on[0].port)
		return true
	}
	f.add(r.Key, ReasonMismatch, "action.target.port: virtual service %s has no listener on port %d; the route answers 503", r.Service.Key.Name, *port)
	return false
}

// authority is what tells the second hop where to go: the service's name, and
// the port where the service has several.
func authority(r mesh.GatewayRoute) string {
	name := r.Service.Key.Name
	if t := r.Target(); t.Port != nil && len(ports(r.Service)) > 1 {
		return fmt.Sprintf("%s:%d", name, *t.Port)
	}
	return name
}
