package bootstrap

import (
	"math"
	"net"
	"net/netip"
	"net/url"
	"strconv"

	"github.com/evermesh/evermesh/internal/agent/settings"
)

// Every Envoy that App Mesh had knows the tracer; sampler and detectors came with 1.34, the sink's detectors with 1.36.
const (
	detectors = "envoy.tracers.opentelemetry.resource_detectors."
	samplers  = "envoy.tracers.opentelemetry.samplers."
)

func (s source) openTelemetryTracer(o *settings.OpenTelemetry) object {
	config := object{
		"@type":       "type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig",
		"serviceName": s.serviceName(o),
	}
	if o.HTTP {
		config["httpService"] = object{"httpUri": object{"uri": address(o), "cluster": tracesCluster, "timeout": "10s"}}
	} else {
		config["grpcService"] = object{"envoyGrpc": object{"clusterName": tracesCluster}, "timeout": "10s"}
	}
	if o.Attributes {
		config["resourceDetectors"] = list{fromEnvironment()}
	}
	if o.Ratio != nil {
		config["sampler"] = sampler(*o.Ratio)
	}
	return object{"name": "envoy.tracers.opentelemetry", "typedConfig": config}
}

// openTelemetrySink sends statistics with their tags as attributes, under names that begin with envoy as they do
// everywhere else.
func (s source) openTelemetrySink(o *settings.OpenTelemetry) object {
	detect := list{object{"name": detectors + "static_config", "typedConfig": object{
		"@type":      "type.googleapis.com/envoy.extensions.tracers.opentelemetry.resource_detectors.v3.StaticConfigResourceDetectorConfig",
		"attributes": object{"service.name": s.serviceName(o)},
	}}}
	if o.Attributes {
		detect = append(detect, fromEnvironment())
	}
	return object{"name": "envoy.stat_sinks.open_telemetry", "typedConfig": object{
		"@type":             "type.googleapis.com/envoy.extensions.stat_sinks.open_telemetry.v3.SinkConfig",
		"grpcService":       object{"envoyGrpc": object{"clusterName": metricsCluster}, "timeout": "10s"},
		"prefix":            "envoy",
		"resourceDetectors": detect,
	}}
}

func (s source) serviceName(o *settings.OpenTelemetry) string {
	if o.Service != "" {
		return o.Service
	}
	return s.segment()
}

// fromEnvironment has Envoy read OTEL_RESOURCE_ATTRIBUTES.
func fromEnvironment() object {
	return object{"name": detectors + "environment", "typedConfig": object{
		"@type": "type.googleapis.com/envoy.extensions.tracers.opentelemetry.resource_detectors.v3.EnvironmentResourceDetectorConfig",
	}}
}

// sampler takes a share of the traces that begin here; what another began is sampled as it was there.
func sampler(share float64) object {
	const types = "type.googleapis.com/envoy.extensions.tracers.opentelemetry.samplers.v3."
	return object{"name": samplers + "parent_based", "typedConfig": object{
		"@type": types + "ParentBasedSamplerConfig",
		"wrappedSampler": object{"name": samplers + "trace_id_ratio_based", "typedConfig": object{
			"@type":              types + "TraceIdRatioBasedSamplerConfig",
			"samplingPercentage": object{"numerator": int(math.Round(share * 1e6)), "denominator": "MILLION"},
		}},
	}}
}

// address is where requests by HTTP go.
func address(o *settings.OpenTelemetry) string {
	u := url.URL{Scheme: "http", Host: "localhost", RawPath: o.Path}
	u.Path, _ = url.PathUnescape(o.Path) // it was escaped by url
	if o.Socket == "" {
		u.Host = net.JoinHostPort(o.Address, strconv.Itoa(o.Port))
	}
	if o.CAFile != "" {
		u.Scheme = "https"
	}
	return u.String()
}

// spoken has a cluster speak the collector's protocol. What headers hold is in Envoy's environment: the bootstrap, which the
// administration interface shows, has their names.
func spoken(cluster object, o *settings.OpenTelemetry) object {
	overHTTP2(cluster)
	options := cluster["typedExtensionProtocolOptions"].(object)[httpOptions].(object)
	if o.HTTP {
		options["explicitHttpConfig"] = object{"httpProtocolOptions": object{}}
	}
	if len(o.Headers) == 0 {
		return cluster
	}
	const filters = "type.googleapis.com/envoy.extensions.filters.http."
	var mutations list
	for _, h := range o.Headers {
		mutations = append(mutations, object{"append": object{
			"header": object{"key": h.Name, "value": "%ENVIRONMENT(" + h.Variable + ")%"}, "appendAction": "OVERWRITE_IF_EXISTS_OR_ADD",
		}})
	}
	options["httpFilters"] = list{
		object{"name": "envoy.filters.http.header_mutation", "typedConfig": object{
			"@type": filters + "header_mutation.v3.HeaderMutation", "mutations": object{"requestMutations": mutations},
		}},
		object{"name": "envoy.filters.http.upstream_codec", "typedConfig": object{"@type": filters + "upstream_codec.v3.UpstreamCodec"}},
	}
	return cluster
}

// collector is a cluster for a collector of OTLP. Its certificate must be for its name, or its address.
func collector(name string, o *settings.OpenTelemetry) object {
	if o.Socket != "" {
		return spoken(staticCluster(name, "STATIC", object{"pipe": object{"path": o.Socket}}), o)
	}
	c := spoken(staticCluster(name, "STRICT_DNS", socketAddress(o.Address, o.Port, false)), o)
	if o.CAFile == "" {
		return c
	}
	kind := "DNS"
	tls := object{"@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"}
	if _, err := netip.ParseAddr(o.Address); err == nil {
		kind = "IP_ADDRESS" // and there is no such name to ask for
	} else {
		tls["sni"] = o.Address
	}
	tls["commonTlsContext"] = object{"validationContext": object{
		"trustedCa":                 object{"filename": o.CAFile},
		"matchTypedSubjectAltNames": list{object{"sanType": kind, "matcher": object{"exact": o.Address}}},
	}}
	c["transportSocket"] = object{"name": "envoy.transport_sockets.tls", "typedConfig": tls}
	return c
}
