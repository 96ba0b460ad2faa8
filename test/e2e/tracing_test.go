//go:build linux

package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/evermesh/evermesh/test/ground"
	"github.com/evermesh/evermesh/test/stage"
)

// arrivals are the requests that came to a collector of traces.
type arrivals chan arrived

type arrived struct{ path, kind, body string }

// collector serves HTTP on a port of the host's loopback until the test ends.
func collector(t *testing.T, h *ground.Host, port int) arrivals {
	t.Helper()
	out := make(arrivals, 100)
	l, err := h.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{ReadHeaderTimeout: wait, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
		if err == nil {
			select {
			case out <- arrived{r.URL.Path, r.Header.Get("Content-Type"), string(body)}:
			default: // nobody waits any more
			}
		}
		_, _ = io.WriteString(w, "{}")
	})}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(l) }()
	t.Cleanup(func() { server.Close(); <-done })
	return out
}

// await waits for such a request.
func (a arrivals) await(t *testing.T, what string, wanted func(arrived) bool) arrived {
	t.Helper()
	late := time.After(wait)
	var seen []string
	for {
		select {
		case x := <-a:
			if wanted(x) {
				return x
			}
			seen = append(seen, x.path)
		case <-late:
			t.Fatalf("no %s came, but %q", what, seen)
		}
	}
}

// TestTracing has a tracer of each kind beside a client, and looks at what arrives there.
func TestTracing(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "traces", "DROP_ALL")
	m.app("blue")
	service := m.service("shop", appPort, map[string]string{"r": weighted("", "blue", 1)})
	m.DNS().Set(m.hostname("db"), nobody)
	m.create("VirtualNode", "plain", fmt.Sprintf(`{"listeners": [{"portMapping": {"port": %d, "protocol": "tcp"}}], "serviceDiscovery": {"dns": {"hostname": %q}}}`, appPort, m.hostname("blue")))
	m.create("VirtualRouter", "db", `{"listeners": [{"portMapping": {"port": 9100, "protocol": "tcp"}}]}`)
	m.route("db", "r", `{"tcpRoute": {"action": {"weightedTargets": [{"virtualNode": "plain", "weight": 1}]}}}`)
	m.create("VirtualService", m.hostname("db"), `{"provider": {"virtualRouter": {"virtualRouterName": "db"}}}`)
	m.create("VirtualNode", "client", callerSpec(service, m.hostname("db")))
	url := fmt.Sprintf("http://%s:%d/", service, appPort)
	const traceID = "463ac35c9f6413ad48485a3953bb6124"

	t.Run("OBS-032 AGENT-024 Jaeger gets a span of the trace that the application was in", func(t *testing.T) {
		h := m.host("jaeger")
		got := collector(t, h, 9411)
		m.sidecar(h, stage.SidecarOptions{Resource: "client", Env: []string{"ENABLE_ENVOY_JAEGER_TRACING=1", "JAEGER_TRACER_VERSION=JSON"}})
		// Connections by TCP go first: no trace of them may come before, or with, the request's.
		for range 3 {
			if a := ask(t, h, request{URL: fmt.Sprintf("http://%s:9100/tcp", m.hostname("db"))}); a.App != "blue" {
				t.Fatalf("%d %s", a.Status, a.Body)
			}
		}
		a := ask(t, h, request{URL: url + "traced", Header: map[string]string{"X-B3-Traceid": traceID, "X-B3-Spanid": "a2fb4a1d1a96d312", "X-B3-Sampled": "1"}})
		if got := a.Seen.Header.Get("X-B3-Traceid"); got != traceID {
			t.Errorf("the target saw the trace %q", got)
		}
		sent := got.await(t, "spans", func(x arrived) bool { return x.path == "/api/v2/spans" })
		var spans []struct {
			TraceID  string `json:"traceId"`
			ParentID string `json:"parentId"`
			Kind     string `json:"kind"`
			Endpoint struct {
				Name string `json:"serviceName"`
			} `json:"localEndpoint"`
			Tags map[string]string `json:"tags"`
		}
		if err := json.Unmarshal([]byte(sent.body), &spans); err != nil {
			t.Fatalf("%v: %s", err, sent.body)
		}
		if len(spans) != 1 || spans[0].TraceID != traceID || spans[0].Tags["http.url"] != url+"traced" || spans[0].Tags["http.status_code"] != "200" {
			t.Errorf("got %s", sent.body)
		}
		t.Run("OBS-037 a tcp listener makes no trace", func(t *testing.T) {
			if strings.Contains(sent.body, "9100") || len(spans) != 1 {
				t.Errorf("got %s", sent.body)
			}
		})
	})
	t.Run("OBS-033 OBS-041 AGENT-018 the X-Ray daemon gets a segment by UDP", func(t *testing.T) {
		h := m.host("xray")
		got := collect(t, h, 2000)
		m.sidecar(h, stage.SidecarOptions{Resource: "client", Env: []string{"ENABLE_ENVOY_XRAY_TRACING=1", "XRAY_DAEMON_PORT=2000", "XRAY_SAMPLING_RATE=1"}})
		ask(t, h, request{URL: url + "traced"})
		line := got.await(t, func(line string) bool { return strings.Contains(line, `"trace_id"`) })
		var segment struct {
			Name   string `json:"name"`
			Origin string `json:"origin"`
			AWS    struct {
				AppMesh map[string]string `json:"app_mesh"`
			} `json:"aws"`
			HTTP struct {
				Request struct {
					URL string `json:"url"`
				} `json:"request"`
			} `json:"http"`
		}
		if err := json.Unmarshal([]byte(line), &segment); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if segment.Name != "traces/client" || segment.Origin != "AWS::AppMesh::Proxy" || segment.AWS.AppMesh["mesh_name"] != "traces" ||
			segment.AWS.AppMesh["virtual_node_name"] != "client" || segment.HTTP.Request.URL != url+"traced" {
			t.Errorf("got %s", line)
		}
	})
	t.Run("OBS-030 AGENT-023 Datadog's agent gets traces and metrics", func(t *testing.T) {
		h := m.host("datadog")
		got, metrics := collector(t, h, 8126), collect(t, h, 8125)
		m.sidecar(h, stage.SidecarOptions{Resource: "client", Env: []string{"ENABLE_ENVOY_DATADOG_TRACING=1", "ENABLE_ENVOY_DOG_STATSD=1", "ENVOY_STATS_FLUSH_INTERVAL=500ms"}})
		ask(t, h, request{URL: url + "traced"})
		sent := got.await(t, "traces", func(x arrived) bool {
			return strings.HasSuffix(x.path, "/traces") && strings.Contains(x.body, url+"traced")
		})
		if sent.kind != "application/msgpack" || !strings.Contains(sent.body, "envoy-traces/client") {
			t.Errorf("%s with %q", sent.kind, sent.body)
		}
		metrics.await(t, func(line string) bool { return strings.HasPrefix(line, "envoy.cluster.upstream_rq_total:") })
	})
	t.Run("OBS-043 AGENT-025 a tracer of the user's own, and a mesh without any", func(t *testing.T) {
		h := m.host("own")
		got := collector(t, h, 9500)
		config := m.ownTracer(t)
		m.sidecar(h, stage.SidecarOptions{Resource: "client", Env: []string{"ENVOY_TRACING_CFG_FILE=" + config}})
		ask(t, h, request{URL: url + "traced"})
		sent := got.await(t, "spans", func(x arrived) bool { return x.path == "/v1/traces" })
		if sent.kind != "application/x-protobuf" || !strings.Contains(sent.body, "mine") || !strings.Contains(sent.body, url+"traced") {
			t.Errorf("%s with %q", sent.kind, sent.body)
		}
		none := m.host("none")
		m.sidecar(none, stage.SidecarOptions{Resource: "client"})
		if a := ask(t, none, request{URL: url}); a.App != "blue" || a.Seen.Header.Get("X-B3-Traceid") != "" {
			t.Errorf("%d %s", a.Status, a.Body)
		}
	})
}

// ownTracer is a file of a user with a tracer of OpenTelemetry and its collector.
func (m *mesh) ownTracer(t *testing.T) string {
	t.Helper()
	path := filepath.Join(m.Dir(), "run", m.name+"-tracing.yaml")
	if err := os.WriteFile(path, []byte(`
tracing:
  http:
    name: envoy.tracers.opentelemetry
    typed_config:
      "@type": type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig
      service_name: mine
      http_service: {http_uri: {uri: "http://127.0.0.1:9500/v1/traces", cluster: otlp, timeout: 30s}}
static_resources:
  clusters:
  - name: otlp
    type: STATIC
    connect_timeout: 30s
    load_assignment:
      cluster_name: otlp
      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 9500}}}}]}]
`), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}
