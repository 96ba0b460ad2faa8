package bootstrap

import (
	"strings"

	"github.com/evermesh/evermesh/internal/agent/settings"
	"github.com/evermesh/evermesh/internal/api"
)

// statsTags tells Envoy which parts of a statistic's name are tags. The first group of an expression leaves the
// name, the second is the tag's value; a later expression sees what the earlier ones left.
func (s source) statsTags() list {
	if strings.Contains(s.Resource.ID, ":task-set/") {
		return s.serviceConnectTags()
	}
	var tags list
	fixed := func(name, value string) { tags = append(tags, object{"tagName": name, "fixedValue": value}) }
	regex := func(name, value string) { tags = append(tags, object{"tagName": name, "regex": value}) }
	modelled := s.Resource.Mesh != ""
	gateway := s.Resource.Kind == api.KindVirtualGateway
	if s.Bootstrap.StatsTags && modelled {
		fixed("appmesh.mesh", s.Resource.Mesh)
		fixed(choose(gateway, "appmesh.virtual_gateway", "appmesh.virtual_node"), s.Resource.Name)
	}
	if s.Bootstrap.MetricExtension && modelled {
		fixed("Mesh", s.Resource.Mesh)
		fixed(choose(gateway, "VirtualGateway", "VirtualNode"), s.Resource.Name)
		// A virtual service's name has dots, so its tag takes the rest and comes last.
		regex("TargetVirtualNode", `^appmesh.*?(\.TargetVirtualNode\.([^.]+))`)
		regex("TargetVirtualService", `^appmesh.*?(\.TargetVirtualService\.(.+))$`)
		// Connections are counted by filters of the inbound listener, under names of theirs: what is around the
		// family's name leaves it, as tags that the family does not have and whose value is empty.
		regex("TargetVirtualNode", `^connection_limit\.ingress\.appmesh\.ActiveConnectionCount(\.active_connections())$`)
		regex("TargetVirtualService", `^(connection_limit\.ingress\.())appmesh\.ActiveConnectionCount\.active_connections$`)
		regex("TargetVirtualNode", `^ingress\.appmesh\.NewConnectionCount(\.rbac\.shadow_allowed())$`)
		regex("TargetVirtualService", `^(ingress\.())appmesh\.NewConnectionCount\.rbac\.shadow_allowed$`)
	}
	// Nodes with several listeners name their statistics ingress.<protocol>.<port>. The expressions are those of App
	// Mesh's agent, anchored: Envoy searches every statistic's name from every place otherwise, and a node with a
	// hundred backends took nine seconds to start.
	regex("appmesh.listener_protocol", `^.*?\.ingress\.((\w+?)\.)[0-9]+?\.(.+?)$`)
	regex("appmesh.listener_port", `^.*?\.ingress\.\w+?\.(([0-9]+?)\.)(.+?)$`)
	regex("envoy_rds_route_config", `^.*?\.ingress\.\w+?\.[0-9]+?\.rds\.((.*?)\.)(.+?)$`)
	return tags
}

// serviceConnectTags are those of ECS' Service Connect, whose statistics are named appmesh.<tag>.<value>….<metric>, in any
// order. A discovery name may have dots: it ends where the next tag, or the metric, begins.
func (s source) serviceConnectTags() list {
	if !s.Bootstrap.MetricExtension {
		return nil
	}
	var tags list
	for _, name := range []string{"ServiceName", "ClusterName", "Direction"} {
		tags = append(tags, object{"tagName": name, "regex": `^appmesh\b.*?(\.` + name + `\.([^.]+))`})
	}
	for _, name := range []string{"DiscoveryName", "TargetDiscoveryName"} {
		tags = append(tags, object{"tagName": name, "regex": `^appmesh\b.*?(\.` + name +
			`\.(.+?))(?=\.(?:ServiceName|ClusterName|Direction|DiscoveryName|TargetDiscoveryName)\.|\.[^.]+$)`})
	}
	return tags
}

func choose(first bool, a, b string) string {
	if first {
		return a
	}
	return b
}

// sinks are where Envoy sends its statistics, and the clusters that it needs for that; none without.
func (s source) sinks() (sinks, clusters list) {
	if d := s.Bootstrap.Statsd; d != nil {
		sinks = append(sinks, statsd(d))
	}
	if o := s.Bootstrap.Metrics; o != nil {
		sinks, clusters = append(sinks, s.openTelemetrySink(o)), append(clusters, collector(metricsCluster, o))
	}
	return sinks, clusters
}

// statsd is the sink of StatsD, or of DogStatsD (AGENT-026, AGENT-027).
func statsd(d *settings.Statsd) object {
	address := socketAddress(d.Address, d.Port, true)
	if d.Socket != "" {
		address = object{"pipe": object{"path": d.Socket}}
	}
	return object{
		"name": choose(d.Dog, "envoy.stat_sinks.dog_statsd", "envoy.stat_sinks.statsd"),
		"typedConfig": object{
			"@type":   "type.googleapis.com/envoy.config.metrics.v3." + choose(d.Dog, "DogStatsdSink", "StatsdSink"),
			"address": address,
		},
	}
}
