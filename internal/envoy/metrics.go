package envoy

import (
	"fmt"
	"math"
	"slices"
	"strings"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	celv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/filters/cel/v3"
	statsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/stats/v3"
	limitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/connection_limit/v3"
	rbacfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/rbac/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/evermesh/evermesh/internal/api"
)

// The metric families of App Mesh's metrics extension, for proxies that ask for
// them (OBS-024, OBS-025). App Mesh had a WebAssembly module in every proxy; here
// Envoy's own loggers count what requests and connections were like when they
// ended. Two families count connections while they live, which no logger sees:
// they are the statistics of two filters that let everything pass, under names that
// the agent's stats tags turn into those of the families.
//
// Nothing of it is in the configuration of other proxies.

// metricPrefix is what the families' names begin with.
const metricPrefix = "appmesh"

// statPrefixes of the filters that count connections; the agent knows them.
const (
	activeConnections = "ingress.appmesh.ActiveConnectionCount"
	newConnections    = "ingress.appmesh.NewConnectionCount"
)

// Where the tags of a target are in the metadata of routes and clusters.
const (
	statsNamespace = "aws.appmesh.aggregate_stats"
	targetService  = "TargetVirtualService"
	targetNode     = "TargetVirtualNode"
)

// dimension is a tag of a family: a name and a format for its value.
type dimension struct{ name, format string }

// dimensions of all families: the mesh, and the node or gateway.
func (b *build) dimensions() []dimension {
	kind := "VirtualNode"
	if b.own.Key.Kind == api.KindVirtualGateway {
		kind = "VirtualGateway"
	}
	return []dimension{{"Mesh", verbatim(b.mesh)}, {kind, verbatim(b.own.Key.Name)}}
}

// verbatim is a format that gives the text as it is.
func verbatim(text string) string { return strings.ReplaceAll(text, "%", "%%") }

// target are the tags of what a request or connection was for. The service of a
// request is that of its route.
func target(service string) []dimension {
	if service = verbatim(service); service == "" {
		service = "%METADATA(ROUTE:" + statsNamespace + ":" + targetService + ")%"
	}
	return []dimension{{targetService, service}, {targetNode, "%METADATA(CLUSTER:" + statsNamespace + ":" + targetNode + ")%"}}
}

// requestMetrics count the requests of an HTTP chain, by its stat prefix.
func (b *build) requestMetrics(prefix string) []*accesslogv3.AccessLog {
	if !b.meshWide.metrics {
		return nil
	}
	if strings.HasPrefix(prefix, ingressPrefix) {
		return b.inboundRequests()
	}
	return b.outboundRequests()
}

func (b *build) inboundRequests() []*accesslogv3.AccessLog {
	d := b.dimensions()
	return []*accesslogv3.AccessLog{
		statsLog(nil, counters{
			countOf("RequestCount", d),
			totalOf("ProcessedBytes", "%DOWNSTREAM_WIRE_BYTES_RECEIVED%", d), totalOf("ProcessedBytes", "%DOWNSTREAM_WIRE_BYTES_SENT%", d),
		}),
		statsLog(&accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_HeaderFilter{HeaderFilter: &accesslogv3.HeaderFilter{
			Header: &routev3.HeaderMatcher{Name: "content-type", HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: &matcherv3.StringMatcher{
				MatchPattern: &matcherv3.StringMatcher_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: `application/grpc([+;].*)?`}},
			}}},
		}}}, counters{countOf("GrpcRequestCount", d)}),
	}
}

// Expressions that say what is known of a request when it has ended.
const (
	// sentToTarget: its route led to a virtual node.
	sentToTarget = `"` + statsNamespace + `" in xds.route_metadata.filter_metadata && "` + statsNamespace + `" in xds.cluster_metadata.filter_metadata`
	// answered: and a response came to its end.
	answered = sentToTarget + ` && has(response.backend_latency)`
)

func (b *build) outboundRequests() []*accesslogv3.AccessLog {
	d := slices.Concat(b.dimensions(), target(""))
	out := []*accesslogv3.AccessLog{
		statsLog(when(sentToTarget), counters{
			countOf("RequestCountPerTarget", d),
			totalOf("TargetProcessedBytes", "%UPSTREAM_WIRE_BYTES_SENT%", d), totalOf("TargetProcessedBytes", "%UPSTREAM_WIRE_BYTES_RECEIVED%", d),
		}),
		statsLog(when(answered), nil, &statsv3.Config_Histogram{
			Stat: stat("TargetResponseTime", d), Unit: statsv3.Config_Histogram_Milliseconds,
			ValueFormat: "%COMMON_DURATION(US_TX_BEG:US_RX_END:ms)%",
		}),
	}
	for class := uint32(2); class <= 5; class++ {
		// The cheap half comes first.
		both := &accesslogv3.AndFilter{Filters: []*accesslogv3.AccessLogFilter{
			status(accesslogv3.ComparisonFilter_GE, class*100), status(accesslogv3.ComparisonFilter_LE, class*100+99), when(sentToTarget),
		}}
		out = append(out, statsLog(&accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_AndFilter{AndFilter: both}},
			counters{countOf(fmt.Sprintf("HTTPCode_Target_%dXX_Count", class), d)}))
	}
	return out
}

// connectionMetrics count the bytes of a TCP chain's connections: of what comes in
// for the application, or of what goes out to a service. Other connections, to
// where they were going anyway, have no target.
func (b *build) connectionMetrics(prefix, service string) []*accesslogv3.AccessLog {
	switch {
	case !b.meshWide.metrics:
	case strings.HasPrefix(prefix, ingressPrefix):
		d := b.dimensions()
		return []*accesslogv3.AccessLog{statsLog(nil, counters{totalOf("ProcessedBytes", "%BYTES_RECEIVED%", d), totalOf("ProcessedBytes", "%BYTES_SENT%", d)})}
	case service != "":
		d := slices.Concat(b.dimensions(), target(service))
		return []*accesslogv3.AccessLog{statsLog(nil, counters{totalOf("TargetProcessedBytes", "%BYTES_RECEIVED%", d), totalOf("TargetProcessedBytes", "%BYTES_SENT%", d)})}
	}
	return nil
}

// countConnections puts the filters that count connections in front of each chain
// of an inbound listener. Neither refuses anything: the limit is out of reach, and
// the rule is only tried. A connection is new with its first bytes.
func (b *build) countConnections(l *listenerv3.Listener) {
	if !b.meshWide.metrics || l.TrafficDirection != corev3.TrafficDirection_INBOUND {
		return
	}
	for _, chain := range l.FilterChains {
		chain.Filters = append([]*listenerv3.Filter{
			filter("envoy.filters.network.connection_limit", &limitv3.ConnectionLimit{
				StatPrefix: activeConnections, MaxConnections: wrapperspb.UInt64(math.MaxUint32),
			}),
			filter("envoy.filters.network.rbac", &rbacfilterv3.RBAC{StatPrefix: newConnections, ShadowRules: &rbacv3.RBAC{
				Policies: map[string]*rbacv3.Policy{"any": {
					Permissions: []*rbacv3.Permission{{Rule: &rbacv3.Permission_Any{Any: true}}},
					Principals:  []*rbacv3.Principal{{Identifier: &rbacv3.Principal_Any{Any: true}}},
				}},
			}}),
		}, chain.Filters...)
	}
}

// targetTag is the metadata of a route or cluster that says what it leads to. The
// loggers cannot read App Mesh's form of it, a JSON text: for them it is there a
// second time.
func (b *build) targetTag(key, value string) *corev3.Metadata {
	m := aggregateStats(tag{key, value})
	if b.meshWide.metrics {
		m.FilterMetadata[statsNamespace].Fields[key] = structpb.NewStringValue(value)
	}
	return m
}

type counters []*statsv3.Config_Counter

// countOf counts what is logged.
func countOf(name string, d []dimension) *statsv3.Config_Counter {
	return &statsv3.Config_Counter{Stat: stat(name, d), ValueFixed: wrapperspb.UInt64(1)}
}

// totalOf adds a number of what is logged.
func totalOf(name, format string, d []dimension) *statsv3.Config_Counter {
	return &statsv3.Config_Counter{Stat: stat(name, d), ValueFormat: format}
}

func stat(name string, d []dimension) *statsv3.Config_Stat {
	out := &statsv3.Config_Stat{Name: name}
	for _, x := range d {
		out.Tags = append(out.Tags, &statsv3.Config_Tag{Name: x.name, ValueFormat: x.format})
	}
	return out
}

func statsLog(f *accesslogv3.AccessLogFilter, c counters, h ...*statsv3.Config_Histogram) *accesslogv3.AccessLog {
	return &accesslogv3.AccessLog{
		Name: "envoy.access_loggers.stats", Filter: f, ConfigType: &accesslogv3.AccessLog_TypedConfig{TypedConfig: pack(&statsv3.Config{
			StatsScope: &typev3.Scope{Prefix: metricPrefix}, Counters: c, Histograms: h,
		})},
	}
}

// when logs what the expression holds for.
func when(expression string) *accesslogv3.AccessLogFilter {
	return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_ExtensionFilter{ExtensionFilter: &accesslogv3.ExtensionFilter{
		Name:       "envoy.access_loggers.extension_filters.cel",
		ConfigType: &accesslogv3.ExtensionFilter_TypedConfig{TypedConfig: pack(&celv3.ExpressionFilter{Expression: expression})},
	}}}
}

// status compares a response's code. Envoy wants a key under which its operator
// could change the number.
func status(op accesslogv3.ComparisonFilter_Op, code uint32) *accesslogv3.AccessLogFilter {
	return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_StatusCodeFilter{StatusCodeFilter: &accesslogv3.StatusCodeFilter{
		Comparison: &accesslogv3.ComparisonFilter{Op: op, Value: &corev3.RuntimeUInt32{DefaultValue: code, RuntimeKey: fmt.Sprint("appmesh.metrics.", code)}},
	}}}
}
