package envoy

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
)

// gatewayEgress makes the second hop: the virtual services that gateway routes
// lead to, by host name, and those whose host is kept, by header.
func (b *build) gatewayEgress(protocol api.PortProtocol) {
	var byHost []*mesh.Service
	kept := map[string]mesh.GatewayRoute{} // by what the header says
	for _, r := range b.view.GatewayRoutes {
		spec := r.GatewayRouteSpec()
		switch {
		case spec == nil || r.Service == nil:
		case keepsHost(spec):
			kept[authority(r)] = r
		case !slices.Contains(byHost, r.Service):
			byHost = append(byHost, r.Service)
		}
	}
	slices.SortFunc(byHost, func(x, y *mesh.Service) int { return strings.Compare(x.Key.Name, y.Key.Name) })
	config, p := rds(egressPrefix, protocol, egressPort), b.gatewayPolicy()
	taken := names{}
	chosen := b.chosen(kept, &p)
	var hosts []*VirtualHost
	for _, s := range byHost {
		hosts = append(hosts, b.serviceHosts(config, s, &p, chosen, taken)...)
	}
	if chosen != nil {
		hosts = append(hosts, b.host(config, defaultHost, taken.claim("*"), chosen.extra, chosen.inputs, b.own.Key, chosen.routes))
	}
	b.routeConfig(&routev3.RouteConfiguration{Name: config}, hosts)
	b.listener(corev3.TrafficDirection_OUTBOUND, b.anywhere(egressPort), b.ip.any+" "+config, []*api.Resource{b.own}, references{}, func(_ *piece, l *listenerv3.Listener) {
		l.ListenerFilters = []*listenerv3.ListenerFilter{tlsInspector(nil)}
		l.FilterChains = []*listenerv3.FilterChain{{
			FilterChainMatch: &listenerv3.FilterChainMatch{DestinationPort: wrapperspb.UInt32(egressPort)},
			Filters:          []*listenerv3.Filter{b.connectionManager(egressPrefix, config)},
		}}
	})
}

// serviceHosts makes the virtual host of a service; one for each port where it
// has several, of which the first also goes by the name alone.
func (b *build) serviceHosts(config string, s *mesh.Service, p *policy, chosen *chosen, taken names) []*VirtualHost {
	name := s.Key.Name
	host := func(name string, domains []string, at portOf) *VirtualHost {
		extra, in := fmt.Sprint(at, b.meshWide.noRetry), inputs(s)
		if chosen != nil {
			extra, in = extra+" "+chosen.extra, append(in, chosen.inputs...)
		}
		return b.host(config, name, domains, extra, in, s.Key, func(f *faults) []*routev3.Route {
			return append(chosen.first(f), b.secondHop(s, at, f)...)
		})
	}
	on := ports(s)
	if len(on) == 0 {
		return []*VirtualHost{host(hostName(name), taken.claim(name, fmt.Sprintf("%s:%d", name, egressPort)), portOf{})}
	}
	var out []*VirtualHost
	for i, at := range on {
		b.reachHTTP(s, at, p)
		own, want := fmt.Sprintf("%s:%d", name, at.port), []string{}
		if i == 0 {
			own, want = hostName(name), []string{name, fmt.Sprintf("%s:%d", name, egressPort)}
		}
		if len(on) > 1 {
			want = append(want, fmt.Sprintf("%s:%d", name, at.port))
		}
		out = append(out, host(own, taken.claim(want...), at))
	}
	return out
}

// secondHop are the routes of a service for requests that came through a
// gateway. Without a provider there are none, which answers 404; a provider
// that does not exist answers 503, and so does one of tcp, which a gateway does
// not pass on.
func (b *build) secondHop(s *mesh.Service, at portOf, f *faults) []*routev3.Route {
	provider := s.VirtualServiceSpec().Provider
	missing := s.Router == nil && s.Node == nil && provider != nil && (provider.VirtualNode != nil || provider.VirtualRouter != nil)
	silent := !missing && at.port == 0 && (s.Router != nil || s.Node != nil)
	tcp := at.port != 0 && !isHTTP(at.protocol)
	switch {
	case silent:
		f.add(s.Key, ReasonMismatch, "the provider has no listener, so gateways cannot reach the service and answer 503")
	case tcp:
		f.add(s.Key, ReasonMismatch, "the provider's listener on port %d is tcp, which gateways do not pass on; they answer 503", at.port)
	case !missing && at.port == 0:
		return nil
	case !missing:
		return b.routes(s, at, f)
	}
	r := &routev3.Route{
		Match:    &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
		Metadata: b.targetTag(targetService, s.Key.Name),
	}
	unavailable(r)
	return []*routev3.Route{r}
}

func (b *build) reachHTTP(s *mesh.Service, at portOf, p *policy) {
	if at.port != 0 && isHTTP(at.protocol) {
		b.reach(s, at, p)
	}
}

// chosen makes the routes of requests whose host the first hop has kept. Their
// services are told by the header that it has set.
type chosen struct {
	extra  string // all that the routes are made from beside inputs
	inputs []*api.Resource
	routes func(f *faults) []*routev3.Route
}

// chosen is nil without kept hosts. kept is by what the header says.
func (b *build) chosen(kept map[string]mesh.GatewayRoute, p *policy) *chosen {
	if len(kept) == 0 {
		return nil
	}
	headers := slices.Sorted(maps.Keys(kept))
	at := func(r mesh.GatewayRoute) portOf {
		on := ports(r.Service)
		for _, p := range on {
			if t := r.Target(); t.Port != nil && len(on) > 1 && uint32(*t.Port) == p.port {
				return p
			}
		}
		if len(on) > 0 {
			return on[0]
		}
		return portOf{}
	}
	out := &chosen{extra: fmt.Sprintf("%q", headers)}
	for _, h := range headers {
		r := kept[h]
		out.inputs = append(out.inputs, inputs(r.Service)...)
		b.reachHTTP(r.Service, at(r), p)
	}
	out.routes = func(f *faults) []*routev3.Route {
		var all []*routev3.Route
		for _, h := range headers {
			for _, route := range b.secondHop(kept[h].Service, at(kept[h]), f) {
				route.Match.Headers = append(route.Match.Headers, headerIs(serviceHeader, h))
				route.ResponseHeadersToRemove = []string{serviceHeader}
				all = append(all, route)
			}
		}
		return all
	}
	return out
}

// first are the routes in front of those of any host: a client may name a
// service as the host, and still gets what the gateway route leads to, or 404.
// The header is the first hop's alone, which removes it from all other requests.
func (c *chosen) first(f *faults) []*routev3.Route {
	if c == nil {
		return nil
	}
	return append(c.routes(f), &routev3.Route{
		Match: &routev3.RouteMatch{
			PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"},
			Headers:       []*routev3.HeaderMatcher{{Name: serviceHeader, HeaderMatchSpecifier: &routev3.HeaderMatcher_PresentMatch{PresentMatch: true}}},
		},
		Action: &routev3.Route_DirectResponse{DirectResponse: &routev3.DirectResponseAction{Status: 404}},
	})
}
