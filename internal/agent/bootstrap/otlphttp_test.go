package bootstrap

import (
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/evermesh/evermesh/internal/agent/agenttest"
	"github.com/evermesh/evermesh/internal/agent/settings"
	"github.com/evermesh/evermesh/internal/testenv"
)

// otlpHTTP is a collector that takes requests of HTTP: it notes their lines, their headers and what is in them.
func otlpHTTP(t *testing.T, serve func(*httptest.Server)) (*got, *httptest.Server) {
	t.Helper()
	g := &got{}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, err := io.ReadAll(r.Body)
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		g.add(fmt.Sprintf("%s %s %s\nhost %s\ntype %s\nauthorization %s\nx-tenant %s\n\n%s", r.Method, r.RequestURI, r.Proto, r.Host,
			r.Header.Get("Content-Type"), r.Header.Values("Authorization"), r.Header.Values("X-Tenant"), text))
	}))
	serve(s)
	t.Cleanup(s.Close)
	return g, s
}

const (
	hidden  = "Basic czNjcmV0OnB3"
	headers = "OTEL_EXPORTER_OTLP_HEADERS=Authorization=Basic%20czNjcmV0OnB3, x-tenant=shop"
)

// TestCollectors has the real thing send by each protocol, with headers, to those who are to get it.
func TestCollectors(t *testing.T) {
	envoys := agenttest.Envoys(t)
	await := func(t *testing.T, g *got, want string) {
		t.Helper()
		re := regexp.MustCompile("(?s)" + want)
		testenv.Eventually(t, want+" has come", func() bool { return g.find(re) })
	}
	spans := func(ask func(path, parent string)) {
		for range together {
			ask("/traced", "")
		}
	}
	each := func(name string, start func(t *testing.T, envoy string)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, envoy := range envoys {
				t.Log(envoy)
				start(t, envoy)
			}
		})
	}
	const tracing, byHTTP = "ENABLE_ENVOY_OTEL_TRACING=1", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=http/protobuf"
	each("by HTTP, below the address for all signals", func(t *testing.T, envoy string) {
		g, s := otlpHTTP(t, (*httptest.Server).Start)
		spans(run(t, envoy, tracing, byHTTP, headers, "OTEL_EXPORTER_OTLP_ENDPOINT="+s.URL+"/otlp/"))
		await(t, g, `^POST /otlp/v1/traces HTTP/1\.1\nhost `+strings.TrimPrefix(s.URL, "http://")+`\ntype application/x-protobuf\nauthorization \[`+hidden+`\]\nx-tenant \[shop\]\n.*/traced`)
	})
	each("by HTTPS, at the address of the signal, with headers of its own", func(t *testing.T, envoy string) {
		g, s := otlpHTTP(t, func(s *httptest.Server) {
			s.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
			s.StartTLS()
		})
		ca := filepath.Join(t.TempDir(), "ca.pem")
		if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
			t.Fatal(err)
		}
		spans(run(t, envoy, tracing, byHTTP, headers, "OTEL_EXPORTER_OTLP_TRACES_HEADERS=x-tenant=a%2Cb", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT="+s.URL+"/in%20here",
			"OTEL_EXPORTER_OTLP_CERTIFICATE=/does/not/exist", "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE="+ca))
		await(t, g, `^POST /in%20here HTTP/1\.1\n.*\nauthorization \[\]\nx-tenant \[a,b\]\n.*/traced`)
	})
	each("by HTTP to a socket", func(t *testing.T, envoy string) {
		path := filepath.Join(agenttest.ShortDir(t), "otlp.sock")
		g, _ := otlpHTTP(t, func(s *httptest.Server) {
			l, err := net.Listen("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			s.Listener.Close()
			s.Listener = l
			s.Start()
		})
		spans(run(t, envoy, tracing, byHTTP, "OTEL_EXPORTER_OTLP_ENDPOINT=unix://"+path))
		await(t, g, `^POST /v1/traces HTTP/1\.1\nhost localhost\n.*/traced`)
	})
	each("by gRPC, with headers that nobody is shown", func(t *testing.T, envoy string) {
		g, at := otlp(t)
		admin := testenv.FreePort(t)
		ask := run(t, envoy, tracing, "ENABLE_ENVOY_OTEL_METRICS=1", headers, "OTEL_EXPORTER_OTLP_ENDPOINT=http://"+at, fmt.Sprintf("ENVOY_ADMIN_ACCESS_PORT=%d", admin))
		await(t, g, `^/opentelemetry\.proto\.collector\.metrics\.v1\.MetricsService/Export\nauthorization \[`+hidden+`\]\nx-tenant \[shop\]\n.*envoy\.server\.uptime`)
		spans(ask)
		await(t, g, `^/opentelemetry\.proto\.collector\.trace\.v1\.TraceService/Export\nauthorization \[`+hidden+`\]\nx-tenant \[shop\]\n.*/traced`)
		for _, path := range []string{"/config_dump?include_eds", "/clusters", "/server_info"} {
			answer, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d%s", admin, path))
			if err != nil {
				t.Fatal(err)
			}
			text, err := io.ReadAll(answer.Body)
			answer.Body.Close()
			if err != nil || answer.StatusCode != http.StatusOK || len(text) == 0 {
				t.Fatalf("%s: %d, %v", path, answer.StatusCode, err)
			}
			if strings.Contains(string(text), "czNjcmV0") {
				t.Errorf("%s shows what a header has", path)
			}
		}
	})
}

// What a header has is in no file, and in nothing that is said of it.
func TestHeadersAreHidden(t *testing.T) {
	t.Parallel()
	parse := func(lines ...string) (settings.Settings, error) {
		return settings.Parse(agenttest.Environment(append([]string{"APPMESH_RESOURCE_ARN=mesh/m/virtualNode/n", "APPMESH_XDS_ENDPOINT=c:1", "ENABLE_ENVOY_OTEL_TRACING=1"}, lines...)...), settings.Flags{}, 0)
	}
	s, err := parse(headers)
	if err != nil {
		t.Fatal(err)
	}
	text, warnings, err := File(s, Facts{SocketPath: "/s"}, nil)
	if err != nil || len(warnings)+len(s.Warnings) > 0 {
		t.Fatalf("%v, %q, %q", err, warnings, s.Warnings)
	}
	if strings.Contains(string(text), "czNjcmV0") || !strings.Contains(string(text), "%ENVIRONMENT(OTLP_TRACES_HEADER_1)%") {
		t.Errorf("the bootstrap: %s", text)
	}
	if env := strings.Join(s.Bootstrap.EnvoyEnvironment(), "\n"); env != "OTLP_TRACES_HEADER_1="+hidden+"\nOTLP_TRACES_HEADER_2=shop" {
		t.Errorf("Envoy's environment: %q", env)
	}
	for _, wrong := range []string{"hidden", "=hidden", "k=", "a b=hidden", "k=hidden%0d%0ax: y", "k=%zzhidden", "host=hidden", "te=hidden", "grpc-timeout=hidden", ":path=hidden", "ok=1,k hidden"} {
		_, err := parse("OTEL_EXPORTER_OTLP_HEADERS=" + wrong)
		if err == nil || !strings.Contains(err.Error(), "OTEL_EXPORTER_OTLP_HEADERS: its item ") || strings.Contains(err.Error(), "hidden") {
			t.Errorf("%s: got %v", wrong, err)
		}
	}
	for _, wrong := range []string{"http://user:hidden@c:4318", "http://c:4318/v1?key=hidden", "http://c:4318/#hidden"} {
		if _, err := parse("OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf", "OTEL_EXPORTER_OTLP_ENDPOINT="+wrong); err == nil || strings.Contains(err.Error(), "hidden") {
			t.Errorf("%s: got %v", wrong, err)
		}
	}
}
