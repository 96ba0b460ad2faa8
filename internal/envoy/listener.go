package envoy

import (
	"fmt"
	"strconv"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	originaldstv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/original_dst/v3"
	tlsinspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"
	directv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/direct_response/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/evermesh/evermesh/internal/api"
)

// The ports that interception redirects to, and the gateway's second hop.
const (
	ingressPort = 15000
	egressPort  = 15001
)

// Stat prefixes.
const (
	ingressPrefix = "ingress"
	egressPrefix  = "egress"
)

// ingressStats is the stat prefix of a listener's chain (EMS-029).
func ingressStats(listeners int, protocol api.PortProtocol, port uint32) string {
	if listeners == 1 {
		return ingressPrefix
	}
	return fmt.Sprintf("%s.%s.%d", ingressPrefix, protocol, port)
}

// place is what a listener binds.
type place struct {
	host string
	port uint32
}

// anywhere is a port on all addresses of the families that listeners take.
func (b *build) anywhere(port uint32) place { return place{b.ip.any, port} }

// listener makes a piece of a listener; its name, direction and metadata are
// App Mesh's (EMS-020).
func (b *build) listener(direction corev3.TrafficDirection, at place, extra string, inputs []*api.Resource, refs references,
	mk func(p *piece, l *listenerv3.Listener),
) {
	word := ingressPrefix
	if direction == corev3.TrafficDirection_OUTBOUND {
		word = egressPrefix
	}
	name := fmt.Sprintf("lds_%s_%s_%d", word, at.host, at.port)
	p := b.piece(listenerPiece(word, at), extra, inputs, func(p *piece) {
		l := &listenerv3.Listener{Name: name, Address: at.bind(), TrafficDirection: direction, Metadata: aggregateStats()}
		mk(p, l)
		b.countConnections(l)
		r, err := b.owner.resource(name, l, refs, nil)
		if err != nil {
			p.add(b.own.Key, ReasonInvalid, "listener %s is left out, Envoy would refuse it: %v", name, reason(err))
			return
		}
		p.resource = r
	})
	b.put(Listener, p.resource)
}

// listenerPiece names the piece of a listener.
func listenerPiece(word string, at place) string {
	return "listener " + word + " " + at.host + " " + strconv.FormatUint(uint64(at.port), 10)
}

// rds names the route configuration of a port.
func rds(direction string, protocol api.PortProtocol, port uint32) string {
	return "rds_" + direction + "_" + string(protocol) + "_" + strconv.FormatUint(uint64(port), 10)
}

// connectionManager is the HTTP filter of a chain. Path normalisation is App
// Mesh's, as routes match prefixes (RT-017, GR-012); websocket upgrades are
// allowed everywhere (VN-007). The router is its last filter, after others.
func (b *build) connectionManager(prefix, routes string, before ...*hcmv3.HttpFilter) *listenerv3.Filter {
	return filter("envoy.filters.network.http_connection_manager", &hcmv3.HttpConnectionManager{
		StatPrefix: prefix,
		RouteSpecifier: &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{
			RouteConfigName: routes,
			ConfigSource:    b.owner.steady().ads,
		}},
		HttpFilters: append(before, &hcmv3.HttpFilter{
			Name: "envoy.filters.http.router", ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: pack(&routerv3.Router{})},
		}),
		Tracing:                      &hcmv3.HttpConnectionManager_Tracing{},
		AccessLog:                    append(b.accessLog(), b.requestMetrics(prefix)...),
		UpgradeConfigs:               []*hcmv3.HttpConnectionManager_UpgradeConfig{{UpgradeType: "websocket", Enabled: wrapperspb.Bool(true)}},
		NormalizePath:                wrapperspb.Bool(true),
		MergeSlashes:                 true,
		PathWithEscapedSlashesAction: hcmv3.HttpConnectionManager_KEEP_UNCHANGED,
	})
}

// fromADS is the source of everything that is sent apart from what names it.
func fromADS() *corev3.ConfigSource {
	return &corev3.ConfigSource{
		ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
		ResourceApiVersion:    corev3.ApiVersion_V3,
	}
}

// weighted is a cluster and its share.
type weighted struct {
	cluster string
	weight  uint32
}

// tcpProxy passes bytes on to clusters by weight. Envoy takes no weight of 0
// here, so callers leave those out. service is what it is for, when it is for one.
func (b *build) tcpProxy(prefix, service string, idle *durationpb.Duration, to ...weighted) *listenerv3.Filter {
	m := &tcpv3.TcpProxy{StatPrefix: prefix, IdleTimeout: idle, AccessLog: append(b.accessLog(), b.connectionMetrics(prefix, service)...)}
	if len(to) == 1 {
		m.ClusterSpecifier = &tcpv3.TcpProxy_Cluster{Cluster: to[0].cluster}
	} else {
		many := &tcpv3.TcpProxy_WeightedCluster{}
		for _, w := range to {
			many.Clusters = append(many.Clusters, &tcpv3.TcpProxy_WeightedCluster_ClusterWeight{Name: w.cluster, Weight: w.weight})
		}
		m.ClusterSpecifier = &tcpv3.TcpProxy_WeightedClusters{WeightedClusters: many}
	}
	return filter("envoy.filters.network.tcp_proxy", m)
}

// hangUp closes what connects.
func hangUp() *listenerv3.Filter {
	return filter("envoy.filters.network.direct_response", &directv3.Config{})
}

func filter(name string, m proto.Message) *listenerv3.Filter {
	return &listenerv3.Filter{Name: name, ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: pack(m)}}
}

func originalDst() *listenerv3.ListenerFilter {
	return &listenerv3.ListenerFilter{
		Name:       "envoy.filters.listener.original_dst",
		ConfigType: &listenerv3.ListenerFilter_TypedConfig{TypedConfig: pack(&originaldstv3.OriginalDst{})},
	}
}

// tlsInspector finds out the server name and whether a connection is TLS. Where
// it is on, a protocol in which the server speaks first waits 15 s and is then
// closed; so off names the ports where it must not look.
func tlsInspector(off *listenerv3.ListenerFilterChainMatchPredicate) *listenerv3.ListenerFilter {
	return &listenerv3.ListenerFilter{
		Name:           "envoy.filters.listener.tls_inspector",
		ConfigType:     &listenerv3.ListenerFilter_TypedConfig{TypedConfig: pack(&tlsinspectorv3.TlsInspector{})},
		FilterDisabled: off,
	}
}

func onPort(port uint32) *listenerv3.ListenerFilterChainMatchPredicate {
	return &listenerv3.ListenerFilterChainMatchPredicate{
		Rule: &listenerv3.ListenerFilterChainMatchPredicate_DestinationPortRange{
			DestinationPortRange: &typev3.Int32Range{Start: int32(port), End: int32(port) + 1},
		},
	}
}

// onPorts matches each of the ports; nil when there are none.
func onPorts(ports []uint32) *listenerv3.ListenerFilterChainMatchPredicate {
	switch len(ports) {
	case 0:
		return nil
	case 1:
		return onPort(ports[0])
	}
	set := &listenerv3.ListenerFilterChainMatchPredicate_MatchSet{}
	for _, p := range ports {
		set.Rules = append(set.Rules, onPort(p))
	}
	return &listenerv3.ListenerFilterChainMatchPredicate{Rule: &listenerv3.ListenerFilterChainMatchPredicate_OrMatch{OrMatch: set}}
}

func not(m *listenerv3.ListenerFilterChainMatchPredicate) *listenerv3.ListenerFilterChainMatchPredicate {
	return &listenerv3.ListenerFilterChainMatchPredicate{Rule: &listenerv3.ListenerFilterChainMatchPredicate_NotMatch{NotMatch: m}}
}
