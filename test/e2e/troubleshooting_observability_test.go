//go:build linux

package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/evermesh/evermesh/test/stage"
)

// TestSampling has X-Ray's daemon beside an Envoy that follows rules from a file, and a tracer of the user's own as the
// guide has it.
func TestSampling(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "sampling", "DROP_ALL")
	m.app("blue")
	service := m.service("shop", appPort, map[string]string{"rest": to("blue", `{"prefix": "/"}`)})
	m.create("VirtualNode", "client", callerSpec(service))
	url := fmt.Sprintf("http://%s:%d", service, appPort)
	file := func(name, text string) string {
		path := filepath.Join(m.Dir(), name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	rules := file("sampling-rules.json", `{"version": 2, "default": {"fixed_target": 0, "rate": 0},
		"rules": [{"description": "some", "host": "*", "http_method": "*", "url_path": "/sampled", "fixed_target": 1000, "rate": 1}]}`)
	tracer := file("xray.yaml", `tracing:
  http:
    name: envoy.tracers.xray
    typedConfig:
      "@type": type.googleapis.com/envoy.config.trace.v3.XRayConfig
      segmentName: foo/bar
      segmentFields:
        origin: AWS::AppMesh::Proxy
        aws:
          app_mesh:
            mesh_name: foo
            virtual_node_name: bar
      daemonEndpoint:
        protocol: UDP
        address: 127.0.0.1
        portValue: 2000
      samplingRuleManifest:
        filename: `+rules+"\n")
	for name, c := range map[string]struct{ segment, env string }{
		"OBS-039 TRBL-023 rules come from a file, and the daemon's service of rules is not asked": {"sampling/client", "ENABLE_ENVOY_XRAY_TRACING=1 XRAY_SAMPLING_RULE_MANIFEST=" + rules},
		"OBS-038 TRBL-023 a tracer of the user's own, as the guide's sample":                      {"foo/bar", "ENVOY_TRACING_CFG_FILE=" + tracer},
	} {
		t.Run(name, func(t *testing.T) {
			h := m.host(strings.ReplaceAll(c.segment, "/", "-"))
			segments := collect(t, h, 2000)
			daemon, err := h.Listen("tcp", "127.0.0.1:2000")
			if err != nil {
				t.Fatal(err)
			}
			var asked atomic.Int64
			done := make(chan struct{})
			go func() {
				defer close(done)
				for {
					conn, err := daemon.Accept()
					if err != nil {
						return
					}
					asked.Add(1)
					conn.Close()
				}
			}()
			t.Cleanup(func() { daemon.Close(); <-done })
			m.sidecar(h, stage.SidecarOptions{Resource: "client", Env: strings.Fields(c.env)})
			ask(t, h, request{URL: url + "/quiet"})
			ask(t, h, request{URL: url + "/sampled"})
			var before []string
			line := segments.await(t, func(line string) bool {
				before = append(before, line)
				return strings.Contains(line, `/sampled"`)
			})
			if !strings.Contains(line, `"name":"`+c.segment+`"`) || !strings.Contains(line, "AWS::AppMesh::Proxy") {
				t.Errorf("the segment is %s", line)
			}
			if text := strings.Join(before, "\n"); strings.Contains(text, "/quiet") {
				t.Errorf("a request that no rule samples was sent:\n%s", text)
			}
			if n := asked.Load(); n != 0 {
				t.Errorf("%d connections to the daemon's TCP port", n)
			}
		})
	}
	t.Run("TRBL-023 without the variable there are none", func(t *testing.T) {
		h := m.host("none")
		segments := collect(t, h, 2000)
		m.sidecar(h, stage.SidecarOptions{Resource: "client"})
		ask(t, h, request{URL: url + "/sampled"})
		segments.mu.Lock()
		defer segments.mu.Unlock()
		if len(segments.lines) > 0 {
			t.Errorf("the daemon got %q", segments.lines)
		}
	})
}

// TestMeansOfDebugging turns on what the guide recommends to have: the administration interface, DogStatsD and access
// logs; and has what it searches logs for.
func TestMeansOfDebugging(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "means", "DROP_ALL")
	h := m.program("server")
	log := filepath.Join(m.Dir(), "run", h.Name(), "access.log")
	m.create("VirtualNode", "server", strings.TrimSuffix(m.nodeSpec("server"), "}")+fmt.Sprintf(`, "logging": {"accessLog": {"file": {"path": %q}}}}`, log))
	statsd := collect(t, h, 8125)
	s := m.sidecar(h, stage.SidecarOptions{Resource: "server", AppPorts: fmt.Sprint(appPort), AdminPort: 9911, Env: []string{
		"ENABLE_ENVOY_DOG_STATSD=1", "ENVOY_STATS_FLUSH_INTERVAL=500ms",
	}})
	visitor := m.host("visitor")
	ask(t, visitor, request{URL: fmt.Sprintf("http://%s:%d/seen", m.hostname("server"), appPort)})

	t.Run("TRBL-034 TRBL-024 the administration interface, where Prometheus finds the metrics", func(t *testing.T) {
		m.until("Prometheus sees the request", func(context.Context) bool {
			text := m.admin(s, "/stats?format=prometheus")
			return regexp.MustCompile(`(?m)^envoy_http_downstream_rq_xx\{[^}]*\} [1-9]`).MatchString(text)
		})
	})
	t.Run("TRBL-034 DogStatsD", func(t *testing.T) {
		statsd.await(t, func(line string) bool { return strings.HasPrefix(line, "envoy.") })
	})
	t.Run("TRBL-034 OBS-006 access logs, in a file that any collector follows", func(t *testing.T) {
		m.until("the line is there", func(context.Context) bool { return strings.Contains(read(t, log), "GET /seen HTTP/1.1") })
	})
	t.Run("OBS-010 TRBL-031 a disconnect is found by gRPC config stream, and parses as code and message", func(t *testing.T) {
		lost := m.sidecar(m.host("lost"), stage.SidecarOptions{Resource: "not-there", Early: true})
		query := regexp.MustCompile(`gRPC config stream.*closed[^:]*: (\d+), (.*)`)
		var found []string
		m.until("the log has it", func(context.Context) bool {
			found = query.FindStringSubmatch(read(t, lost.Process.Log()))
			return found != nil
		})
		if found[1] != "3" || !strings.Contains(found[2], "not-there") {
			t.Errorf("code %s, message %s", found[1], found[2])
		}
	})
}

// TestHealthCheckVolume counts the health checks of a node with two clients, as explain estimates them.
func TestHealthCheckVolume(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "volume", "DROP_ALL")
	h := m.program("server")
	const check = `, "healthCheck": {"protocol": "http", "path": "/health", "intervalMillis": 5000, "timeoutMillis": 2000, "healthyThreshold": 2, "unhealthyThreshold": 2}`
	const watch = `, "outlierDetection": {"maxServerErrors": 3, "interval": {"unit": "s", "value": 1}, "baseEjectionDuration": {"unit": "s", "value": 60}, "maxEjectionPercent": 50}`
	node := m.create("VirtualNode", "server", m.nodeWith("server", check))
	m.sidecar(h, stage.SidecarOptions{Resource: "server", AppPorts: fmt.Sprint(appPort)})
	service := m.service("shop", appPort, map[string]string{"rest": to("server", `{"prefix": "/"}`)})
	m.create("VirtualNode", "client", callerSpec(service))
	var clients []*stage.Sidecar
	for _, name := range []string{"one", "two"} {
		clients = append(clients, m.sidecar(m.host(name), stage.SidecarOptions{Resource: "client"}))
	}
	const cluster = "cluster.cds_egress_volume_server_http_9080."
	advised := func() string { return strings.Join(m.explanation(t, node).Advice, "\n") }
	t.Run("EMS-046 TRBL-022 the estimate is what clients, servers and interval multiply to, and what Envoys send", func(t *testing.T) {
		const want = "the healthCheck on port 9080 makes about 0.4 checks a second: 2 connected client proxies × 1 proxies of this node, every 5s; 0.4 a second at each."
		m.until("explain says "+want, func(context.Context) bool { return strings.Contains(advised(), want) })
		began := time.Now()
		sum := func() (n int) {
			for _, c := range clients {
				n += m.stat(c, cluster+"health_check.attempt")
			}
			return n
		}
		before := sum()
		m.until("four more checks were made", func(context.Context) bool { return sum() >= before+4 })
		if took := time.Since(began); took < 4*time.Second {
			t.Errorf("four checks took %v, want about 10s", took)
		}
	})
	t.Run("TRBL-022 outlier detection watches without checks", func(t *testing.T) {
		m.settle(m.update("VirtualNode", "server", m.nodeWith("server", watch)))
		if got := advised(); strings.Contains(got, "checks a second") {
			t.Errorf("the advice is %q", got)
		}
		for _, c := range clients {
			text := m.admin(c, "/stats?filter="+strings.TrimSuffix(cluster, "."))
			if !strings.Contains(text, cluster+"outlier_detection.") {
				t.Errorf("%s does not watch", c.Host.Name())
			}
			if a := ask(t, c.Host, request{URL: fmt.Sprintf("http://%s:%d/", service, appPort)}); a.App != "server" {
				t.Errorf("%d %s", a.Status, a.Body)
			}
		}
	})
}

// TestLookAhead has the guide's pattern that Envoy's older ones took to look ahead, and what others write for it.
func TestLookAhead(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "patterns", "DROP_ALL")
	for _, name := range []string{"blue", "green"} {
		m.app(name)
	}
	service := m.service("shop", appPort, map[string]string{"rest": to("blue", `{"prefix": "/"}`)})
	m.create("VirtualNode", "client", callerSpec(service))
	h := m.host("client")
	m.sidecar(h, stage.SidecarOptions{Resource: "client"})
	at := func(path string) string {
		return reach(t, h, fmt.Sprintf("http://%s:%d%s", service, appPort, path), "")
	}
	t.Run("TRBL-036 IMG-013 a look-ahead is refused by its name, and what was there acts on", func(t *testing.T) {
		_, err := m.try("CreateRoute", `{"virtualRouterName": "shop", "routeName": "ahead", "spec": `+when("green", `{"path": {"regex": "/prefix(?!suffix)"}}`)+`}`)
		if err == nil || !strings.Contains(err.Error(), `"/prefix(?!suffix)" in spec.httpRoute.match.path.regex cannot be used: (?! is a negative look-ahead`) {
			t.Errorf("got %v", err)
		}
		if got := at("/prefix"); got != "blue" {
			t.Errorf("/prefix leads to %s, want blue", got)
		}
	})
	t.Run("TRBL-036 (?:! is a literal, of which explain warns", func(t *testing.T) {
		arn := m.route("shop", "literal", when("green", `{"path": {"regex": "^/prefix(?:!suffix)"}}`))
		m.settle(arn)
		for path, want := range map[string]string{"/prefix!suffix": "green", "/prefix": "blue", "/prefixother": "blue"} {
			if got := at(path); got != want {
				t.Errorf("%s leads to %s, want %s", path, got, want)
			}
		}
		if advice := strings.Join(m.explanation(t, arn).Advice, "\n"); !strings.Contains(advice, `spec.httpRoute.match.path.regex has "(?:!"`) {
			t.Errorf("the advice is %q", advice)
		}
	})
}
