package envoy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
)

// portOf is a port and protocol on which a virtual service can be called.
type portOf struct {
	port     uint32
	protocol api.PortProtocol
}

// ports are those of a service: its router's listeners, or its node's.
func ports(s *mesh.Service) []portOf { return appendPorts(nil, s) }

func appendPorts(out []portOf, s *mesh.Service) []portOf {
	switch {
	case s.Router != nil:
		for i := range s.Router.VirtualRouterSpec().Listeners {
			m := &s.Router.VirtualRouterSpec().Listeners[i].PortMapping
			out = append(out, portOf{uint32(m.Port), m.Protocol})
		}
	case s.Node != nil:
		for i := range s.Node.VirtualNodeSpec().Listeners {
			m := &s.Node.VirtualNodeSpec().Listeners[i].PortMapping
			out = append(out, portOf{uint32(m.Port), m.Protocol})
		}
	}
	return out
}

// inputs are all resources that a service's routes are made from.
func inputs(s *mesh.Service) []*api.Resource {
	out := []*api.Resource{s.Resource, s.Node}
	if s.Router != nil {
		out = append(out, s.Router.Resource)
		for _, r := range s.Router.Routes {
			out = append(append(out, r.Resource), r.Targets...)
		}
	}
	return out
}

// routeProtocol is the protocol of a route's kind.
func routeProtocol(spec *api.RouteSpec) api.PortProtocol {
	switch {
	case spec.HTTPRoute != nil:
		return api.PortProtocolHTTP
	case spec.HTTP2Route != nil:
		return api.PortProtocolHTTP2
	case spec.GRPCRoute != nil:
		return api.PortProtocolGRPC
	}
	return api.PortProtocolTCP
}

// serves says whether a route is one of those on that port (RT-003, RT-020).
func serves(spec *api.RouteSpec, at portOf) bool {
	m := routeMatch(spec)
	return routeProtocol(spec) == at.protocol && (m.port == nil || uint32(*m.port) == at.port)
}

// routesOn are a router's routes on a port, in the order in which they are
// tried: lower priority first and none last, then the longer path, then the
// older route (RT-005, RT-006), and of those that are equally old the one whose
// name comes first.
func routesOn(r *mesh.Router, at portOf, f *faults) []mesh.Route {
	var out []mesh.Route
	for _, route := range r.Routes {
		spec := route.RouteSpec()
		if spec == nil {
			continue
		}
		if serves(spec, at) {
			out = append(out, route)
			continue
		}
		if !slices.ContainsFunc(r.VirtualRouterSpec().Listeners, func(l api.VirtualRouterListener) bool {
			return serves(spec, portOf{uint32(l.PortMapping.Port), l.PortMapping.Protocol})
		}) {
			f.add(route.Key, ReasonMismatch, "no listener of virtual router %s has the route's protocol %s and port; the route is left out", r.Key.Name, routeProtocol(spec))
		}
	}
	slices.SortStableFunc(out, func(a, b mesh.Route) int {
		x, y := routeMatch(a.RouteSpec()), routeMatch(b.RouteSpec())
		return cmp.Or(
			cmp.Compare(priority(a.RouteSpec().Priority), priority(b.RouteSpec().Priority)),
			cmp.Compare(y.length(), x.length()), a.Created.Compare(b.Created), strings.Compare(a.Key.Name, b.Key.Name),
		)
	})
	return out
}

// priority makes an absent priority the last.
func priority(p *int64) int64 {
	if p == nil {
		return 1001
	}
	return *p
}

// share is a weighted target that can be used.
type share struct {
	node     *api.Resource
	listener *api.Listener
	weight   uint32
}

// shares are the usable targets of a route; of those that are not, the problem
// goes to f. That a node does not exist has been said by the view.
func shares(route mesh.Route, f *faults) []share {
	protocol := routeProtocol(route.RouteSpec())
	var out []share
	for i, t := range route.WeightedTargets() {
		node := route.Targets[i]
		if node == nil {
			continue
		}
		l := listenerOf(node, t.Port)
		switch {
		case l == nil:
			f.add(route.Key, ReasonMismatch, "virtual node %s has no listener on the port that the route names, or none at all; its share goes to the route's other targets", t.VirtualNode)
		case l.PortMapping.Protocol != protocol:
			f.add(route.Key, ReasonMismatch, "virtual node %s listens for %s on port %d, the route is for %s; its share goes to the route's other targets", t.VirtualNode, l.PortMapping.Protocol, l.PortMapping.Port, protocol)
		default:
			out = append(out, share{node, l, uint32(t.Weight)})
		}
	}
	return out
}

// listenerOf is the listener that a weighted target means: that of the port, or
// the first.
func listenerOf(node *api.Resource, port *int64) *api.Listener {
	listeners := node.VirtualNodeSpec().Listeners
	for i := range listeners {
		if port == nil || listeners[i].PortMapping.Port == *port {
			return &listeners[i]
		}
	}
	return nil
}

// listener is the node's listener on that port. The port came from there.
func (at portOf) listener(node *api.Resource) *api.Listener {
	port := int64(at.port)
	return listenerOf(node, &port)
}

// reach makes the clusters behind a service's port, for gateways.
func (b *build) reach(s *mesh.Service, at portOf, p *policy) {
	targets(s, at, func(node *api.Resource, l *api.Listener) { b.nodeCluster(node, l, p) })
}

// routes are the routes of a service on one of its ports, in the order in which
// they are tried. A router without routes has none, which answers 404 (VR-010).
func (b *build) routes(s *mesh.Service, at portOf, f *faults) []*routev3.Route {
	metadata := b.targetTag(targetService, s.Key.Name)
	if s.Router == nil {
		m := requestMatch{prefix: "/"}
		match, _ := m.envoy() // a prefix is always valid
		l := at.listener(s.Node)
		action := forward([]weighted{{egressCluster(b.mesh, s.Node, l), 1}})
		action.Timeout, action.RetryPolicy = b.owner.steady().timeout, b.defaultRetry()
		return []*routev3.Route{{Match: match, Action: &routev3.Route_Route{Route: action}, Metadata: metadata}}
	}
	var out []*routev3.Route
	for _, r := range routesOn(s.Router, at, f) {
		if x := b.route(r, metadata, f); x != nil {
			out = append(out, x)
		}
	}
	return out
}

// route is nil when its match cannot be expressed.
func (b *build) route(r mesh.Route, metadata *corev3.Metadata, f *faults) *routev3.Route {
	spec := r.RouteSpec()
	m := routeMatch(spec)
	match, err := m.envoy()
	if err != nil {
		f.add(r.Key, ReasonInvalid, "the route is left out: its match is not valid: %v", err)
		return nil
	}
	if spec.HTTPRoute != nil && spec.HTTPRoute.Match.Scheme != "" {
		f.add(r.Key, ReasonNotTranslated, "spec.httpRoute.match.scheme is ignored: only http2 routes match the scheme")
	}
	out := &routev3.Route{Match: match, Metadata: metadata}
	var to []weighted
	total := uint32(0)
	for _, x := range shares(r, f) {
		to = append(to, weighted{egressCluster(b.mesh, x.node, x.listener), x.weight})
		total += x.weight
	}
	if total == 0 {
		unavailable(out) // Envoy refuses weights that add up to nothing
	} else {
		action := forward(to)
		limit, idle := routeTimeout(spec)
		action.Timeout, action.IdleTimeout, action.RetryPolicy = perRequest(limit), duration(idle), b.retryPolicy(spec)
		out.Action = &routev3.Route_Route{Route: action}
	}
	if err := out.ValidateAll(); err != nil {
		f.add(r.Key, ReasonInvalid, "the route is left out, Envoy would refuse it: %v", reason(err))
		return nil
	}
	return out
}

// unavailable makes a route answer 503 by itself.
func unavailable(r *routev3.Route) {
	r.Action = &routev3.Route_DirectResponse{DirectResponse: &routev3.DirectResponseAction{Status: 503}}
}

// forward sends requests to clusters by weight; weights of 0 are kept.
func forward(to []weighted) *routev3.RouteAction {
	set := &routev3.WeightedCluster{}
	for _, w := range to {
		set.Clusters = append(set.Clusters, &routev3.WeightedCluster_ClusterWeight{Name: w.cluster, Weight: wrapperspb.UInt32(w.weight)})
	}
	return &routev3.RouteAction{ClusterSpecifier: &routev3.RouteAction_WeightedClusters{WeightedClusters: set}}
}

func routeTimeout(spec *api.RouteSpec) (limit, idle *api.Duration) {
	http := spec.HTTPRoute
	if http == nil {
		http = spec.HTTP2Route
	}
	switch {
	case http != nil && http.Timeout != nil:
		return http.Timeout.PerRequest, http.Timeout.Idle
	case spec.GRPCRoute != nil && spec.GRPCRoute.Timeout != nil:
		return spec.GRPCRoute.Timeout.PerRequest, spec.GRPCRoute.Timeout.Idle
	case spec.TCPRoute != nil && spec.TCPRoute.Timeout != nil:
		return nil, spec.TCPRoute.Timeout.Idle
	}
	return nil, nil
}

// names gives out the domains of a route configuration: Envoy refuses one that
// comes twice, whatever its case.
type names map[string]bool

func (n names) claim(want ...string) []string {
	var out []string
	for _, d := range want {
		if key := strings.ToLower(d); !n[key] {
			n[key] = true
			out = append(out, d)
		}
	}
	return out
}

// host makes a piece of a virtual host; nil when there is none to make.
func (b *build) host(config, name string, domains []string, extra string, in []*api.Resource, responsible api.Key,
	mk func(f *faults) []*routev3.Route,
) *VirtualHost {
	if len(domains) == 0 {
		b.report([]mesh.Problem{{Key: responsible, Reason: ReasonConflict, Message: fmt.Sprintf("another virtual service of nearly the same name is reached by the same host names; %s is left out of %s", name, config)}})
		return nil
	}
	p := b.piece("host "+config+" "+name, fmt.Sprintf("%q %s", domains, extra), in, func(p *piece) {
		b.fillHost(p, name, domains, responsible, mk)
	})
	return p.host
}

// fillHost puts a virtual host into a piece.
func (b *build) fillHost(p *piece, name string, domains []string, responsible api.Key, mk func(f *faults) []*routev3.Route) {
	h, err := b.owner.host(&routev3.VirtualHost{Name: name, Domains: domains, Routes: mk(&p.faults)})
	if err != nil {
		p.add(responsible, ReasonInvalid, "%q is left out of the routes, Envoy would refuse it: %v", name, reason(err))
		return
	}
	p.host = h
}

// routeConfig puts hosts into a route configuration.
func (b *build) routeConfig(head *routev3.RouteConfiguration, hosts []*VirtualHost) {
	hosts = slices.DeleteFunc(hosts, func(h *VirtualHost) bool { return h == nil })
	name := head.GetName()
	head.ResponseHeadersToRemove = hopHeaders
	if b.previous != nil {
		// A client's route configurations of one name have one head.
		if old := b.previous.lists[Route].Get(name); old != nil {
			// The hosts are compared by identity, as resources are: equal ones are one.
			if !slices.Equal(old.Hosts, hosts) {
				old = old.WithHosts(hosts)
			}
			b.put(Route, old)
			return
		}
	}
	r, err := b.owner.routes(head, hosts)
	if err != nil {
		b.report([]mesh.Problem{{Key: b.own.Key, Reason: ReasonInvalid, Message: fmt.Sprintf("%s is left out, Envoy would refuse it: %v", name, reason(err))}})
		return
	}
	b.put(Route, r)
}
