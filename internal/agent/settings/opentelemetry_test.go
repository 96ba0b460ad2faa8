package settings

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/evermesh/evermesh/internal/agent/agenttest"
)

// Each signal has its own variables, which outrank those for all.
func TestCollectorsBySignal(t *testing.T) {
	t.Parallel()
	const traces, metrics = "ENABLE_ENVOY_OTEL_TRACING=1", "ENABLE_ENVOY_OTEL_METRICS=1"
	header := func(name, value, variable string) []Header { return []Header{{name, value, variable}} }
	for _, test := range []struct {
		name, env string
		want      OpenTelemetry
	}{
		{"traces by HTTP", traces + " OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf", OpenTelemetry{HTTP: true, Path: "/v1/traces", Address: "127.0.0.1", Port: 4318}},
		{"below an address", traces + " OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf OTEL_EXPORTER_OTLP_ENDPOINT=http://c/a/", OpenTelemetry{HTTP: true, Path: "/a/v1/traces", Address: "c", Port: 4318}},
		{"at the signal's own", traces + " OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=c:80", OpenTelemetry{HTTP: true, Path: "/", Address: "c", Port: 80}},
		{"metrics, with traces by HTTP", metrics + " OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf OTEL_EXPORTER_OTLP_METRICS_PROTOCOL=grpc", OpenTelemetry{Address: "127.0.0.1", Port: 4317}},
		{
			"headers and authorities of metrics", metrics + " OTEL_EXPORTER_OTLP_ENDPOINT=https://c OTEL_EXPORTER_OTLP_HEADERS=a=1 OTEL_EXPORTER_OTLP_METRICS_HEADERS=B=%2f" +
				" OTEL_EXPORTER_OTLP_TRACES_HEADERS=c=3 OTEL_EXPORTER_OTLP_CERTIFICATE=/all OTEL_EXPORTER_OTLP_METRICS_CERTIFICATE=/metrics OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE=/traces",
			OpenTelemetry{Address: "c", Port: 4317, CAFile: "/metrics", Headers: header("b", "/", "OTLP_METRICS_HEADER_1")},
		},
		{
			"headers and authorities of all", traces + " OTEL_EXPORTER_OTLP_ENDPOINT=https://c OTEL_EXPORTER_OTLP_HEADERS=a=1, OTEL_EXPORTER_OTLP_CERTIFICATE=/all",
			OpenTelemetry{Address: "c", Port: 4317, CAFile: "/all", Headers: header("a", "1", "OTLP_TRACES_HEADER_1")},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, err := Parse(agenttest.Environment(append(strings.Fields(test.env), someEndpoint, someResource)...), Flags{}, 0)
			if err != nil || len(s.Warnings) > 0 {
				t.Fatalf("%v, warnings %q", err, s.Warnings)
			}
			got := s.Bootstrap.Metrics
			if got == nil {
				got = s.Bootstrap.Tracing.OpenTelemetry
			}
			if diff := cmp.Diff(test.want, *got); diff != "" {
				t.Error(diff)
			}
		})
	}
}
