// Package bootstrap writes Envoy's bootstrap. [File] is pure: settings and [Facts] about the machine in, YAML out; golden
// files cover it, and each is accepted by every Envoy that is supported. platform.go says where the proxy runs, stats.go has
// tags and sinks, tracing.go the tracers, opentelemetry.go what goes to a collector of its, sampling.go X-Ray's rules,
// merge.go what the user's own files add, and version.go what of them is refused.
package bootstrap

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/evermesh/evermesh/internal/agent/settings"
)

// Facts are what the bootstrap says about the machine and this process.
type Facts struct {
	Instance   string // random, the same for the life of the agent: tells the proxies of one resource apart
	SocketPath string // of the relay
	Kernel     string // release, such as 6.1.0
	Machine    string // hardware, such as x86_64
	// Addresses of the machine with their prefix length, by interface.
	IPv4, IPv6 map[string][]string

	// What the platform's services told; "" and nil for what they did not.
	Region, Zone, ZoneID string // where the instance is, such as us-west-2, us-west-2d, usw2-az2
	Task                 *Task
}

// Task is what ECS tells about the task that the proxy is part of. "" is what it does not tell.
type Task struct {
	Cluster, ARN string // Cluster may be a name
	CPU, Memory  string // the container's limits
	Zone         string // availability zone, such as us-west-2d
	Families     string // ALL, IPv4_ONLY or IPv6_ONLY
}

// InstanceKey is the key in the node's metadata under which the control plane finds Facts.Instance.
const InstanceKey = "evermesh.instance"

// SDSKey is the key in the node's metadata that says NoSDS when the bootstrap has no cluster for the workload's SDS
// server: Envoy would wait long for the secrets of one that it does not know, so the control plane names none.
const (
	SDSKey = "evermesh.sds"
	NoSDS  = "none"
)

// The bootstrap is a tree of these, with lower camel case keys as protobuf's JSON form has them.
type (
	object = map[string]any
	list   = []any
)

// The bootstrap's clusters.
const (
	relayCluster   = "relay_xds"
	sdsCluster     = "static_cluster_sds_unix_socket"
	localCluster   = "local_cluster"
	datadogCluster = "datadog_agent"
	jaegerCluster  = "jaeger"
	tracesCluster  = "otlp_traces"
	metricsCluster = "otlp_metrics"
)

// source is what a bootstrap is made of.
type source struct{ settings.Settings }

// File is Envoy's bootstrap as YAML. files is what [ReadUserFiles] read; what of them is worth a word is in warnings. An
// error about them is a *settings.ConfigError.
func File(of settings.Settings, f Facts, files map[string][]byte) (text []byte, warnings []string, err error) {
	s := source{of}
	doc := s.bootstrap(f, files)
	if warnings, err = merge(of.Bootstrap, doc, files); err != nil {
		return nil, nil, err
	}
	sayNoSDS(doc)
	if text, err = yaml.Marshal(doc); err != nil {
		return nil, nil, fmt.Errorf("write bootstrap: %w", err)
	}
	return append([]byte(settings.GeneratedMark), text...), warnings, nil
}

// sayNoSDS notes in the node's metadata that nothing, the user's files included, gave the bootstrap an SDS server.
func sayNoSDS(doc object) {
	resources, _ := doc["staticResources"].(object)
	clusters, _ := resources["clusters"].(list)
	for _, c := range clusters {
		if c, ok := c.(object); ok && c["name"] == sdsCluster {
			return
		}
	}
	if node, ok := doc["node"].(object); ok {
		if metadata, ok := node["metadata"].(object); ok {
			metadata[SDSKey] = NoSDS
		}
	}
}

func (s source) bootstrap(f Facts, files map[string][]byte) object {
	doc := object{
		"node":             s.node(f),
		"admin":            s.adminInterface(),
		"layeredRuntime":   object{"layers": list{object{"name": "static_layer_0", "staticLayer": s.runtime()}, object{"name": "admin_layer", "adminLayer": object{}}}},
		"clusterManager":   s.clusterManager(),
		"dynamicResources": s.dynamicResources(),

		"typedDnsResolverConfig": patientResolver(),
	}
	clusters := list{s.relay(f)}
	if s.Bootstrap.SDSSocket != "" {
		clusters = append(clusters, pipeCluster(sdsCluster, s.Bootstrap.SDSSocket))
	}
	if s.ServiceConnect != "" {
		clusters = append(clusters, object{
			"name": localCluster, "type": "EDS", "connectTimeout": "1s",
			"edsClusterConfig": object{"edsConfig": object{"ads": object{}, "resourceApiVersion": "V3", "initialFetchTimeout": "0.001s"}},
		})
	}
	tracer, collectors := s.tracer(files)
	if tracer != nil {
		doc["tracing"] = object{"http": tracer}
	}
	if tags := s.statsTags(); s.Bootstrap.StatsFile == "" && tags != nil {
		doc["statsConfig"] = object{"statsTags": tags}
	}
	sinks, more := s.sinks()
	if sinks != nil {
		doc["statsSinks"] = sinks
	}
	doc["staticResources"] = object{"clusters": slices.Concat(clusters, collectors, more)}
	if d := s.Bootstrap.StatsFlushInterval; d > 0 {
		doc["statsFlushInterval"] = seconds(d)
	}
	return doc
}

// patientResolver goes on asking a name server that is silent for 4 to 16 s. With its own four tries, of which each
// waits twice as long as the one before, Envoy's resolver gives up after 2 to 4 s, and the first comes after 250 ms; a
// new cluster would then count as warm without endpoints, and the requests that its route gets would fail.
func patientResolver() object {
	return object{"name": "envoy.network.dns_resolver.cares", "typedConfig": object{
		"@type": "type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig", "queryTries": 6,
	}}
}

func (s source) node(f Facts) object {
	metadata := object{
		"aws.appmesh.static_runtime":  s.runtime(),
		"aws.appmesh.task.interfaces": object{"ipv4": addresses(f.IPv4), "ipv6": addresses(f.IPv6)},
		"aws.appmesh.platformInfo":    s.platform(f),
		InstanceKey:                   f.Instance,
	}
	if s.Bootstrap.MetricExtension {
		metadata["aws.appmesh.metric_filter"] = object{"level": "1"}
	}
	s.serviceConnect(metadata)
	s.interception(f, metadata)
	node := object{"id": s.Resource.ID, "cluster": s.Resource.Cluster, "metadata": metadata}
	region := f.Region
	if region == "" {
		region = s.Region
	}
	// The zone's id, not its name: the same name means other zones to other accounts.
	if f.ZoneID != "" && region != "" {
		node["locality"] = object{"region": region, "zone": f.ZoneID}
	}
	return node
}

// addresses is a map that YAML writes sorted.
func addresses(of map[string][]string) object {
	out := object{}
	for name, list := range of {
		out[name] = list
	}
	return out
}

// runtime is the static layer. The guards that App Mesh's agent set beside these are gone from Envoy, which prints
// a stack trace for each.
func (s source) runtime() object {
	layer := object{
		"envoy.features.enable_all_deprecated_features": true,
		"re2.max_program_size.error_level":              1000,
	}
	if n := s.Bootstrap.MaxRequestsPerIOCycle; n > 0 {
		layer["http.max_requests_per_io_cycle"] = n
	}
	return layer
}

func (s source) adminInterface() object {
	address := object{"socketAddress": object{"address": "0.0.0.0", "portValue": s.Admin.Port}}
	switch {
	case s.Admin.Socket != "":
		address = object{"pipe": object{"path": s.Admin.Socket, "mode": 0o600}}
	case s.Bootstrap.AdminIPv6:
		address = object{"socketAddress": object{"address": "::", "portValue": s.Admin.Port, "ipv4Compat": true}}
	}
	return object{
		"accessLog": list{object{
			"name": "envoy.access_loggers.file",
			"typedConfig": object{
				"@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
				"path":  s.Bootstrap.AdminAccessLog,
			},
		}},
		"address": address,
	}
}

func (s source) clusterManager() object {
	m := object{"outlierDetection": object{"eventLogPath": s.Bootstrap.OutlierLog}}
	if s.ServiceConnect != "" {
		m["localClusterName"] = localCluster
	}
	if s.Mark != 0 {
		m["upstreamBindConfig"] = object{"socketOptions": list{object{
			"description": "SO_MARK", "level": 1, "name": 36, "intValue": int64(s.Mark), "state": "STATE_PREBIND",
		}}}
	}
	return m
}

// dynamicResources opens one delta stream to the relay. Envoy comes back after 0.1 to 1 s when the stream ends; the
// longer back-off is in the relay, which knows several endpoints.
func (s source) dynamicResources() object {
	ads := object{
		"ads": object{}, "resourceApiVersion": "V3", "initialFetchTimeout": strconv.Itoa(s.Bootstrap.InitialFetchTimeout) + "s",
	}
	api := "DELTA_GRPC"
	if s.ServiceConnect != "" {
		api = "GRPC" // what is behind that socket speaks as it did
	}
	return object{
		"ldsConfig": ads,
		"cdsConfig": ads,
		"adsConfig": object{
			"apiType": api, "transportApiVersion": "V3", "setNodeOnFirstMessageOnly": true,
			"grpcServices": list{object{"envoyGrpc": object{
				"clusterName": relayCluster,
				"retryPolicy": object{"retryBackOff": object{"baseInterval": "0.1s", "maxInterval": "1s"}},
			}}},
		},
	}
}

func (s source) relay(f Facts) object {
	if s.ServiceConnect != "" {
		return pipeCluster(relayCluster, s.ServiceConnect)
	}
	return pipeCluster(relayCluster, f.SocketPath)
}

// pipeCluster speaks gRPC to a unix socket.
func pipeCluster(name, path string) object {
	return overHTTP2(staticCluster(name, "STATIC", object{"pipe": object{"path": path}}))
}

const httpOptions = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

func overHTTP2(cluster object) object {
	cluster["typedExtensionProtocolOptions"] = object{httpOptions: object{
		"@type":              "type.googleapis.com/" + httpOptions,
		"explicitHttpConfig": object{"http2ProtocolOptions": object{"connectionKeepalive": object{"interval": "10s", "timeout": "20s"}}},
	}}
	return cluster
}

func staticCluster(name, kind string, address object) object {
	return object{
		"name": name, "type": kind, "connectTimeout": "1s",
		"loadAssignment": object{"clusterName": name, "endpoints": list{object{"lbEndpoints": list{object{"endpoint": object{"address": address}}}}}},
	}
}

func socketAddress(host string, port int, udp bool) object {
	a := object{"address": host, "portValue": port}
	if udp {
		a["protocol"] = "UDP"
	}
	return object{"socketAddress": a}
}

// seconds writes a duration as protobuf's JSON form does.
func seconds(d time.Duration) string {
	return strconv.FormatFloat(d.Seconds(), 'f', -1, 64) + "s"
}
