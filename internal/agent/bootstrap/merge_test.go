package bootstrap

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/evermesh/evermesh/internal/agent/agenttest"
	"github.com/evermesh/evermesh/internal/agent/settings"
)

// merged is what becomes of one user file.
func merged(t *testing.T, variable, content string) (text string, warnings []string, err error) {
	t.Helper()
	s, err := settings.Parse(agenttest.Environment("APPMESH_RESOURCE_ARN=mesh/m/virtualNode/n", "APPMESH_XDS_ENDPOINT=c:1", variable+"=user.yaml"), settings.Flags{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	out, warnings, err := File(s, Facts{}, map[string][]byte{"user.yaml": []byte(content)})
	return string(out), warnings, err
}

func TestWarnings(t *testing.T) {
	for _, test := range []struct {
		name, variable, content string
		want                    []string
	}{
		{"a part of the user's own is none", "ENVOY_RESOURCES_CONFIG_FILE", "overload_manager: {refresh_interval: 1s}", nil},
		{
			"a replaced part is told by its keys, not by its values", "ENVOY_RESOURCES_CONFIG_FILE", "cluster_manager: {localClusterName: hush, load_stats_config: {}}",
			[]string{"ENVOY_RESOURCES_CONFIG_FILE: user.yaml: replaces the generated clusterManager: OLD {outlierDetection}, NEW {load_stats_config, localClusterName}"},
		},
		{
			"by its size, or not at all", "ENVOY_STATS_CONFIG_FILE", "cluster_manager:\nlayered_runtime: [hush]\nnode: hush",
			[]string{
				"ENVOY_STATS_CONFIG_FILE: user.yaml: replaces the generated clusterManager: OLD {outlierDetection}, NEW nothing",
				"ENVOY_STATS_CONFIG_FILE: user.yaml: replaces the generated layeredRuntime: OLD {layers}, NEW a list of 1",
				"ENVOY_STATS_CONFIG_FILE: user.yaml: replaces the generated node: OLD {cluster, id, metadata}, NEW a value",
			},
		},
		{"an empty file of resources", "ENVOY_RESOURCES_CONFIG_FILE", "# nothing yet\n", []string{"ENVOY_RESOURCES_CONFIG_FILE: user.yaml: is empty and is ignored"}},
		{"a tracing file without any", "ENVOY_TRACING_CFG_FILE", "stats_flush_interval: 1s", []string{"ENVOY_TRACING_CFG_FILE: user.yaml: has no tracing"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, warnings, err := merged(t, test.variable, test.content)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, warnings); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestOldVersion_IMG_016(t *testing.T) {
	for _, test := range []struct{ name, variable, content, want string }{
		{
			"a tracer", "ENVOY_TRACING_CFG_FILE",
			"tracing: {http: {name: envoy.tracers.xray, typed_config: {\"@type\": type.googleapis.com/envoy.config.trace.v2.XRayConfig}}}",
			"tracing.http.typed_config has the type envoy.config.trace.v2.XRayConfig, of version 2",
		},
		{
			"a tracer without a type", "ENVOY_TRACING_CFG_FILE", "tracing: {http: {name: envoy.zipkin, config: {collector_cluster: zipkin, collector_endpoint: /api/v1/spans}}}",
			"tracing.http has config in place of typed_config, of version 2",
		},
		{
			"an alpha", "ENVOY_TRACING_CFG_FILE", "tracing: {http: {name: x, typedConfig: {\"@type\": type.googleapis.com/envoy.config.trace.v2alpha.XRayConfig}}}",
			"tracing.http.typedConfig has the type envoy.config.trace.v2alpha.XRayConfig",
		},
		{
			"a sink", "ENVOY_STATS_SINKS_CFG_FILE", "stats_sinks: [{name: envoy.statsd, typed_config: {\"@type\": type.googleapis.com/envoy.config.metrics.v2.StatsdSink}}]",
			"stats_sinks[0].typed_config has the type envoy.config.metrics.v2.StatsdSink",
		},
		{
			"a cluster", "ENVOY_TRACING_CFG_FILE", "tracing: {}\nstatic_resources: {clusters: [{name: zipkin, hosts: [{socket_address: {address: 127.0.0.1, port_value: 9411}}]}]}",
			"static_resources.clusters[0] has hosts, of version 2",
		},
		{
			"a cluster with TLS, in the other spelling", "ENVOY_RESOURCES_CONFIG_FILE", "staticResources: {clusters: [{name: a}, {name: b, tlsContext: {}}]}",
			"staticResources.clusters[1] has tlsContext, of version 2",
		},
		{
			"a filter", "ENVOY_RESOURCES_CONFIG_FILE",
			"static_resources: {listeners: [{filter_chains: [{filters: [{name: a, typed_config: {\"@type\": type.googleapis.com/envoy.config.filter.network.tcp_proxy.v2.TcpProxy}}]}]}]}",
			"static_resources.listeners[0].filter_chains[0].filters[0].typed_config has the type envoy.config.filter.network.tcp_proxy.v2.TcpProxy",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, _, err := merged(t, test.variable, test.content)
			if err == nil || !strings.Contains(err.Error(), test.variable+": user.yaml: "+test.want) || !strings.HasSuffix(err.Error(), "only version 3 is taken") {
				t.Errorf("got %v, want %s", err, test.want)
			}
		})
	}
	t.Run("version 3 is taken, whatever its names have in them", func(t *testing.T) {
		for _, content := range []string{
			"static_resources: {clusters: [{name: v2.hosts, load_assignment: {cluster_name: envoy.api.v2}}]}",
			"static_resources: {listeners: [{name: a, filter_chains: [{filters: [{name: a, typed_config: {\"@type\": type.googleapis.com/udpa.type.v1.TypedStruct, type_url: x}}]}]}]}",
			"static_resources: {listeners: [{name: wasm, filter_chains: [{filters: [{name: w, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.network.wasm.v3.Wasm, config: {name: v2}}}]}]}]}",
		} {
			if _, _, err := merged(t, "ENVOY_RESOURCES_CONFIG_FILE", content); err != nil {
				t.Errorf("%s: %v", content, err)
			}
		}
	})
}

// FuzzUserFile has any file in any place: it is refused in one line that names it, or what comes of it is YAML that still
// has the relay.
func FuzzUserFile(f *testing.F) {
	variables := []string{tracingFile, statsFile, sinksFile, resourcesFile}
	for _, seed := range []string{
		"", "a: [", "- a", "static_resources: {clusters: [{name: x, hosts: 1}], listeners: }", "tracing: {http: {name: n, config: {}}}", "stats_sinks: [null, 5, {}]",
		"node: 5\nadmin: 2026-01-01\n1: 2", "a: &a [*a]", "x: &x {y: *x}", "static_resources: {1: [], clusters: {}}", "stats_config: {\"@type\": 7}\n---\n", "node: {metadata: [], id: null}",
	} {
		for i := range variables {
			f.Add(uint8(i), seed)
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, content string) {
		variable := variables[int(which)%len(variables)]
		text, _, err := merged(t, variable, content)
		if err != nil {
			if !strings.HasPrefix(err.Error(), variable+": user.yaml: ") || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %q", err)
			}
			return
		}
		var doc object
		if err := yaml.Unmarshal([]byte(text), &doc); err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		if !strings.Contains(text, "name: relay_xds") {
			t.Errorf("the relay is gone:\n%s", text)
		}
	})
}
