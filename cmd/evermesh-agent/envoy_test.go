package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/testenv"
	"github.com/evermesh/evermesh/test/ground"
)

const wait = 20 * time.Second

// passThrough makes a plain Envoy of the generated bootstrap: what is redirected to it goes where it was meant to.
const passThrough = `static_resources:
  listeners:
  - &egress
    name: egress
    address: {socket_address: {address: 0.0.0.0, port_value: 15001}}
    listener_filters:
    - name: original_dst
      typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.listener.original_dst.v3.OriginalDst}
    filter_chains:
    - filters:
      - name: tcp
        typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: egress, cluster: original}
  - <<: *egress
    name: ingress
    address: {socket_address: {address: 0.0.0.0, port_value: 15000}}
    filter_chains:
    - filters:
      - name: tcp
        typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: ingress, cluster: original}
  clusters:
  - {name: original, type: ORIGINAL_DST, lb_policy: CLUSTER_PROVIDED, connect_timeout: 2s}
`

// workload is a host whose traffic goes through a real Envoy, which the agent runs.
type workload struct {
	host        *ground.Host
	other, home *ground.Host
	admin       *http.Client
}

func newWorkload(t *testing.T) *workload {
	t.Helper()
	g := newGround(t)
	w := &workload{home: g.Home()}
	for name, h := range map[string]**ground.Host{"workload": &w.host, "other": &w.other} {
		var err error
		if *h, err = g.Host(name); err != nil {
			t.Fatal(err)
		}
	}
	w.admin = w.host.Client()
	t.Cleanup(w.admin.CloseIdleConnections)
	for port, text := range map[string]string{"8080": "app", "8081": "unmodelled"} {
		tell(t, w.host, ":"+port, text)
	}
	for _, port := range []string{"9080", "2049", "22"} {
		tell(t, w.other, ":"+port, "other:"+port)
	}
	tell(t, w.home, ":9080", "home:9080")
	inNamespace(t, w.host, nil, append([]string{
		"APPMESH_START_ENABLED=1", "APPMESH_ENVOY_INGRESS_PORT=15000", "APPMESH_ENVOY_EGRESS_PORT=15001", "APPMESH_APP_PORTS=8080",
		"APPMESH_EGRESS_IGNORED_PORTS=2049", "APPMESH_EGRESS_IGNORED_IP=169.254.169.254," + w.home.Addr().String(),
	}, g.Owner().Env()...), strings.NewReader(""))

	uid := int(g.Owner().UID)
	dir := filepath.Join(g.Dir(), "agent")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "resources.yaml"), []byte(passThrough), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(dir, uid, uid); err != nil {
		t.Fatal(err)
	}
	env := append([]string{
		part + "=agent", "TMPDIR=" + dir, "ENVOY_PATH=" + tool(t, g, testenv.Envoy(t)), "ENVOY_RESOURCES_CONFIG_FILE=" + filepath.Join(dir, "resources.yaml"),
		"APPMESH_RESOURCE_ARN=mesh/m/virtualNode/n", "AWS_REGION=us-east-1", "AWS_EC2_METADATA_DISABLED=true", "APPMESH_XDS_ENDPOINT=http://127.0.0.1:1",
		"ENVOY_INITIAL_FETCH_TIMEOUT=1", "ENVOY_ADMIN_ACCESS_LOG_FILE=/dev/null", "ENVOY_OUTLIER_DETECTION_EVENT_LOG_PATH=/dev/null",
		"ENVOY_LOG_LEVEL=warning", "ENVOY_CONCURRENCY=1", "LISTENER_DRAIN_WAIT_TIME_S=5",
	}, g.Owner().Env()...)
	p, err := w.host.Start(ground.Command{Name: "agent", Path: tool(t, g, "/proc/self/exe"), Env: env, UID: g.Owner().UID})
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(wait); ; {
		if answer, err := w.ask(t, "/ready"); err == nil && strings.HasPrefix(answer, "LIVE") {
			return w
		}
		if time.Now().After(deadline) {
			log, _ := os.ReadFile(p.Log())
			t.Fatalf("Envoy is not live\n%s", log)
		}
		tick(t)
	}
}

func tick(t *testing.T) {
	timer := time.NewTimer(20 * time.Millisecond)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.Context().Done():
	}
}

func tool(t *testing.T, g *ground.Ground, path string) string {
	t.Helper()
	place, err := g.Tool(path)
	if err != nil {
		t.Fatal(err)
	}
	return place
}

// tell listens on the host and tells every connection text, until the test ends.
func tell(t *testing.T, h *ground.Host, addr, text string) {
	t.Helper()
	stop, err := h.Greet(addr, text)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
}

func (w *workload) ask(t *testing.T, path string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:9901"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := w.admin.Do(r)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	return string(text), err
}

// counts are the connections that Envoy's listeners took so far.
func (w *workload) counts(t *testing.T) (ingress, egress int) {
	t.Helper()
	text, err := w.ask(t, "/stats?filter=downstream_cx_total")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		n, _ := strconv.Atoi(value)
		switch name {
		case "tcp.ingress.downstream_cx_total":
			ingress = n
		case "tcp.egress.downstream_cx_total":
			egress = n
		}
	}
	return ingress, egress
}

// passes checks what a connection says, and how many connections Envoy's listeners took for it.
func (w *workload) passes(t *testing.T, from *ground.Host, to netip.Addr, port, want string, ingress, egress int) {
	t.Helper()
	beforeIn, beforeOut := w.counts(t)
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	conn, err := from.Dial(ctx, "tcp", net.JoinHostPort(to.String(), port))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(wait))
	text, err := io.ReadAll(conn)
	if err != nil || !bytes.Equal(text, []byte(want)) {
		t.Errorf("got %q, %v; want %q", text, err, want)
	}
	in, out := w.counts(t)
	if got := fmt.Sprint(in-beforeIn, out-beforeOut); got != fmt.Sprint(ingress, egress) {
		t.Errorf("Envoy's ingress and egress took %s, want %d %d", got, ingress, egress)
	}
}

// Redirection and agent together: Envoy's own connections are its user's, or carry its mark, and are not redirected to
// itself again.
func TestInterceptedTraffic(t *testing.T) {
	w := newWorkload(t)
	t.Run("ICPT-002 ICPT-013 ICPT-029 connections to others pass through Envoy once", func(t *testing.T) {
		w.passes(t, w.host, w.other.Addr(), "9080", "other:9080", 0, 1)
	})
	t.Run("ICPT-003 ICPT-014 arriving connections to application ports pass through Envoy", func(t *testing.T) {
		w.passes(t, w.other, w.host.Addr(), "8080", "app", 1, 0)
	})
	t.Run("ICPT-028 those to other ports do not", func(t *testing.T) {
		w.passes(t, w.other, w.host.Addr(), "8081", "unmodelled", 0, 0)
	})
	t.Run("ICPT-005 ICPT-011 ICPT-027 nor those to ignored ports", func(t *testing.T) {
		w.passes(t, w.host, w.other.Addr(), "2049", "other:2049", 0, 0)
		w.passes(t, w.host, w.other.Addr(), "22", "other:22", 0, 0)
	})
	t.Run("ICPT-004 nor those to ignored addresses", func(t *testing.T) {
		w.passes(t, w.host, w.home.Addr(), "9080", "home:9080", 0, 0)
	})
}
