package bootstrap

import (
	"fmt"

	"github.com/evermesh/evermesh/internal/agent/settings"
)

// tracer is the bootstrap's tracer and the clusters that it sends to. The listeners of the control plane have an
// empty tracing section, which the tracer of the bootstrap makes act.
func (s source) tracer(files map[string][]byte) (tracer any, clusters list) {
	switch t := s.Bootstrap.Tracing; {
	case t.XRay != nil:
		return s.xray(t.XRay, files), nil
	case t.Datadog != nil:
		service := t.Datadog.Service
		if service == "" {
			service = "envoy"
			if s.Resource.Mesh != "" {
				service = "envoy-" + s.segment()
			}
		}
		return object{"name": "envoy.tracers.datadog", "typedConfig": object{
			"@type":            "type.googleapis.com/envoy.config.trace.v3.DatadogConfig",
			"collectorCluster": datadogCluster, "serviceName": service,
		}}, list{staticCluster(datadogCluster, "STRICT_DNS", socketAddress(t.Datadog.Address, t.Datadog.Port, false))}
	case t.Jaeger != nil:
		return object{"name": "envoy.tracers.zipkin", "typedConfig": object{
			"@type":            "type.googleapis.com/envoy.config.trace.v3.ZipkinConfig",
			"collectorCluster": jaegerCluster, "collectorEndpoint": "/api/v2/spans", "sharedSpanContext": false,
			"collectorEndpointVersion": choose(t.Jaeger.JSON, "HTTP_JSON", "HTTP_PROTO"),
		}}, list{staticCluster(jaegerCluster, "STRICT_DNS", socketAddress(t.Jaeger.Address, t.Jaeger.Port, false))}
	case t.OpenTelemetry != nil:
		return s.openTelemetryTracer(t.OpenTelemetry), list{collector(tracesCluster, t.OpenTelemetry)}
	}
	return nil, nil
}

// segment is how traces name the proxy: <mesh>/<resource>.
func (s source) segment() string {
	if s.Resource.Mesh == "" {
		return s.Resource.Cluster
	}
	return s.Resource.Mesh + "/" + s.Resource.Name
}

func (s source) xray(x *settings.XRay, files map[string][]byte) object {
	name := x.Segment
	if name == "" {
		name = s.segment()
	}
	config := object{
		"@type":          "type.googleapis.com/envoy.config.trace.v3.XRayConfig",
		"segmentName":    name,
		"daemonEndpoint": object{"address": x.Daemon, "portValue": x.Port, "protocol": "UDP"},
		"segmentFields": object{
			"origin": "AWS::AppMesh::Proxy",
			// Gateways too are virtual_node_name here: dashboards look for it.
			"aws": object{"app_mesh": object{"mesh_name": s.Resource.Mesh, "virtual_node_name": s.Resource.Name}},
		},
	}
	// The rules stand in the bootstrap itself, which Envoy takes as it takes a file's: a file in /tmp as App Mesh's agent
	// wrote it is shared by the agents of a machine, and cannot be written on a read-only file system.
	switch {
	case x.Manifest != "":
		config["samplingRuleManifest"] = object{"inlineString": string(files[x.Manifest])}
	case x.Rate != settings.DefaultSamplingRate:
		config["samplingRuleManifest"] = object{"inlineString": fmt.Sprintf(`{"version":2,"default":{"fixed_target":1,"rate":%g},"rules":[]}`, x.Rate)}
	}
	return object{"name": "envoy.tracers.xray", "typedConfig": config}
}
