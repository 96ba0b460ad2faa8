package settings

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/evermesh/evermesh/internal/agent/agenttest"
)

// What steers the agent takes values within bounds, and is the default otherwise, with a warning that names it.
func TestBounds(t *testing.T) {
	for _, test := range []struct {
		variable string
		get      func(Settings) any
		normal   string   // what it is when it is not set
		taken    []string // value, space, what it is then
		refused  []string
	}{
		{"HC_POLL_INTERVAL_MS", func(s Settings) any { return s.HealthInterval }, "10s", []string{"2000 2s", "30000 30s"}, []string{"1999", "30001", "10s", "-1"}},
		{"HC_DISCONNECTED_TIMEOUT_S", func(s Settings) any { return s.DisconnectedLimit }, "168h0m0s", []string{"3600 1h0m0s", "604800 168h0m0s"}, []string{"3599", "604801", "1h"}},
		{"APPNET_AGENT_POLL_ENVOY_READINESS_INTERVAL_S", func(s Settings) any { return s.ReadinessInterval }, "5s", []string{"0 0s", "7 7s"}, []string{"-1", "soon"}},
		{"APPNET_AGENT_POLL_ENVOY_READINESS_TIMEOUT_S", func(s Settings) any { return s.ReadinessTimeout }, "3m0s", []string{"0 0s", "7 7s"}, []string{"-1", "1.5"}},
		{"APPNET_AGENT_LOGGING_RESET_TIMEOUT", func(s Settings) any { return s.LoggingReset }, "5m0s", []string{"1 1s", "86400 24h0m0s"}, []string{"0", "86401", "never"}},
		{"PID_POLL_INTERVAL_MS", func(s Settings) any { return s.Supervision.Poll }, "100ms", []string{"100 100ms", "1000 1s"}, []string{"99", "1001", "x"}},
		{"LISTENER_DRAIN_WAIT_TIME_S", func(s Settings) any { return s.DrainTime }, "20s", []string{"5 5s", "110 1m50s"}, []string{"4", "111", "x"}},
		{"ENVOY_CONCURRENCY", func(s Settings) any { return s.Concurrency }, "-1", []string{"0 0", "4 4"}, []string{"-2", "all"}},
		{"DISABLE_HOT_RESTART", func(s Settings) any { return !s.HotRestart }, "true", []string{"0 false", "F false", "t true"}, []string{"no", "2"}},
		{"ENVOY_SKIP_DEPRECATED_LOGS", func(s Settings) any { return !s.KeepDeprecated }, "true", []string{"false false"}, []string{"no"}},
		{"ENVOY_ADMIN_MODE", func(s Settings) any { return s.Admin.Socket }, "", []string{"UDS /tmp/envoy_admin.sock", "tcp "}, []string{"pipe"}},
		{"ENVOY_LOG_LEVEL", func(s Settings) any { return s.LogLevel }, "info", []string{"OFF off", "Critical critical", "warning warning", "warn warn"}, []string{"loud"}},
		{"EVERMESH_ENVOY_RESTART_DELAY_MS", func(s Settings) any { return s.Supervision.Delay }, "250ms", []string{"1 1ms", "10000 10s"}, []string{"0", "10001"}},
		{"EVERMESH_ENVOY_RESTART_FORGET_S", func(s Settings) any { return s.Supervision.Forget }, "10m0s", []string{"0 0s", "60 1m0s"}, []string{"-1", "86401"}},
		{"EVERMESH_ENVOY_SILENT_POLLS", func(s Settings) any { return s.Supervision.Silent }, "3", []string{"0 0", "1000 1000"}, []string{"-1", "1001"}},
		{"EVERMESH_KEEP_CAPABILITIES", func(s Settings) any { return s.Supervision.KeepCapabilities }, "false", []string{"1 true"}, []string{"all"}},
		{"EVERMESH_STATE_DIR", func(s Settings) any { return fmt.Sprint(s.LastGood.Dir, s.LastGood.MemoryOnly) }, "false", []string{"none true", "/state /statefalse"}, []string{"state", "./state"}},
	} {
		t.Run(test.variable, func(t *testing.T) {
			value := func(text, want string, warned bool) {
				t.Helper()
				s, err := Parse(agenttest.Environment(someEndpoint, someResource, test.variable+"="+text), Flags{}, 0)
				if err != nil {
					t.Fatal(err)
				}
				if got := fmt.Sprint(test.get(s)); got != want {
					t.Errorf("%q: got %q, want %q", text, got, want)
				}
				if named := slices.ContainsFunc(s.Warnings, func(w string) bool { return strings.Contains(w, test.variable) }); named != warned {
					t.Errorf("%q: warnings %q", text, s.Warnings)
				}
			}
			value("", test.normal, false)
			value("  ", test.normal, false)
			for _, c := range test.taken {
				text, want, _ := strings.Cut(c, " ")
				value(text, want, false)
				value(" "+text+" ", want, false)
			}
			for _, text := range test.refused {
				value(text, test.normal, true)
			}
		})
	}
}

func TestPlainTexts(t *testing.T) {
	for _, test := range []struct {
		name, env string
		get       func(Settings) string
		want      string
	}{
		{"AGENT-028 a cluster of its own", "APPMESH_RESOURCE_CLUSTER=c APPMESH_VIRTUAL_NODE_CLUSTER=old", func(s Settings) string { return s.Resource.Cluster }, "c"},
		{"AGENT-028 by its older name", "APPMESH_VIRTUAL_NODE_CLUSTER=old", func(s Settings) string { return s.Resource.Cluster }, "old"},
		{"AGENT-028 or the resource", "", func(s Settings) string { return s.Resource.Cluster }, "mesh/m/virtualNode/n"},
		{"a key's file for what is kept", "EVERMESH_STATE_KEY_FILE=/key", func(s Settings) string { return s.LastGood.KeyFile }, "/key"},
		{"Envoy's own place", "ENVOY_PATH=/opt/envoy", func(s Settings) string { return s.EnvoyPath }, "/opt/envoy"},
		{"a pod's token is the proof", "AWS_ROLE_ARN=arn:aws:iam::111122223333:role/r AWS_WEB_IDENTITY_TOKEN_FILE=/t", func(s Settings) string { return s.Proof.TokenFile }, "/t"},
		{"unless there is a place for AWS's services", "AWS_ENDPOINT_URL=https://evermesh:7070 AWS_ROLE_ARN=arn:aws:iam::111122223333:role/r AWS_WEB_IDENTITY_TOKEN_FILE=/t", func(s Settings) string { return s.Proof.TokenFile }, ""},
		{"the file of the bootstrap", "ENVOY_CONFIG_FILE=/nowhere/envoy.yaml", func(s Settings) string { return s.ConfigFile }, "/nowhere/envoy.yaml"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, err := Parse(agenttest.Environment(append(strings.Fields(test.env), someEndpoint, someResource)...), Flags{}, 0)
			if err != nil || test.get(s) != test.want {
				t.Errorf("got %q, %v", test.get(s), err)
			}
		})
	}
}

// Each signal may have another protocol, and only one is taken; headers, which are secrets mostly, are not.
func TestOpenTelemetryProtocols(t *testing.T) {
	for _, test := range []struct{ name, env, want string }{
		{"for traces", "ENABLE_ENVOY_OTEL_TRACING=1 OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=http/json", `OTEL_EXPORTER_OTLP_TRACES_PROTOCOL: "http/json": neither grpc nor`},
		{"for metrics", "ENABLE_ENVOY_OTEL_METRICS=1 OTEL_EXPORTER_OTLP_METRICS_PROTOCOL=http/json", `OTEL_EXPORTER_OTLP_METRICS_PROTOCOL: "http/json": neither grpc nor`},
		{"the signal's outranks the one for all", "ENABLE_ENVOY_OTEL_METRICS=1 OTEL_EXPORTER_OTLP_PROTOCOL=http/json OTEL_EXPORTER_OTLP_METRICS_PROTOCOL=grpc", ""},
		{"of a signal that is off", "ENABLE_ENVOY_OTEL_METRICS=1 OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=http/json", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := Parse(agenttest.Environment(append(strings.Fields(test.env), someEndpoint, someResource)...), Flags{}, 0)
			if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v", err)
			}
		})
	}
}
