package envoy

import (
	"cmp"
	"fmt"
	"slices"
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
	protocol api.PortProtocol // of the first service
	services []mesh.Backend   // by HTTP
	tcp      *mesh.Backend    // or one by TCP
}

// nodeEgress makes the outbound listener; it is always there (EMS-021).
func (b *build) nodeEgress() {
	allow := ""
	if b.allowAll {
		allow = b.passThrough("mesh-allow-all")
	}
	aws := b.passThrough("amazonaws")
	on := b.outbound()
	numbers := make([]uint32, 0, len(on))
	for port := range on {
		numbers = append(numbers, port)
	}
	// HTTP chains before TCP ones, each by port: the order of chains is stable.
	slices.SortFunc(numbers, func(x, y uint32) int {
		return cmp.Or(cmp.Compare(kind(on[x]), kind(on[y])), cmp.Compare(x, y))
	})
	clusters := []string{aws}
	var plan strings.Builder
	chains := make([]func() *listenerv3.FilterChain, 0, len(numbers))
	for _, port := range numbers {
		o := on[port]
		var mk func() *listenerv3.Filter
		if o.tcp == nil {
			config := rds(egressPrefix, o.protocol, port)
			b.egressRoutes(config, port, o, allow)
			mk = func() *listenerv3.Filter { return b.connectionManager(egressPrefix, config) }
			fmt.Fprintf(&plan, "%s\n", config)
		} else {
			to, idle := b.tcpTargets(o.tcp, portOf{port, api.PortProtocolTCP})
			mk = func() *listenerv3.Filter {
				if len(to) == 0 {
					return hangUp()
				}
				return b.tcpProxy(egressPrefix, idle, to...)
			}
			for _, w := range to {
				clusters = append(clusters, w.cluster)
			}
			fmt.Fprintf(&plan, "%d %v %v\n", port, to, idle.AsDuration())
		}
		chains = append(chains, func() *listenerv3.FilterChain {
			m := &listenerv3.FilterChainMatch{DestinationPort: wrapperspb.UInt32(port)}
			if port == 443 {
				// Envoy looks at addresses before server names: with other prefixes
				// than the amazonaws chain one of the two would be dead.
				m.PrefixRanges = b.ip.everywhere()
			}
			return &listenerv3.FilterChain{FilterChainMatch: m, Filters: []*listenerv3.Filter{mk()}}
		})
	}
	if allow != "" {
		clusters = append(clusters, allow)
	}
	slices.Sort(clusters)
	clusters = slices.Compact(clusters)
	extra := fmt.Sprintf("%s %v\n%s", b.ip.any, b.allowAll, plan.String())
	b.listener(corev3.TrafficDirection_OUTBOUND, egressPort, extra, []*api.Resource{b.own}, clusters, func(_ *piece, l *listenerv3.Listener) {
		// Only 443 has chains with server names.
		l.ListenerFilters = []*listenerv3.ListenerFilter{originalDst(), tlsInspector(not(onPort(443)))}
		// Who connects to this listener itself, from outside, would be sent back to
		// it for ever.
		l.FilterChains = append(l.FilterChains, &listenerv3.FilterChain{
			FilterChainMatch: &listenerv3.FilterChainMatch{DestinationPort: wrapperspb.UInt32(egressPort)},
			Filters:          []*listenerv3.Filter{hangUp()},
		})
		for _, chain := range chains {
			l.FilterChains = append(l.FilterChains, chain())
		}
		l.FilterChains = append(l.FilterChains, b.passing(aws, allow, on[443] != nil)...)
	})
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
		return &listenerv3.FilterChain{FilterChainMatch: m, Filters: []*listenerv3.Filter{b.tcpProxy(egressPrefix, nil, weighted{cluster, 1})}}
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
func (b *build) outbound() map[uint32]*outbound {
	on := map[uint32]*outbound{}
	for _, tcp := range []bool{false, true} {
		for i := range b.view.Backends {
			backend := &b.view.Backends[i]
			if s := backend.Service; len(ports(s)) == 0 && (s.Router != nil || s.Node != nil) {
				b.report([]mesh.Problem{{Key: s.Key, Reason: ReasonMismatch, Message: "the provider has no listener, so the service has no port on which it can be called"}})
			}
			for _, at := range ports(backend.Service) {
				if isHTTP(at.protocol) == tcp {
					continue
				}
				o := on[at.port]
				switch {
				case at.port == egressPort || at.port == ingressPort:
					b.report([]mesh.Problem{{Key: backend.Service.Key, Reason: ReasonConflict, Message: fmt.Sprintf("port %d is the proxy's own; the service cannot be called on it", at.port)}})
				case o == nil && tcp:
					on[at.port] = &outbound{tcp: backend}
				case o == nil:
					on[at.port] = &outbound{protocol: at.protocol, services: []mesh.Backend{*backend}}
				case !tcp:
					if !slices.ContainsFunc(o.services, func(x mesh.Backend) bool { return x.Service == backend.Service }) {
						o.services = append(o.services, *backend)
					}
				case o.tcp == nil || o.tcp.Service != backend.Service:
					b.report([]mesh.Problem{{Key: backend.Service.Key, Reason: ReasonConflict, Message: fmt.Sprintf(
						"another backend of %s uses port %d, and a tcp service needs a port of its own: give its virtual router another listener port", b.own.Key.Name, at.port)}})
				}
			}
		}
	}
	return on
}

// egressRoutes makes the route configuration of a port: a virtual host for each
// service, sorted by name.
func (b *build) egressRoutes(config string, port uint32, o *outbound, allow string) {
	services := slices.SortedStableFunc(slices.Values(o.services), func(x, y mesh.Backend) int {
		return strings.Compare(x.Service.Key.Name, y.Service.Key.Name)
	})
	taken := names{}
	var hosts []*VirtualHost
	for _, backend := range services {
		s := backend.Service
		at := portOf{port, protocolOn(s, port)}
		p := b.nodePolicy(backend.Spec)
		b.reach(s, at, p)
		domains := taken.claim(s.Key.Name, fmt.Sprintf("%s:%d", s.Key.Name, port))
		hosts = append(hosts, b.host(config, hostName(s.Key.Name), domains, fmt.Sprint(at.protocol, p), inputs(s), s.Key, func(f *faults) []*routev3.Route {
			return b.routes(s, at, p, f)
		}))
	}
	if allow != "" {
		if domains := taken.claim("*"); domains != nil {
			hosts = append(hosts, b.host(config, allowAllHost, domains, allow, nil, b.own.Key.MeshKey(), func(*faults) []*routev3.Route {
				return []*routev3.Route{{
					Match:  &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
					Action: &routev3.Route_Route{Route: &routev3.RouteAction{ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: allow}}},
				}}
			}))
		}
	}
	b.routeConfig(&routev3.RouteConfiguration{Name: config}, hosts)
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

func protocolOn(s *mesh.Service, port uint32) api.PortProtocol {
	for _, at := range ports(s) {
		if at.port == port && isHTTP(at.protocol) {
			return at.protocol
		}
	}
	return api.PortProtocolHTTP
}

// tcpTargets are the clusters of a tcp service. Of several tcp routes one is
// used, as they match nothing (RT-043).
func (b *build) tcpTargets(backend *mesh.Backend, at portOf) (to []weighted, idle *durationpb.Duration) {
	s, p := backend.Service, b.nodePolicy(backend.Spec)
	b.reach(s, at, p)
	if s.Router == nil {
		if l := at.listener(s.Node); !p.wants(l) {
			to = []weighted{{egressCluster(b.mesh, s.Node, l), 1}}
		}
		return to, nil
	}
	var f faults
	defer func() { b.report(f.problems) }()
	routes := routesOn(s.Router, at, &f)
	if len(routes) == 0 {
		return nil, nil
	}
	for _, r := range routes[1:] {
		f.add(r.Key, ReasonConflict, "only one tcp route of a port can be used, and that is %s; this one is left out", routes[0].Key.Name)
	}
	for _, x := range shares(routes[0], p, &f) {
		if x.weight > 0 {
			to = append(to, weighted{egressCluster(b.mesh, x.node, x.listener), x.weight})
		}
	}
	f.cut(routes[0].Resource)
	_, d := routeTimeout(routes[0].RouteSpec())
	return to, duration(d)
}
