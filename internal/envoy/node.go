package envoy

import (
	"fmt"
	"slices"
	"time"
	"unique"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
)

// node plans the proxies of a virtual node: what comes in for the application
// and what the application sends out.
func (b *build) node() *inner {
	in := b.inner()
	b.report(in.problems)
	for t := range in.resources {
		b.resources[t] = append(b.resources[t], in.resources[t]...)
	}
	if b.direct != "" {
		b.directEgress(in)
	} else {
		b.nodeEgress(in)
	}
	return in
}

// inner is the part of a node's bundle that follows from the node alone and
// from the mesh's settings, whatever becomes of the services that it calls.
type inner struct {
	node     *api.Resource
	ip       ip
	allowAll bool

	aws, allow string // clusters; allow is empty unless all is allowed
	allowHost  *VirtualHost
	policies   map[*api.VirtualServiceBackend]unique.Handle[policy]
	resources  [Secret][]*Resource
	pieces     []*piece
	problems   []mesh.Problem
}

// inner takes the part over from the previous bundle, or makes it.
func (b *build) inner() *inner {
	if b.previous != nil {
		if old := b.previous.inner; old != nil && old.node == b.own && old.ip == b.ip && old.allowAll == b.allowAll {
			return old
		}
	}
	b.clustersDiffer = true
	in := &inner{node: b.own, ip: b.ip, allowAll: b.allowAll}
	of := &build{
		owner: b.owner, view: b.view, own: b.own, mesh: b.mesh,
		meshWide: b.meshWide, ip: b.ip, allowAll: b.allowAll, noSDS: b.noSDS, direct: b.direct, previous: b.previous,
	}
	if b.previous != nil && b.previous.inner != nil {
		of.oldPieces = b.previous.inner.pieces
	}
	spec := b.own.VirtualNodeSpec()
	of.checkLog()
	if d := spec.ServiceDiscovery; b.owner.WithoutCloudMap && d != nil && d.AWSCloudMap != nil {
		of.report([]mesh.Problem{{Key: b.own.Key, Reason: ReasonNoSource, Message: noCloudMap}})
	}
	in.policies = of.nodePolicies(spec)
	of.nodeIngress(spec)
	of.sayUnenforced()
	in.aws = of.passThrough("amazonaws")
	if b.allowAll {
		in.allow = of.passThrough("mesh-allow-all")
		in.allowHost = of.allowHost(in.allow)
	}
	in.resources, in.problems = of.resources, of.problems
	// What other clients may share is held for them.
	in.pieces = slices.Clip(slices.DeleteFunc(of.pieces, func(p *piece) bool { return slices.Contains(p.inputs, b.own) }))
	return in
}

// inbound is what becomes of connections to a port of a node's listeners.
type inbound struct {
	port    uint32
	refs    references
	silent  bool // the inspector does not look there
	sniffed bool // it does, at a protocol in which the server may speak first
	chains  func() []*listenerv3.FilterChain
}

// nodeIngress makes the inbound listener, which a node without listeners does
// not have (EMS-021).
func (b *build) nodeIngress(spec *api.VirtualNodeSpec) {
	all := make([]inbound, 0, len(spec.Listeners))
	for i := range spec.Listeners {
		l := &spec.Listeners[i]
		protocol, port := l.PortMapping.Protocol, uint32(l.PortMapping.Port)
		if slices.ContainsFunc(spec.Listeners[:i], func(o api.Listener) bool { return o.PortMapping.Port == l.PortMapping.Port }) {
			b.repeated(port) // the API refuses it; a store may have it
			continue
		}
		if b.direct == "" && (port == ingressPort || port == egressPort) {
			b.proxysOwn(port) // what comes there would be sent to Envoy itself, again and again
			continue
		}
		t := nodeTermination(l.TLS, b.own.Key)
		tls, its := b.socket(t, protocol, fmt.Sprintf("listeners[%d]", i))
		if tls == nil && !t.offersPlaintext() {
			continue // there is no certificate
		}
		application, ok := b.application(port)
		if !ok {
			continue
		}
		in := inbound{port: port, refs: references{secrets: its.secrets}}
		cluster := fmt.Sprintf("cds_ingress_%s_%s_%s_%d", b.mesh, b.own.Key.Name, protocol, port)
		b.localCluster(cluster, protocol, application, nodePool(l.ConnectionPool))
		prefix := ingressStats(b.view.Listeners(), protocol, port)
		limit, idle := listenerTimeout(l)
		if isHTTP(protocol) {
			routes := rds(ingressPrefix, protocol, port)
			b.ingressRoutes(routes, fmt.Sprintf("%s_%s_%d", b.own.Key.Name, protocol, port), cluster, limit, idle)
			in.chains = func() []*listenerv3.FilterChain {
				return t.chains(port, true, tls, func() *listenerv3.Filter { return b.connectionManager(prefix, routes, answersChecks(l)...) })
			}
		} else {
			// Only who must tell TLS from plaintext has to wait for the client's first
			// bytes; where the server speaks first they do not come.
			in.sniffed = tls != nil && t.offersPlaintext()
			in.silent = !in.sniffed
			in.refs.clusters = []string{cluster}
			in.chains = func() []*listenerv3.FilterChain {
				return t.chains(port, in.sniffed, tls, func() *listenerv3.Filter { return b.tcpProxy(prefix, "", idle, weighted{cluster, 1}) })
			}
		}
		all = append(all, in)
	}
	switch {
	case b.direct != "":
		b.directIngress(all)
	case len(all) > 0: // Envoy takes no listener without chains
		b.inboundListener(b.anywhere(ingressPort), all, originalDst())
	}
}

// inboundListener makes a listener for what comes to the ports. before are listener filters
// ahead of the inspector.
func (b *build) inboundListener(at place, ports []inbound, before ...*listenerv3.ListenerFilter) {
	var refs references
	var silent []uint32
	sniffed := false
	for _, in := range ports {
		refs.secrets, refs.clusters = union(refs.secrets, in.refs.secrets), append(refs.clusters, in.refs.clusters...)
		sniffed = sniffed || in.sniffed
		if in.silent {
			silent = append(silent, in.port)
		}
	}
	slices.Sort(refs.clusters)
	b.listener(corev3.TrafficDirection_INBOUND, at, at.host, []*api.Resource{b.own}, refs, func(_ *piece, l *listenerv3.Listener) {
		// The inspector is there before any TLS is, so that turning TLS on later
		// replaces no listener and cuts no request.
		l.ListenerFilters = append(before, tlsInspector(onPorts(silent)))
		if sniffed {
			l.ListenerFiltersTimeout, l.ContinueOnListenerFiltersTimeout = durationpb.New(speakFirst), true
		}
		for _, in := range ports {
			l.FilterChains = append(l.FilterChains, in.chains()...)
		}
		if b.direct != "" && at.host == b.ip.any {
			l.FilterChains = append(l.FilterChains, b.notToItself(at.port))
		}
	})
}

// repeated is the problem of a listener whose port another one before it has.
func (b *build) repeated(port uint32) {
	b.report([]mesh.Problem{{Key: b.own.Key, Reason: ReasonConflict, Message: fmt.Sprintf("spec.listeners: port %d is there more than once; the first of these listeners is used", port)}})
}

// proxysOwn is the problem of a listener whose port Envoy itself listens on.
func (b *build) proxysOwn(port uint32) {
	b.report([]mesh.Problem{{Key: b.own.Key, Reason: ReasonConflict, Message: fmt.Sprintf("spec.listeners: port %d is the proxy's own; the listener is left out", port)}})
}

// speakFirst is how long a node with a PERMISSIVE tcp listener waits for a
// client's first bytes, which tell whether it speaks TLS. Who stays silent so
// long expects the server to speak first, and gets plaintext; without the bound
// Envoy would wait 15 s and hang up. Nodes without such listeners have neither
// the bound nor the wait.
const speakFirst = 2 * time.Second

// chains are the filter chains of a listener's port: one for plaintext, one for
// TLS, or both, told apart by the inspector. What is for plaintext is the same
// with and without TLS beside it: Envoy then leaves its connections alone when
// TLS is turned on. TLS alone on a port that is not inspected takes whatever
// comes for a handshake.
func (t termination) chains(port uint32, inspected bool, tls *corev3.TransportSocket, filter func() *listenerv3.Filter) []*listenerv3.FilterChain {
	var out []*listenerv3.FilterChain
	add := func(transport string, socket *corev3.TransportSocket) {
		out = append(out, &listenerv3.FilterChain{
			FilterChainMatch: &listenerv3.FilterChainMatch{DestinationPort: wrapperspb.UInt32(port), TransportProtocol: transport},
			Filters:          []*listenerv3.Filter{filter()}, TransportSocket: socket,
		})
	}
	if t.offersPlaintext() {
		add("raw_buffer", nil)
	}
	switch {
	case tls == nil:
	case inspected:
		add("tls", tls)
	default:
		add("", tls)
	}
	return out
}

// ingressRoutes sends everything to the application, within the listener's
// timeouts and without retries.
func (b *build) ingressRoutes(config, name, cluster string, limit, idle *durationpb.Duration) {
	h := b.host(config, name, []string{"*"}, cluster, []*api.Resource{b.own}, b.own.Key, func(*faults) []*routev3.Route {
		return []*routev3.Route{{
			Match: &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
			Action: &routev3.Route_Route{Route: &routev3.RouteAction{
				ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: cluster}, Timeout: limit, IdleTimeout: idle,
			}},
		}}
	})
	b.routeConfig(&routev3.RouteConfiguration{Name: config}, []*VirtualHost{h})
}

// listenerTimeout is the timeout of the listener's own protocol (VN-019,
// VN-020).
func listenerTimeout(l *api.Listener) (limit, idle *durationpb.Duration) {
	limit = durationpb.New(defaultTimeout)
	t := l.Timeout
	if t == nil {
		return limit, nil
	}
	switch l.PortMapping.Protocol {
	case api.PortProtocolHTTP:
		if t.HTTP != nil {
			return perRequest(t.HTTP.PerRequest), duration(t.HTTP.Idle)
		}
	case api.PortProtocolHTTP2:
		if t.HTTP2 != nil {
			return perRequest(t.HTTP2.PerRequest), duration(t.HTTP2.Idle)
		}
	case api.PortProtocolGRPC:
		if t.GRPC != nil {
			return perRequest(t.GRPC.PerRequest), duration(t.GRPC.Idle)
		}
	case api.PortProtocolTCP:
		if t.TCP != nil {
			return nil, duration(t.TCP.Idle)
		}
	}
	return limit, nil
}
