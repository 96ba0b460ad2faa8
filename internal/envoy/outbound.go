package envoy

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
)

// outbound is what an application may call on one port.
type outbound struct {
	port     uint32
	protocol api.PortProtocol // of the first service
	services []mesh.Backend   // by HTTP
	tcp      *mesh.Backend    // or one by TCP

	config string  // of its routes, by HTTP
	callee *callee // by TCP
}

// nodeEgress makes the outbound listener; it is always there (EMS-021).
func (b *build) nodeEgress(in *inner) {
	on := b.outbound()
	// HTTP chains before TCP ones, each by port: the order of chains is stable.
	slices.SortFunc(on, func(x, y outbound) int { return cmp.Or(cmp.Compare(kind(&x), kind(&y)), cmp.Compare(x.port, y.port)) })
	var space [256]byte
	plan := append(space[:0], b.ip.any...)
	for i := range on {
		plan = b.resolve(&on[i], in, plan)
	}
	if in.allow != "" {
		plan = append(plan, "\nall"...)
	}
	if old := b.old(listenerPiece(egressPrefix, b.anywhere(egressPort))); old != nil && old.inputs[0] == b.own && old.extra == string(plan) {
		b.pieces = append(b.pieces, old)
		b.report(old.problems)
		b.put(Listener, old.resource)
		return
	}
	b.egressListener(in, on, string(plan))
}

// resolve makes what is behind a port, and adds to the plan what of it its listener says.
func (b *build) resolve(o *outbound, in *inner, plan []byte) []byte {
	plan = strconv.AppendUint(append(plan, '\n'), uint64(o.port), 10)
	if o.tcp == nil {
		o.config = rds(egressPrefix, o.protocol, o.port)
		b.egressRoutes(o, in)
		return append(append(plan, ' '), o.config...)
	}
	o.callee = b.callee(o.tcp.Service, portOf{o.port, api.PortProtocolTCP}, b.policyFor(in, o.tcp.Spec))
	plan = append(plan, " tcp"...)
	if b.meshWide.metrics { // what is counted bears the service's name
		plan = append(append(plan, ' '), o.tcp.Service.Key.Name...)
	}
	if o.callee.idle != nil {
		plan = strconv.AppendInt(append(plan, " idle "...), int64(o.callee.idle.AsDuration()), 10)
	}
	for _, w := range o.callee.to {
		plan = strconv.AppendUint(append(append(append(plan, ' '), w.cluster...), '='), uint64(w.weight), 10)
	}
	return plan
}

func (b *build) egressListener(in *inner, on []outbound, plan string) {
	clusters := []string{in.aws}
	for _, o := range on {
		if o.tcp != nil {
			for _, w := range o.callee.to {
				clusters = append(clusters, w.cluster)
			}
		}
	}
	if in.allow != "" {
		clusters = append(clusters, in.allow)
	}
	slices.Sort(clusters)
	clusters = slices.Compact(clusters)
	own443 := slices.ContainsFunc(on, func(o outbound) bool { return o.port == 443 })
	b.listener(corev3.TrafficDirection_OUTBOUND, b.anywhere(egressPort), plan, []*api.Resource{b.own}, references{clusters: clusters}, func(_ *piece, l *listenerv3.Listener) {
		// Only 443 has chains with server names.
		l.ListenerFilters = []*listenerv3.ListenerFilter{originalDst(), tlsInspector(not(onPort(443)))}
		// Who connects to this listener itself, from outside, would be sent back to
		// it for ever.
		l.FilterChains = append(l.FilterChains, &listenerv3.FilterChain{
			FilterChainMatch: &listenerv3.FilterChainMatch{DestinationPort: wrapperspb.UInt32(egressPort)},
			Filters:          []*listenerv3.Filter{hangUp()},
		})
		for i := range on {
			o := &on[i]
			m := &listenerv3.FilterChainMatch{DestinationPort: wrapperspb.UInt32(o.port)}
			if o.port == 443 {
				// Envoy looks at addresses before server names: with other prefixes
				// than the amazonaws chain one of the two would be dead.
				m.PrefixRanges = b.ip.everywhere()
			}
			l.FilterChains = append(l.FilterChains, &listenerv3.FilterChain{FilterChainMatch: m, Filters: []*listenerv3.Filter{b.outboundFilter(o)}})
		}
		l.FilterChains = append(l.FilterChains, b.passing(in.aws, in.allow, own443)...)
	})
}

func (b *build) outboundFilter(o *outbound) *listenerv3.Filter {
	switch {
	case o.tcp == nil:
		return b.connectionManager(egressPrefix, o.config)
	case len(o.callee.to) == 0:
		return hangUp()
	}
	return b.tcpProxy(egressPrefix, o.tcp.Service.Key.Name, o.callee.idle, o.callee.to...)
}

func kind(o *outbound) int {
	if o.tcp != nil {
		return 1
	}
	return 0
}

// passing are the chains of traffic that is no backend's: to AWS by server
// name, and under ALLOW_ALL everything.
func (b *build) passing(aws, allow string, own443 bool) []*listenerv3.FilterChain {
	to := func(cluster string, m *listenerv3.FilterChainMatch) *listenerv3.FilterChain {
		m.PrefixRanges = b.ip.everywhere()
		return &listenerv3.FilterChain{FilterChainMatch: m, Filters: []*listenerv3.Filter{b.tcpProxy(egressPrefix, "", nil, weighted{cluster, 1})}}
	}
	out := []*listenerv3.FilterChain{
		to(aws, &listenerv3.FilterChainMatch{DestinationPort: wrapperspb.UInt32(443), ServerNames: []string{"*.amazonaws.com"}}),
	}
	if allow == "" {
		return out
	}
	out = append(out, to(allow, &listenerv3.FilterChainMatch{}))
	if !own443 {
		// Else TLS to other names than Amazon's would end in the chain above.
		out = append(out, to(allow, &listenerv3.FilterChainMatch{DestinationPort: wrapperspb.UInt32(443)}))
	}
	return out
}

// outbound sorts the backends by port. On a port either HTTP services share a
// chain by host name, or one TCP service has it; what does not fit is a
// conflict (EMS-035).
func (b *build) outbound() []outbound {
	var on []outbound
	var space [4]portOf
	backends := b.view.Backends
	for _, tcp := range []bool{false, true} {
		for i := range backends {
			backend := &backends[i]
			all := appendPorts(space[:0], backend.Service)
			if s := backend.Service; len(all) == 0 && (s.Router != nil || s.Node != nil) {
				b.report([]mesh.Problem{{Key: s.Key, Reason: ReasonMismatch, Message: "the provider has no listener, so the service has no port on which it can be called"}})
			}
			for _, at := range all {
				if isHTTP(at.protocol) == tcp {
					continue
				}
				j := slices.IndexFunc(on, func(o outbound) bool { return o.port == at.port && (b.direct == "" || meets(&o, backend, tcp)) })
				switch {
				case at.port == egressPort || at.port == ingressPort:
					b.report([]mesh.Problem{{Key: backend.Service.Key, Reason: ReasonConflict, Message: fmt.Sprintf("port %d is the proxy's own; the service cannot be called on it", at.port)}})
				case j < 0 && tcp:
					on = append(on, outbound{port: at.port, tcp: backend})
				case j < 0:
					on = append(on, outbound{port: at.port, protocol: at.protocol, services: append(make([]mesh.Backend, 0, len(backends)-i), *backend)})
				case !tcp:
					o := &on[j]
					if k := slices.IndexFunc(o.services, func(x mesh.Backend) bool { return x.Service == backend.Service }); k < 0 {
						o.services = append(o.services, *backend)
					} else {
						b.twice(&o.services[k], backend)
					}
				case on[j].tcp != nil && on[j].tcp.Service == backend.Service:
					b.twice(on[j].tcp, backend)
				default:
					b.report([]mesh.Problem{{Key: backend.Service.Key, Reason: ReasonConflict, Message: fmt.Sprintf(
						"another backend of %s uses port %d, and a tcp service needs a port of its own: give its virtual router another listener port", b.own.Key.Name, at.port)}})
				}
			}
		}
	}
	return on
}

// twice tells of a service that is a backend twice, with different policies.
func (b *build) twice(first, second *mesh.Backend) {
	if first.Spec == second.Spec || b.nodePolicy(first.Spec) == b.nodePolicy(second.Spec) {
		return
	}
	b.report([]mesh.Problem{{Key: b.own.Key, Reason: ReasonConflict, Message: fmt.Sprintf(
		"spec.backends names %s twice with different client policies; the first is used", first.Service.Key.Name)}})
}

// egressRoutes makes the route configuration of a port: a virtual host for each
// service, sorted by name.
func (b *build) egressRoutes(o *outbound, in *inner) {
	slices.SortStableFunc(o.services, func(x, y mesh.Backend) int { return strings.Compare(x.Service.Key.Name, y.Service.Key.Name) })
	hosts := make([]*VirtualHost, 0, len(o.services)+1)
	plain, first := true, len(b.callees)
	for _, backend := range o.services {
		s := backend.Service
		c := b.callee(s, portOf{o.port, protocolOn(s, o.port)}, b.policyFor(in, backend.Spec))
		hosts = append(hosts, c.host)
		plain = plain && c.plain
	}
	free := true
	if !plain {
		free = b.claim(o, hosts, b.callees[first:])
	}
	if free && in.allowHost != nil {
		hosts = append(hosts, in.allowHost)
	}
	b.routeConfig(&routev3.RouteConfiguration{Name: o.config}, hosts)
}

// claim gives the services of a port their domains, in order, where two may want
// the same; who gets less than usual has another host. It says whether the
// domain of everything is free.
func (b *build) claim(o *outbound, hosts []*VirtualHost, callees []*callee) (free bool) {
	taken := names{}
	for i, c := range callees {
		s, usual := c.service, domainsOf(c.service.Key.Name, o.port)
		domains := taken.claim(usual...)
		if len(domains) == len(usual) {
			continue
		}
		hosts[i] = b.host(o.config, hostName(s.Key.Name), domains, fmt.Sprint(c.at.protocol, b.meshWide.noRetry), inputs(s), s.Key, func(f *faults) []*routev3.Route {
			return b.routes(s, c.at, f)
		})
	}
	return taken.claim("*") != nil
}

// allowHost is the virtual host of everything that is no service.
func (b *build) allowHost(cluster string) *VirtualHost {
	p := b.piece("host "+allowAllHost, cluster, nil, func(p *piece) {
		b.fillHost(p, allowAllHost, []string{"*"}, b.own.Key.MeshKey(), func(*faults) []*routev3.Route {
			return []*routev3.Route{{
				Match:  &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
				Action: &routev3.Route_Route{Route: &routev3.RouteAction{ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: cluster}}},
			}}
		})
	})
	return p.host
}

// The virtual hosts that are no service's; their names are App Mesh's.
const (
	allowAllHost = "mesh_allow_all"
	defaultHost  = "default_backend"
)

// hostName names the virtual host of a service. By their names proxies' streams
// tell virtual hosts apart, so a service that is called like a special one gets
// another: one more " service" at the end, which no two services share.
func hostName(service string) string {
	const more = " service"
	plain := service
	for strings.HasSuffix(plain, more) {
		plain = strings.TrimSuffix(plain, more)
	}
	if plain == allowAllHost || plain == defaultHost {
		return service + more
	}
	return service
}

// protocolOn is the protocol by which a service is called on a port that it has
// by HTTP.
func protocolOn(s *mesh.Service, port uint32) api.PortProtocol {
	var space [4]portOf
	for _, at := range appendPorts(space[:0], s) {
		if at.port == port && isHTTP(at.protocol) {
			return at.protocol
		}
	}
	return api.PortProtocolHTTP
}

// tcpTargets are the clusters of a tcp service. Of several tcp routes one is
// used, as they match nothing (RT-043).
func (b *build) tcpTargets(s *mesh.Service, at portOf, f *faults) (to []weighted, idle *durationpb.Duration) {
	if s.Router == nil {
		return []weighted{{egressCluster(b.mesh, s.Node, at.listener(s.Node)), 1}}, nil
	}
	routes := routesOn(s.Router, at, f)
	if len(routes) == 0 {
		return nil, nil
	}
	for _, r := range routes[1:] {
		f.add(r.Key, ReasonConflict, "only one tcp route of a port can be used, and that is %s; this one is left out", routes[0].Key.Name)
	}
	for _, x := range shares(routes[0], f) {
		if x.weight > 0 {
			to = append(to, weighted{egressCluster(b.mesh, x.node, x.listener), x.weight})
		}
	}
	f.inspect(routes[0].Resource)
	_, d := routeTimeout(routes[0].RouteSpec())
	return to, duration(d)
}
