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
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/testenv"
	"github.com/evermesh/evermesh/test/ground"
)

const wait = 2 * testenv.Patience

// passThrough makes a plain Envoy of the generated bootstrap: what is redirected to it goes where it was meant to.
const passThrough = `static_resources:
  listeners:
  - &egress
    name: egress
    address: {socket_address: {address: "ANY", ipv4_compat: COMPAT, port_value: 15001}}
    listener_filters:
    - name: original_dst
      typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.listener.original_dst.v3.OriginalDst}
    filter_chains:
    - filters:
      - name: tcp
        typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: egress, cluster: original}
  - <<: *egress
    name: ingress
    address: {socket_address: {address: "ANY", ipv4_compat: COMPAT, port_value: 15000}}
    filter_chains:
    - filters:
      - name: tcp
        typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: ingress, cluster: original}
  clusters:
  - {name: original, type: ORIGINAL_DST, lb_policy: CLUSTER_PROVIDED, connect_timeout: 2s}
`

// workload is a host whose traffic goes through a real Envoy, which the agent runs.
type workload struct {
	ground      *ground.Ground
	host        *ground.Host
	other, home *ground.Host
	admin       *http.Client
}

// ignoredPorts are more than the fifteen that App Mesh took.
const ignoredPorts = "2049,2001,2002,2003,2004,2005,2006,2007,2008,2009,2010,2011,2012,2013,2014,2015,2016"

// launch says what newWorkload is to start.
type launch struct {
	resource string // of the agent; "" is a virtual node
	uid      uint32 // of agent and Envoy; 0 is the ground's owner
	users    bool   // it needs rules by user
	install  func(w *workload)
}

func newWorkload(t *testing.T, l launch) *workload {
	t.Helper()
	g := newGround(t)
	if l.users && g.Owner().UID == 0 {
		t.Skip("this machine allows no network namespaces with redirection by user: it has one user id")
	}
	w := &workload{ground: g, home: g.Home()}
	for name, h := range map[string]**ground.Host{"workload": &w.host, "other": &w.other} {
		var err error
		if *h, err = g.Host(name); err != nil {
			t.Fatal(err)
		}
	}
	w.admin = w.host.Client()
	t.Cleanup(w.admin.CloseIdleConnections)
	for port, text := range map[string]string{"80": "app:80", "8080": "app", "8081": "unmodelled"} {
		tell(t, w.host, ":"+port, text)
	}
	for _, port := range []string{"9080", "2049", "2016", "22"} {
		tell(t, w.other, ":"+port, "other:"+port)
	}
	tell(t, w.home, ":9080", "home:9080")
	l.install(w)

	owner := g.Owner()
	if l.uid == 0 {
		l.uid = owner.UID
	}
	if l.resource == "" {
		l.resource = "mesh/m/virtualNode/n"
	}
	dir := filepath.Join(g.Dir(), "agent")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	anyAddress, compat := "0.0.0.0", "false"
	if w.host.Addr6().IsValid() {
		anyAddress, compat = "::", "true"
	}
	resources := strings.NewReplacer("ANY", anyAddress, "COMPAT", compat).Replace(passThrough)
	if err := os.WriteFile(filepath.Join(dir, "resources.yaml"), []byte(resources), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(dir, int(l.uid), int(l.uid)); err != nil {
		t.Fatal(err)
	}
	binary := testenv.Envoy(t)
	version, err := exec.CommandContext(t.Context(), binary, "--version").Output()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("real envoy: %s", regexp.MustCompile(`\d+\.\d+\.\d+`).Find(version))
	env := append([]string{
		part + "=agent", "TMPDIR=" + dir, "ENVOY_PATH=" + tool(t, g, binary), "ENVOY_RESOURCES_CONFIG_FILE=" + filepath.Join(dir, "resources.yaml"),
		"APPMESH_RESOURCE_ARN=" + l.resource, "AWS_REGION=us-east-1", "AWS_EC2_METADATA_DISABLED=true", "APPMESH_XDS_ENDPOINT=http://127.0.0.1:1",
		"ENVOY_INITIAL_FETCH_TIMEOUT=1", "ENVOY_ADMIN_ACCESS_LOG_FILE=/dev/null", "ENVOY_OUTLIER_DETECTION_EVENT_LOG_PATH=/dev/null",
		"ENVOY_LOG_LEVEL=warning", "ENVOY_CONCURRENCY=1", "LISTENER_DRAIN_WAIT_TIME_S=5",
	}, owner.Env()...)
	p, err := w.host.Start(ground.Command{Name: "agent", Path: tool(t, g, "/proc/self/exe"), Env: env, UID: l.uid})
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
	ctx, cancel := context.WithTimeout(t.Context(), wait)
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
