package bootstrap

import (
	"math"
	"net/netip"

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
		"grpcService": object{"envoyGrpc": object{"clusterName": tracesCluster}, "timeout": "10s"},
		"serviceName": s.serviceName(o),
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

// collector is a cluster for a collector of OTLP. Its certificate must be for its name, or its address.
func collector(name string, o *settings.OpenTelemetry) object {
	if o.Socket != "" {
		return pipeCluster(name, o.Socket)
	}
	c := overHTTP2(staticCluster(name, "STRICT_DNS", socketAddress(o.Address, o.Port, false)))
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
