package envoy_test

import (
	"bufio"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/config/trace/v3" // the bootstraps of agents have them
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_mutation/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/upstream_codec/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/network/dns_resolver/cares/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/stat_sinks/open_telemetry/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/tracers/opentelemetry/resource_detectors/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/tracers/opentelemetry/samplers/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"golang.org/x/tools/txtar"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
	"sigs.k8s.io/yaml"

	"github.com/evermesh/evermesh/internal/envoy"
	"github.com/evermesh/evermesh/internal/envoy/envoytest"
)

// TestEnvoy122KnowsEveryField collects the messages, fields and values of enumerations that the goldens of the translator
// and of the agent's bootstrap use. Each is in the API of Envoy 1.22 (D12), or in newer.
func TestEnvoy122KnowsEveryField(t *testing.T) {
	used := uses{}
	for _, c := range envoytest.Cases(t) {
		if c.Traits().Metrics {
			continue // it is for Envoys that say what they can
		}
		for _, client := range c.Clients(t) {
			bundle, _ := c.Bundle(t, client)
			bundle = bundle.WithEndpoints(func(q envoy.EndpointQuery) ([]envoy.Endpoint, bool) {
				return []envoy.Endpoint{{Address: "10.0.0.1", Port: q.Port}}, true
			})
			for _, of := range []envoy.Type{envoy.Listener, envoy.Route, envoy.Cluster, envoy.LoadAssignment} {
				for _, r := range bundle.List(of).Resources {
					used.any(t, c.Name, &anypb.Any{TypeUrl: of.URL(), Value: r.Append(nil)})
				}
			}
		}
	}
	paths, err := filepath.Glob("../agent/bootstrap/testdata/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no bootstraps: %v", err)
	}
	for _, path := range paths {
		archive, err := txtar.ParseFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if slices.ContainsFunc(archive.Files, func(f txtar.File) bool { return f.Name == "resources.yaml" }) {
			continue // a user's own resources are whatever the user's Envoy knows
		}
		i := slices.IndexFunc(archive.Files, func(f txtar.File) bool { return f.Name == "bootstrap.yaml" })
		if i < 0 {
			t.Fatalf("%s has no section bootstrap.yaml", path)
		}
		used.message(t, filepath.Base(path), bootstrap(t, path, archive.Files[i].Data).ProtoReflect())
	}

	const list = "testdata/api-1.22.txt"
	known := readAPI(t, list)
	for _, name := range slices.Sorted(maps.Keys(used)) {
		switch reason := newer[name]; {
		case !known[name] && reason == "":
			t.Errorf("%s (in %s) is not in %s: an Envoy 1.22 may refuse it", name, used[name], list)
		case known[name] && reason != "":
			t.Errorf("%s is in %s: it is no exception", name, list)
		}
	}
	for name := range newer {
		if used[name] == "" {
			t.Errorf("%s is not used any more: it is no exception", name)
		}
	}
	if len(used) < 150 {
		t.Errorf("only %d names are used: nothing is shown", len(used))
	}
	if out := os.Getenv("EVERMESH_USED_API"); out != "" { // for whoever makes the list anew
		if err := os.WriteFile(out, []byte(strings.Join(slices.Sorted(maps.Keys(used)), "\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// newer are names that Envoy 1.22 does not know, with what it does with them. All that is supported (1.36 and newer) knows
// them.
var newer = map[string]string{
	"envoy.config.route.v3.RouteConfiguration.ignore_port_in_host_matching": "since 1.23, in routes of gateways; an older Envoy " +
		"ignores what it does not know of what it is sent, and then matches a Host header with its port",
	"envoy.config.core.v3.GrpcService.EnvoyGrpc.retry_policy": "since 1.26, in the bootstrap, so that Envoy is back at its agent " +
		"within a second and not within 30; an older Envoy refuses a bootstrap that has it, unless --allow-unknown-static-fields",
	"envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig.query_tries": "in the bootstrap, so that a name server " +
		"that is silent for 3 s fails no request; an older Envoy refuses a bootstrap that has it, as above",
	"envoy.config.common.mutation_rules.v3.HeaderMutation":                                                       openTelemetry,
	"envoy.config.common.mutation_rules.v3.HeaderMutation.append":                                                openTelemetry,
	"envoy.config.core.v3.HttpService":                                                                           openTelemetry,
	"envoy.config.core.v3.HttpService.http_uri":                                                                  openTelemetry,
	"envoy.config.trace.v3.OpenTelemetryConfig.http_service":                                                     openTelemetry,
	"envoy.extensions.filters.http.header_mutation.v3.HeaderMutation":                                            openTelemetry,
	"envoy.extensions.filters.http.header_mutation.v3.HeaderMutation.mutations":                                  openTelemetry,
	"envoy.extensions.filters.http.header_mutation.v3.Mutations":                                                 openTelemetry,
	"envoy.extensions.filters.http.header_mutation.v3.Mutations.request_mutations":                               openTelemetry,
	"envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec":                                              openTelemetry,
	"envoy.extensions.upstreams.http.v3.HttpProtocolOptions.http_filters":                                        openTelemetry,
	"envoy.config.trace.v3.OpenTelemetryConfig":                                                                  openTelemetry,
	"envoy.config.trace.v3.OpenTelemetryConfig.grpc_service":                                                     openTelemetry,
	"envoy.config.trace.v3.OpenTelemetryConfig.resource_detectors":                                               openTelemetry,
	"envoy.config.trace.v3.OpenTelemetryConfig.sampler":                                                          openTelemetry,
	"envoy.config.trace.v3.OpenTelemetryConfig.service_name":                                                     openTelemetry,
	"envoy.extensions.stat_sinks.open_telemetry.v3.SinkConfig":                                                   openTelemetry,
	"envoy.extensions.stat_sinks.open_telemetry.v3.SinkConfig.grpc_service":                                      openTelemetry,
	"envoy.extensions.stat_sinks.open_telemetry.v3.SinkConfig.prefix":                                            openTelemetry,
	"envoy.extensions.stat_sinks.open_telemetry.v3.SinkConfig.resource_detectors":                                openTelemetry,
	"envoy.extensions.tracers.opentelemetry.resource_detectors.v3.EnvironmentResourceDetectorConfig":             openTelemetry,
	"envoy.extensions.tracers.opentelemetry.resource_detectors.v3.StaticConfigResourceDetectorConfig":            openTelemetry,
	"envoy.extensions.tracers.opentelemetry.resource_detectors.v3.StaticConfigResourceDetectorConfig.attributes": openTelemetry,
	"envoy.extensions.tracers.opentelemetry.samplers.v3.ParentBasedSamplerConfig":                                openTelemetry,
	"envoy.extensions.tracers.opentelemetry.samplers.v3.ParentBasedSamplerConfig.wrapped_sampler":                openTelemetry,
	"envoy.extensions.tracers.opentelemetry.samplers.v3.TraceIdRatioBasedSamplerConfig":                          openTelemetry,
	"envoy.extensions.tracers.opentelemetry.samplers.v3.TraceIdRatioBasedSamplerConfig.sampling_percentage":      openTelemetry,
}

// openTelemetry is what all of that is.
const openTelemetry = "newer than 1.22, in the bootstrap of who asks the agent for OpenTelemetry; an older Envoy refuses it"

// uses are names of messages, fields and values, each with a case that has it.
type uses map[string]string

func (u uses) any(t *testing.T, where string, a *anypb.Any) {
	t.Helper()
	m, err := a.UnmarshalNew()
	if err != nil {
		t.Fatalf("%s: %v", where, err)
	}
	u.message(t, where, m.ProtoReflect())
}

func (u uses) message(t *testing.T, where string, m protoreflect.Message) {
	t.Helper()
	if a, ok := m.Interface().(*anypb.Any); ok {
		u.any(t, where, a)
		return
	}
	name := string(m.Descriptor().FullName())
	if strings.HasPrefix(name, "google.protobuf.") {
		return
	}
	u[name] = where
	if len(m.GetUnknown()) > 0 {
		t.Errorf("%s: %s has fields that this module does not know", where, name)
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		u[string(f.FullName())] = where
		one := func(f protoreflect.FieldDescriptor, v protoreflect.Value) {
			switch {
			case f.Message() != nil:
				u.message(t, where, v.Message())
			case f.Enum() != nil:
				if value := f.Enum().Values().ByNumber(v.Enum()); value != nil {
					u[string(value.FullName())] = where
				} else {
					t.Errorf("%s: %s has the unknown value %d", where, f.FullName(), v.Enum())
				}
			}
		}
		switch {
		case f.IsMap():
			v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
				one(f.MapValue(), v)
				return true
			})
		case f.IsList():
			for i := range v.List().Len() {
				one(f, v.List().Get(i))
			}
		default:
			one(f, v)
		}
		return true
	})
}

// bootstrap reads the bootstrap of an agent.
func bootstrap(t *testing.T, path string, text []byte) proto.Message {
	t.Helper()
	doc, err := yaml.YAMLToJSON(text)
	if err != nil || !json.Valid(doc) {
		t.Fatalf("%s: %v", path, err)
	}
	out := &bootstrapv3.Bootstrap{}
	if err := protojson.Unmarshal(doc, out); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return out
}

// readAPI reads a list of names; lines that begin with # are not.
func readAPI(t *testing.T, path string) map[string]bool {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	out := map[string]bool{}
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if !strings.HasPrefix(lines.Text(), "#") {
			out[lines.Text()] = true
		}
	}
	return out
}
