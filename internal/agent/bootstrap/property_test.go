package bootstrap

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
	"pgregory.net/rapid"

	"github.com/evermesh/evermesh/internal/agent/agenttest"
	"github.com/evermesh/evermesh/internal/agent/settings"
)

// anyEnvironment draws what a user may set: each variable or none, with any of the values that it takes.
func anyEnvironment(t *rapid.T, dir string) []string {
	env := []string{"ENVOY_ADMIN_ACCESS_LOG_FILE=/dev/null", "ENVOY_OUTLIER_DETECTION_EVENT_LOG_PATH=/dev/null", "AWS_EC2_METADATA_DISABLED=true"}
	set := func(name string, value *rapid.Generator[string]) {
		if rapid.Bool().Draw(t, "is "+name+" set") {
			env = append(env, name+"="+value.Draw(t, name))
		}
	}
	of := func(values ...string) *rapid.Generator[string] { return rapid.SampledFrom(values) }
	number := func(low, high int) *rapid.Generator[string] {
		return rapid.Map(rapid.IntRange(low, high), func(n int) string { return fmt.Sprint(n) })
	}
	truth := of("1", "t", "T", "TRUE", "true", "True", "0", "f", "F", "FALSE", "false", "False")
	name := rapid.StringMatching(`[a-zA-Z0-9_.:/ -]{1,40}`)
	port, address := number(1, 65535), of("127.0.0.1", "::1", "10.1.2.3")
	resource := of("mesh/colors/virtualNode/front", "mesh/c.o-l_o@111122223333/virtualGateway/g", "arn:aws:appmesh:eu-west-1:111122223333:mesh/m/virtualNode/a.b",
		"arn:aws:ecs:us-west-2:123456789012:task-set/cluster/service/ecs-svc/1234567890123456789").Draw(t, "resource")
	env = append(env, "APPMESH_RESOURCE_ARN="+resource, "APPMESH_XDS_ENDPOINT="+of("c:1", "http://[::1]:7071", "unix:///run/sc.sock").Draw(t, "endpoint"))
	set("APPMESH_RESOURCE_CLUSTER", name)
	set("ENVOY_INITIAL_FETCH_TIMEOUT", number(0, 1<<31-1))
	set("ENVOY_ADMIN_ACCESS_PORT", number(1, 14999))
	set("ENVOY_ADMIN_MODE", of("tcp", "uds", "UDS"))
	set("ENVOY_ADMIN_ACCESS_ENABLE_IPV6", truth)
	set("MAX_REQUESTS_PER_IO_CYCLE", number(0, 1<<31-1))
	set("ENVOY_STATS_FLUSH_INTERVAL", of("1ms", "5s", "1m30s", "299.999s"))
	set("APPMESH_SDS_SOCKET_PATH", of("/run/spire/agent.sock", long(107)))
	set("APPMESH_METRIC_EXTENSION_VERSION", of("0", "1", "2"))
	set("ENABLE_ENVOY_STATS_TAGS", truth)
	set("EVERMESH_IGNORE_MARK", of("0x539", "1", "4294967295"))
	set("STATSD_ADDRESS", address)
	set("STATSD_PORT", port)
	set("STATSD_SOCKET_PATH", of("/run/dsd.socket", long(107)))
	env = append(env, of("ENABLE_ENVOY_DOG_STATSD", "ENABLE_ENVOY_STATSD").Draw(t, "statsd")+"="+truth.Draw(t, "is it on"))
	set("ENABLE_ENVOY_OTEL_METRICS", truth)
	set("OTEL_EXPORTER_OTLP_ENDPOINT", of("http://127.0.0.1:4317", "https://[::1]:1", "https://otel.example", "otel", "unix:///run/otel.sock"))
	set("OTEL_SERVICE_NAME", name)
	set("OTEL_RESOURCE_ATTRIBUTES", of("a=b", "a=b,c=d"))
	set("OTEL_TRACES_SAMPLER", of("always_on", "parentbased_traceidratio"))
	set("OTEL_TRACES_SAMPLER_ARG", of("0", "0.000001", "0.5", "1"))
	env = append(env, "OTEL_EXPORTER_OTLP_CERTIFICATE="+filepath.Join(dir, "ca.pem"))
	env = append(env, of("NONE", "ENABLE_ENVOY_XRAY_TRACING", "ENABLE_ENVOY_DATADOG_TRACING", "ENABLE_ENVOY_JAEGER_TRACING", "ENABLE_ENVOY_OTEL_TRACING").Draw(t, "tracer")+"="+truth.Draw(t, "is it on"))
	set("XRAY_DAEMON_PORT", port)
	set("AWS_XRAY_DAEMON_ADDRESS", of("127.0.0.1", "10.0.0.1:2000", "::1", "[::1]:2000"))
	set("XRAY_SAMPLING_RATE", of("0", "0.05", "0.123456", "1", "1.0", ".5"))
	set("XRAY_SEGMENT_NAME", name)
	set("DATADOG_TRACER_ADDRESS", of("127.0.0.1", "datadog.example", "::1"))
	set("DATADOG_TRACER_PORT", port)
	set("DD_SERVICE", name)
	set("JAEGER_TRACER_ADDRESS", of("127.0.0.1", "jaeger.example"))
	set("JAEGER_TRACER_VERSION", of("JSON", "PROTO", "json", "x"))
	set("AWS_EXECUTION_ENV", of("AWS_ECS_EC2", "AWS_ECS_FARGATE"))
	set("ECS_CONTAINER_INSTANCE_ARN", name)
	set("APPNET_CONTAINER_IP_MAPPING", of(`{"a":"10.0.0.1"}`, `{}`, `null`, `{"a":{"b":[1,2.5,null,true]}}`))
	set("APPNET_LISTENER_PORT_MAPPING", of(`{"a":15000}`, `{"a":123456789012}`))
	set("NAMESPACE_NAME", name)
	set("APPNET_FIPS_MODE_ENABLED", truth)
	return env
}

// TestAnyEnvironment has every valid environment give a bootstrap that is YAML, the same each time, and some of them
// shown to every Envoy.
func TestAnyEnvironment(t *testing.T) {
	binaries := agenttest.Envoys(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "ca.pem"), certificate(t), 0o600); err != nil {
		t.Fatal(err)
	}
	shown := 0
	rapid.Check(t, func(rt *rapid.T) {
		env := anyEnvironment(rt, dir)
		s, err := settings.Parse(agenttest.Environment(env...), settings.Flags{}, 0)
		if err != nil {
			rt.Fatalf("%v\n%s", err, strings.Join(env, "\n"))
		}
		facts := Facts{Instance: "i", SocketPath: "/run/xds.sock", Kernel: "6", Machine: "x86_64", Region: "r", ZoneID: "z", IPv6: map[string][]string{"e": {"2001:db8::1/64"}}}
		text, _, err := File(s, facts, nil)
		if err != nil {
			rt.Fatal(err)
		}
		if again, _, _ := File(s, facts, nil); string(again) != string(text) {
			rt.Fatalf("it is another one the second time:\n%s\n%s", text, again)
		}
		var doc object
		if err := yaml.Unmarshal(text, &doc); err != nil {
			rt.Fatal(err)
		}
		if rapid.IntRange(0, 7).Draw(rt, "shown to Envoy when 0") != 0 && shown > 0 { // the first is in any case
			return
		}
		shown++
		file := filepath.Join(dir, "bootstrap.yaml")
		if err := os.WriteFile(file, text, 0o600); err != nil {
			rt.Fatal(err)
		}
		for _, envoy := range binaries {
			cmd := exec.Command(envoy, "--mode", "validate", "-l", "error", "-c", file)
			cmd.Env = env
			if out, err := cmd.CombinedOutput(); err != nil {
				rt.Fatalf("%s: %v\n%s\n%s", envoy, err, out, strings.Join(env, "\n"))
			}
		}
	})
	if shown == 0 {
		t.Error("none was shown to Envoy")
	}
}

// certificate is that of a golden case.
func certificate(t *testing.T) []byte {
	t.Helper()
	text, err := os.ReadFile("testdata/opentelemetry-tls.txtar")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "-- ca.pem --\n")
	pem, _, found := strings.Cut(rest, "-- ")
	if !found {
		t.Fatal("no certificate")
	}
	return []byte(pem)
}
