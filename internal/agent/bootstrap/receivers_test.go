package bootstrap

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/evermesh/evermesh/internal/agent/agenttest"
	"github.com/evermesh/evermesh/internal/agent/settings"
	"github.com/evermesh/evermesh/internal/testenv"
)

// got is what came to a receiver.
type got struct {
	mu  sync.Mutex
	all []string
}

func (g *got) add(s string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.all = append(g.all, s)
}

func (g *got) find(want *regexp.Regexp) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.ContainsFunc(g.all, want.MatchString)
}

// datagrams receives on a port of the loopback, or on a socket.
func datagrams(t *testing.T, network, address string) (*got, net.Addr) {
	t.Helper()
	conn, err := net.ListenPacket(network, address)
	if err != nil {
		t.Fatal(err)
	}
	g, done := &got{}, make(chan struct{})
	go func() {
		defer close(done)
		for space := make([]byte, 1<<16); ; {
			n, _, err := conn.ReadFrom(space)
			if err != nil {
				return
			}
			g.add(string(space[:n]))
		}
	}()
	t.Cleanup(func() { conn.Close(); <-done })
	return g, conn.LocalAddr()
}

// anything is a message as it stands on the wire.
type anything struct{}

func (anything) Name() string                       { return "proto" }
func (anything) Marshal(v any) ([]byte, error)      { return *v.(*[]byte), nil }
func (anything) Unmarshal(data []byte, v any) error { *v.(*[]byte) = bytes.Clone(data); return nil }

// otlp is a collector by gRPC: it notes the method, headers and the message of each call, whose strings stand in it as they
// are.
func otlp(t *testing.T) (*got, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := &got{}
	server := grpc.NewServer(grpc.ForceServerCodec(anything{}), grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error {
		method, _ := grpc.MethodFromServerStream(s)
		md, _ := metadata.FromIncomingContext(s.Context())
		var message, empty []byte
		if err := s.RecvMsg(&message); err != nil {
			return err
		}
		g.add(fmt.Sprintf("%s\nauthorization %s\nx-tenant %s\n\n%s", method, md.Get("authorization"), md.Get("x-tenant"), message))
		return s.SendMsg(&empty)
	}))
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(l) }()
	t.Cleanup(func() { server.Stop(); <-done })
	return g, l.Addr().String()
}

// listener is a part of the user's with a listener whose requests are traced, and answered by Envoy itself.
const listener = `static_resources:
  listeners:
  - name: traced
    address: {socket_address: {address: 127.0.0.1, port_value: %d}}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: traced
          tracing: {}
          route_config: {virtual_hosts: [{name: all, domains: ["*"], routes: [{match: {prefix: /}, direct_response: {status: 204}}]}]}
          http_filters: [{name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]
`

// run starts Envoy with the bootstrap of an environment and its listener, and returns how to ask the listener. It has no
// control plane, and serves what stands in its bootstrap after a second.
func run(t *testing.T, envoy string, lines ...string) (ask func(path, parent string)) {
	t.Helper()
	dir := agenttest.ShortDir(t)
	port := testenv.FreePort(t)
	resources, file := filepath.Join(dir, "resources.yaml"), filepath.Join(dir, "bootstrap.yaml")
	if err := os.WriteFile(resources, fmt.Appendf(nil, listener, port), 0o600); err != nil {
		t.Fatal(err)
	}
	env := append([]string{
		"APPMESH_RESOURCE_ARN=mesh/colors/virtualNode/front", "APPMESH_XDS_ENDPOINT=c:1", "ENVOY_INITIAL_FETCH_TIMEOUT=1",
		"ENVOY_ADMIN_ACCESS_LOG_FILE=/dev/null", fmt.Sprintf("ENVOY_ADMIN_ACCESS_PORT=%d", testenv.FreePort(t)), "ENVOY_RESOURCES_CONFIG_FILE=" + resources,
		"ENVOY_STATS_FLUSH_INTERVAL=200ms",
	}, lines...)
	s, err := settings.Parse(agenttest.Environment(env...), settings.Flags{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	files, err := ReadUserFiles(s.Bootstrap)
	if err != nil {
		t.Fatal(err)
	}
	text, _, err := File(s, Facts{SocketPath: filepath.Join(dir, "nobody.sock")}, files)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	log := &testenv.Output{}
	ctx, stop := context.WithCancel(t.Context())
	cmd := exec.CommandContext(ctx, envoy, "-c", file, "-l", "error", "--disable-hot-restart", "--concurrency", "1")
	cmd.Env, cmd.Stdout, cmd.Stderr, cmd.WaitDelay = append(env, s.Bootstrap.EnvoyEnvironment()...), log, log, time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stop()
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(log.String())
		}
	})
	return func(path, parent string) {
		t.Helper()
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Second}
		testenv.Eventually(t, "the listener answers", func() bool {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d%s", port, path), nil)
			if err != nil {
				t.Fatal(err)
			}
			if parent != "" {
				r.Header.Set("traceparent", parent)
			}
			answer, err := client.Do(r)
			if err != nil {
				return false
			}
			_, _ = io.Copy(io.Discard, answer.Body)
			answer.Body.Close()
			return answer.StatusCode == http.StatusNoContent
		})
	}
}

// together is how many spans Envoy sends at once; fewer wait for seconds.
const together = 5

// TestReceivers has the real thing send what the bootstrap says, to those who are to get it.
func TestReceivers(t *testing.T) {
	envoys := agenttest.Envoys(t)
	// each starts all Envoys before it looks at what the first sends.
	each := func(name string, start func(t *testing.T, envoy string) (look func())) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var looks []func()
			for _, envoy := range envoys {
				looks = append(looks, start(t, envoy))
			}
			for i, look := range looks {
				t.Log(envoys[i])
				look()
			}
		})
	}
	await := func(t *testing.T, g *got, want string) {
		t.Helper()
		re := regexp.MustCompile("(?s)" + want)
		testenv.Eventually(t, want+" has come", func() bool { return g.find(re) })
	}
	// Envoy sends hundreds of datagrams at once, of which a receiver on a busy machine gets the first ones: any metric will do.
	const tagged = `(^|\n)envoy\.[\w.]+:\d+\|[cg]\|#(.*,)?appmesh\.mesh:colors`
	each("AGENT-026 OBS-031 DogStatsD gets tags", func(t *testing.T, envoy string) func() {
		g, at := datagrams(t, "udp", "127.0.0.1:0")
		run(t, envoy, "ENABLE_ENVOY_DOG_STATSD=1", "ENABLE_ENVOY_STATS_TAGS=1", fmt.Sprintf("STATSD_PORT=%d", at.(*net.UDPAddr).Port))
		return func() { await(t, g, tagged) }
	})
	each("AGENT-027 DogStatsD on a socket", func(t *testing.T, envoy string) func() {
		path := filepath.Join(agenttest.ShortDir(t), "dsd.socket")
		g, _ := datagrams(t, "unixgram", path)
		run(t, envoy, "ENABLE_ENVOY_DOG_STATSD=1", "ENABLE_ENVOY_STATS_TAGS=1", "STATSD_SOCKET_PATH="+path)
		return func() { await(t, g, tagged) }
	})
	each("StatsD gets none", func(t *testing.T, envoy string) func() {
		g, at := datagrams(t, "udp", "[::1]:0")
		run(t, envoy, "ENABLE_ENVOY_STATSD=1", "ENABLE_ENVOY_STATS_TAGS=1", "STATSD_ADDRESS=::1", fmt.Sprintf("STATSD_PORT=%d", at.(*net.UDPAddr).Port))
		return func() {
			await(t, g, `(^|\n)envoy\.[\w.]+:\d+\|[cg]($|\n)`)
			if g.find(regexp.MustCompile(`\|#`)) {
				t.Error("it has tags")
			}
		}
	})
	each("OpenTelemetry gets metrics and spans", func(t *testing.T, envoy string) func() {
		metrics, there := otlp(t)
		spans, at := otlp(t)
		ask := run(t, envoy, "ENABLE_ENVOY_OTEL_METRICS=1", "ENABLE_ENVOY_OTEL_TRACING=1", "ENABLE_ENVOY_STATS_TAGS=1", "OTEL_EXPORTER_OTLP_ENDPOINT=http://"+there,
			"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT="+at, "OTEL_RESOURCE_ATTRIBUTES=deployment.environment=testing")
		return func() {
			await(t, metrics, `^/opentelemetry\.proto\.collector\.metrics\.v1\.MetricsService/Export\n`)
			for _, want := range []string{`service\.name.{1,8}colors/front`, `deployment\.environment.{1,8}testing`, `envoy\.server\.uptime`, `appmesh\.mesh.{1,8}colors`} {
				await(t, metrics, want)
			}
			for range together {
				ask("/traced", "")
			}
			await(t, spans, `^/opentelemetry\.proto\.collector\.trace\.v1\.TraceService/Export\n.*/traced`)
			for _, want := range []string{`service\.name.{1,8}colors/front`, `deployment\.environment.{1,8}testing`} {
				await(t, spans, want)
			}
		}
	})
	each("OpenTelemetry gets the share that it is to get, and what another sampled", func(t *testing.T, envoy string) func() {
		g, at := otlp(t)
		ask := run(t, envoy, "ENABLE_ENVOY_OTEL_TRACING=1", "OTEL_EXPORTER_OTLP_ENDPOINT=http://"+at, "OTEL_SERVICE_NAME=mine",
			"OTEL_TRACES_SAMPLER=parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG=0")
		return func() {
			for range 20 {
				ask("/begun-here", "")
			}
			ask("/not-sampled", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00")
			for range together {
				ask("/sampled", "00-1af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
			}
			await(t, g, `service\.name.{1,8}mine.*127\.0\.0\.1:\d+/sampled`)
			if g.find(regexp.MustCompile(`/begun-here|/not-sampled`)) {
				t.Error("what is not sampled has come too")
			}
		}
	})
	each("AGENT-021 OBS-039 X-Ray's daemon gets what the rules of a file say", func(t *testing.T, envoy string) func() {
		rules := filepath.Join(t.TempDir(), "rules.json")
		if err := os.WriteFile(rules, []byte(`{"version": 2, "default": {"fixed_target": 0, "rate": 0},
			"rules": [{"description": "some", "host": "*", "http_method": "*", "url_path": "/wanted", "fixed_target": 0, "rate": 1}]}`), 0o600); err != nil {
			t.Fatal(err)
		}
		g, at := datagrams(t, "udp", "127.0.0.1:0")
		ask := run(t, envoy, "ENABLE_ENVOY_XRAY_TRACING=1", "AWS_XRAY_DAEMON_ADDRESS="+at.String(), "XRAY_SAMPLING_RATE=0", "XRAY_SAMPLING_RULE_MANIFEST="+rules, "XRAY_SEGMENT_NAME=mine")
		return func() {
			for range 20 {
				ask("/unwanted", "")
			}
			ask("/wanted", "")
			await(t, g, `"name":"mine".*/wanted|/wanted.*"name":"mine"`)
			if g.find(regexp.MustCompile(`/unwanted`)) {
				t.Error("what no rule wants has come too")
			}
		}
	})
}

// TestNames is of what Envoy would refuse only after its start, or would leave aside.
func TestNames(t *testing.T) {
	for _, test := range []struct{ name, env, want string }{
		{"StatsD at a name", "ENABLE_ENVOY_DOG_STATSD=1 STATSD_ADDRESS=localhost", `STATSD_ADDRESS: "localhost" must be an IP address`},
		{"StatsD twice", "ENABLE_ENVOY_DOG_STATSD=1 ENABLE_ENVOY_STATSD=1", "ENABLE_ENVOY_STATSD: and ENABLE_ENVOY_DOG_STATSD would send to the same place"},
		{"X-Ray at a name", "ENABLE_ENVOY_XRAY_TRACING=1 AWS_XRAY_DAEMON_ADDRESS=xray:2000", `AWS_XRAY_DAEMON_ADDRESS: "xray:2000" must be an IP address`},
		{"X-Ray at no port", "ENABLE_ENVOY_XRAY_TRACING=1 AWS_XRAY_DAEMON_ADDRESS=127.0.0.1:0", "has no port from 1 to 65535"},
		{"a collector at a path", "ENABLE_ENVOY_OTEL_TRACING=1 OTEL_EXPORTER_OTLP_ENDPOINT=http://c:4318/v1/traces", "OTEL_EXPORTER_OTLP_ENDPOINT: must be http://host:port"},
		{"metrics by another protocol", "ENABLE_ENVOY_OTEL_METRICS=1 OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf", `OTEL_EXPORTER_OTLP_PROTOCOL: "http/protobuf": metrics go by grpc only`},
		{"a sampler that Envoy has not", "ENABLE_ENVOY_OTEL_TRACING=1 OTEL_TRACES_SAMPLER=jaeger_remote", `OTEL_TRACES_SAMPLER: "jaeger_remote" is none of`},
		{"a share above all", "ENABLE_ENVOY_OTEL_TRACING=1 OTEL_TRACES_SAMPLER=parentbased_traceidratio OTEL_TRACES_SAMPLER_ARG=2", `OTEL_TRACES_SAMPLER_ARG: "2" is not a number from 0 to 1`},
		{"AGENT-017 two tracers, one of them new", "ENABLE_ENVOY_OTEL_TRACING=1 ENABLE_ENVOY_DATADOG_TRACING=1", "only one tracer may be on, and these are: ENABLE_ENVOY_DATADOG_TRACING, ENABLE_ENVOY_OTEL_TRACING"},
	} {
		t.Run(test.name, func(t *testing.T) {
			env := append(strings.Fields(test.env), "APPMESH_RESOURCE_ARN=mesh/m/virtualNode/n", "APPMESH_XDS_ENDPOINT=c:1")
			if _, err := settings.Parse(agenttest.Environment(env...), settings.Flags{}, 0); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %s", err, test.want)
			}
		})
	}
	for name, rules := range map[string]string{
		"must have a default":                           `{"version": 2, "rules": []}`,
		"default must have a rate from 0 to 1":          `{"version": 2, "default": {"fixed_target": 1, "rate": 1.5}}`,
		"default must have a fixed_target of 0 or more": `{"version": 2, "default": {"rate": 0.5}}`,
		"rules[0] must have host":                       `{"version": 2, "default": {"fixed_target": 1, "rate": 0.5}, "rules": [{"fixed_target": 1, "rate": 0.5}]}`,
		"holds no sampling rules":                       `version: 2`,
	} {
		t.Run("AGENT-021 "+name, func(t *testing.T) {
			if err := checkManifest([]byte(rules)); err == nil || !strings.Contains(err.Error(), name) {
				t.Errorf("got %v", err)
			}
		})
	}
}
