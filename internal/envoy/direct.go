package envoy

import (
	"fmt"
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/loopback"
	"github.com/evermesh/evermesh/internal/mesh"
)

// Where nothing redirects a workload's traffic (mesh.Direct), its listeners are where its
// connections go by themselves: for what it sends, one at the loopback address of each
// service (loopback.Address) and each port of it; for what comes in, one at each port of the
// node. All that is behind them is as ever: chains, routes, clusters, and the names of all.
// Each has a listener of its own, so that one whose port is taken harms no other.

// directEgress makes the outbound listeners; there is none without backends, and traffic to
// what is no backend does not pass.
func (b *build) directEgress(in *inner) {
	on := b.outbound()
	names := map[place][]string{}
	for i := range on {
		for _, backend := range on[i].behind() {
			at := on[i].place(backend)
			names[at] = append(names[at], backend.Service.Key.Name)
		}
	}
	for i := range on {
		o := &on[i]
		plan := string(b.resolve(o, in, nil))
		var clusters []string
		if o.tcp != nil {
			for _, w := range o.callee.to {
				clusters = append(clusters, w.cluster)
			}
		}
		slices.Sort(clusters)
		for _, backend := range o.behind() {
			at := o.place(backend)
			of := names[at]
			if of == nil {
				continue // made with another service of the address, by HTTP
			}
			delete(names, at)
			slices.Sort(of)
			b.listener(corev3.TrafficDirection_OUTBOUND, at, plan+" "+strings.Join(of, " "), []*api.Resource{b.own}, references{clusters: slices.Compact(clusters)}, func(_ *piece, l *listenerv3.Listener) {
				l.Metadata.FilterMetadata[servicesNamespace] = servicesOf(of)
				l.FilterChains = []*listenerv3.FilterChain{{
					FilterChainMatch: &listenerv3.FilterChainMatch{DestinationPort: wrapperspb.UInt32(o.port)},
					Filters:          []*listenerv3.Filter{b.outboundFilter(o)},
				}}
			})
		}
	}
}

// servicesNamespace is the metadata of such a listener that says which services' it is, by
// which `evermesh-agent hosts` tells what names are to resolve to.
const servicesNamespace = "evermesh"

func servicesOf(names []string) *structpb.Struct {
	list := &structpb.ListValue{}
	for _, name := range names {
		list.Values = append(list.Values, structpb.NewStringValue(name))
	}
	return &structpb.Struct{Fields: map[string]*structpb.Value{"services": structpb.NewListValue(list)}}
}

// behind are the services of a port.
func (o *outbound) behind() []mesh.Backend {
	if o.tcp != nil {
		return []mesh.Backend{*o.tcp}
	}
	return o.services
}

// place is where a service of the port is called.
func (o *outbound) place(of mesh.Backend) place {
	return place{loopback.Address(of.Service.Key.Name).String(), o.port}
}

// meets says whether a backend's listener on the same port would be that of o. Services by
// HTTP share their routes, whatever their addresses.
func meets(o *outbound, backend *mesh.Backend, tcp bool) bool {
	if !tcp {
		return o.tcp == nil
	}
	return slices.ContainsFunc(o.behind(), func(x mesh.Backend) bool { return o.place(x) == o.place(*backend) })
}

// directIngress makes a listener for each port of the node.
func (b *build) directIngress(ports []inbound) {
	host := b.direct.Ingress()
	if host == "" {
		host = b.ip.any
	}
	for i := range ports {
		b.inboundListener(place{host, ports[i].port}, ports[i:i+1])
	}
}

// notToItself closes what the workload sends to a port of its own listeners: to the address
// of a service, as a rule, that is no backend and has no listener, and whose requests its
// own application would get otherwise.
func (b *build) notToItself(port uint32) *listenerv3.FilterChain {
	m := &listenerv3.FilterChainMatch{
		DestinationPort: wrapperspb.UInt32(port),
		PrefixRanges:    []*corev3.CidrRange{{AddressPrefix: "127.0.0.0", PrefixLen: wrapperspb.UInt32(8)}},
	}
	if b.ip.any == "::" {
		m.PrefixRanges = append(m.PrefixRanges, &corev3.CidrRange{AddressPrefix: "::1", PrefixLen: wrapperspb.UInt32(128)})
	}
	return &listenerv3.FilterChain{FilterChainMatch: m, Filters: []*listenerv3.Filter{hangUp()}}
}

// application is the port of the application behind a port of the node. ok is false when
// Envoy would be led to itself: the port is then left out, and the problem tells what to set.
func (b *build) application(port uint32) (of uint32, ok bool) {
	if b.direct == "" {
		return port, true
	}
	of, _ = b.direct.Application(port)
	if b.direct.Ingress() != "" {
		return of, true // which is not loopback, where the application listens
	}
	for _, l := range b.own.VirtualNodeSpec().Listeners {
		if uint32(l.PortMapping.Port) == of {
			b.report([]mesh.Problem{{Key: b.own.Key, Reason: ReasonConflict, Message: fmt.Sprintf(
				"proxies without interception take port %d on all addresses, and so cannot find the application on port %d: set EVERMESH_APP_PORTS=%d:PORT with the port where the application listens, "+
					"or EVERMESH_INGRESS_ADDRESS and have the application listen on loopback only; port %d is left out", of, of, port, port)}})
			return 0, false
		}
	}
	return of, true
}

// sayUnenforced remarks that a mesh's DROP_ALL is not kept by such proxies (MESH-002).
func (b *build) sayUnenforced() {
	if b.direct != "" && !b.allowAll {
		b.report([]mesh.Problem{{Key: b.own.Key, Reason: mesh.ReasonUnenforced, Message: "the mesh's egress filter is DROP_ALL, and proxies without interception do not see what the application sends past the loopback addresses of services: it is not dropped"}})
	}
}
