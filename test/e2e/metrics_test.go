//go:build linux

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/evermesh/evermesh/test/ground"
	"github.com/evermesh/evermesh/test/stage"
)

// series are the values of a family of metrics, by its labels that have a value: name=value, sorted, with blanks
// between.
type series map[string]float64

// families reads Prometheus' text format.
func families(text string) map[string]series {
	out := map[string]series{}
	for line := range strings.Lines(text) {
		name, rest, labelled := strings.Cut(strings.TrimSpace(line), "{")
		labels, number, closed := strings.Cut(rest, "} ")
		value, err := strconv.ParseFloat(number, 64)
		if !labelled || !closed || err != nil {
			continue
		}
		var kept []string
		for label := range strings.SplitSeq(labels, ",") {
			if name, text, _ := strings.Cut(label, "="); strings.Trim(text, `"`) != "" {
				kept = append(kept, name+"="+strings.Trim(text, `"`))
			}
		}
		slices.Sort(kept)
		if out[name] == nil {
			out[name] = series{}
		}
		out[name][strings.Join(kept, " ")] = value
	}
	return out
}

// counting is a mesh whose proxies count what the metrics extension has: front, a gateway, and client call server by
// HTTP, gRPC and TCP.
type counting struct {
	*mesh
	server, client, gateway *stage.Sidecar
	datagrams               *datagrams // of the server's proxy to DogStatsD
}

func newCounting(t *testing.T) *counting {
	m := newMesh(t, "counted", "DROP_ALL")
	h := m.host("server")
	if _, err := m.App(h, stage.App{Name: "server", Listen: []string{":9080", ":9090", ":9100"}}); err != nil {
		t.Fatal(err)
	}
	m.create("VirtualNode", "server", fmt.Sprintf(`{"listeners": [{"portMapping": {"port": 9080, "protocol": "http"}},
		{"portMapping": {"port": 9090, "protocol": "grpc"}}, {"portMapping": {"port": 9100, "protocol": "tcp"}}],
		"serviceDiscovery": {"dns": {"hostname": %q}}}`, m.hostname("server")))
	var backends []string
	for _, s := range []struct {
		name, protocol, route string
		port                  int
	}{
		{"shop", "http", `{"httpRoute": {"match": {"prefix": "/"}, "action": {"weightedTargets": [{"virtualNode": "server", "weight": 1, "port": 9080}]}}}`, 9080},
		{"rpc", "grpc", `{"grpcRoute": {"match": {}, "action": {"weightedTargets": [{"virtualNode": "server", "weight": 1, "port": 9090}]}}}`, 9090},
		{"db", "tcp", `{"tcpRoute": {"action": {"weightedTargets": [{"virtualNode": "server", "weight": 1, "port": 9100}]}}}`, 9100},
	} {
		m.DNS().Set(m.hostname(s.name), nobody)
		m.create("VirtualRouter", s.name, fmt.Sprintf(`{"listeners": [{"portMapping": {"port": %d, "protocol": %q}}]}`, s.port, s.protocol))
		m.route(s.name, "r", s.route)
		m.create("VirtualService", m.hostname(s.name), fmt.Sprintf(`{"provider": {"virtualRouter": {"virtualRouterName": %q}}}`, s.name))
		backends = append(backends, m.hostname(s.name))
	}
	m.create("VirtualNode", "client", callerSpec(backends...))
	m.create("VirtualGateway", "front", `{"listeners": [{"portMapping": {"port": 8088, "protocol": "http"}}]}`)
	m.put("Create", "GatewayRoute", "front", "r", toService(m.hostname("shop"), `{"prefix": "/"}`, ""))

	c := &counting{mesh: m, datagrams: collect(t, h, 8125)}
	asked := []string{"APPMESH_METRIC_EXTENSION_VERSION=1", "ENVOY_STATS_FLUSH_INTERVAL=500ms"}
	c.server = m.sidecar(h, stage.SidecarOptions{
		Resource: "server", AppPorts: "9080,9090,9100", Env: append(asked, "ENABLE_ENVOY_DOG_STATSD=1", "ENABLE_ENVOY_STATS_TAGS=1"),
	})
	c.client = m.sidecar(m.host("client"), stage.SidecarOptions{Resource: "client", Env: asked})
	c.gateway = m.sidecar(m.host("front"), stage.SidecarOptions{Resource: "mesh/" + m.name + "/virtualGateway/front", Alone: true, Env: append(asked, "ENABLE_ENVOY_STATS_TAGS=1")})
	return c
}

// has waits until a family of the sidecar has exactly these series.
func (c *counting) has(t *testing.T, s *stage.Sidecar, family string, want series) {
	t.Helper()
	var got series
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	if err := stage.Until(ctx, family+" is as it should be", func(ctx context.Context) bool {
		text, err := s.Admin(ctx, "/stats/prometheus")
		got = families(text)[family]
		return err == nil && maps.Equal(got, want)
	}); err != nil {
		t.Fatalf("%s has\n%v\nwant\n%v", family, got, want)
	}
}

// TestMetrics compares what proxies with the metrics extension count with what was sent.
func TestMetrics(t *testing.T) {
	t.Parallel()
	c := newCounting(t)
	in := "Mesh=counted VirtualNode=server"
	out := func(service string) string {
		return "Mesh=counted TargetVirtualNode=server TargetVirtualService=" + c.hostname(service) + " VirtualNode=client"
	}
	// What Envoy's own statistics are tagged with beside, where stats tags are on.
	tags := "appmesh_mesh=counted appmesh_virtual_node=server"

	t.Run("OBS-024 OBS-025 OBS-026 a tcp connection while it is open, and its bytes when it has ended", func(t *testing.T) {
		conn, err := c.client.Host.Dial(t.Context(), "tcp", c.hostname("db")+":9100")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		const first, last = "GET /1 HTTP/1.1\r\nHost: a\r\n\r\n", "GET /2 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
		var received bytes.Buffer
		answers := bufio.NewReader(io.TeeReader(conn, &received))
		ask := func(request string) {
			t.Helper()
			if _, err := io.WriteString(conn, request); err != nil {
				t.Fatal(err)
			}
			answer, err := http.ReadResponse(answers, nil)
			if err != nil || answer.StatusCode != http.StatusOK {
				t.Fatalf("%v %v", answer, err)
			}
			if _, err := io.Copy(io.Discard, answer.Body); err != nil {
				t.Fatal(err)
			}
		}
		ask(first)
		c.has(t, c.server, "envoy_appmesh_ActiveConnectionCount", series{in + " " + tags + " envoy_connection_limit_prefix=ingress": 1})
		c.has(t, c.server, "envoy_appmesh_NewConnectionCount", series{in + " " + tags: 1})
		ask(last)
		if _, err := io.Copy(io.Discard, answers); err != nil {
			t.Fatal(err)
		}
		if err := conn.Close(); err != nil { // both sides have to
			t.Fatal(err)
		}
		total := float64(len(first) + len(last) + received.Len())
		t.Logf("%v bytes passed", total)
		c.has(t, c.server, "envoy_appmesh_ProcessedBytes", series{in: total})
		c.has(t, c.client, "envoy_appmesh_TargetProcessedBytes", series{out("db"): total})
		c.has(t, c.server, "envoy_appmesh_ActiveConnectionCount", series{in + " " + tags + " envoy_connection_limit_prefix=ingress": 0})
		c.has(t, c.server, "envoy_appmesh_RequestCount", nil) // nothing of it was a request of the mesh
	})
	shop := fmt.Sprintf("http://%s:9080/", c.hostname("shop"))
	requests := 11.0 // of the client to the shop, so far
	t.Run("OBS-024 OBS-025 requests by http, and those by grpc", func(t *testing.T) {
		for status, n := range map[string]int{"200": 5, "302": 3, "404": 2, "500": 1} {
			for range n {
				if a := ask(t, c.client.Host, request{URL: shop, Header: map[string]string{"X-Status": status}}); strconv.Itoa(a.Status) != status {
					t.Fatalf("asked for %s, got %d", status, a.Status)
				}
			}
		}
		for range 4 {
			c.callGRPC(t)
		}
		for family, want := range map[string]series{
			"RequestCountPerTarget":     {out("shop"): 11, out("rpc"): 4},
			"HTTPCode_Target_2XX_Count": {out("shop"): 5, out("rpc"): 4}, "HTTPCode_Target_3XX_Count": {out("shop"): 3},
			"HTTPCode_Target_4XX_Count": {out("shop"): 2}, "HTTPCode_Target_5XX_Count": {out("shop"): 1},
			"TargetResponseTime_count": {out("shop"): 11, out("rpc"): 4},
		} {
			c.has(t, c.client, "envoy_appmesh_"+family, want)
		}
		c.has(t, c.server, "envoy_appmesh_RequestCount", series{in: 15})
		c.has(t, c.server, "envoy_appmesh_GrpcRequestCount", series{in: 4})
	})
	t.Run("OBS-025 OBS-026 the time until the whole response has come", func(t *testing.T) {
		measure := func() (took float64) {
			before := families(c.admin(c.client, "/stats/prometheus"))["envoy_appmesh_TargetResponseTime_sum"][out("shop")]
			ask(t, c.client.Host, request{URL: shop, Header: map[string]string{"X-Delay": "700ms"}})
			requests++
			c.has(t, c.client, "envoy_appmesh_TargetResponseTime_count", series{out("shop"): requests, out("rpc"): 4})
			return families(c.admin(c.client, "/stats/prometheus"))["envoy_appmesh_TargetResponseTime_sum"][out("shop")] - before
		}
		took := measure()
		for n := 0; n < 4 && took > 3000; n++ { // a busy machine may be late once, or twice
			took = measure()
		}
		t.Logf("700 ms of the application were %v ms", took)
		if took < 600 || took > 3000 { // a histogram's sums are those of its buckets
			t.Errorf("700 ms were measured as %v", took)
		}
	})
	t.Run("OBS-025 what has no target is not counted", func(t *testing.T) {
		if a := ask(t, c.client.Host, request{URL: shop, Host: "nobody.local"}); a.Status != http.StatusNotFound {
			t.Fatalf("%d %s", a.Status, a.Body)
		}
		// The next one ends after it.
		ask(t, c.client.Host, request{URL: shop})
		requests++
		c.has(t, c.client, "envoy_appmesh_RequestCountPerTarget", series{out("shop"): requests, out("rpc"): 4})
		c.has(t, c.client, "envoy_appmesh_HTTPCode_Target_4XX_Count", series{out("shop"): 2})
	})
	t.Run("OBS-024 OBS-025 through a gateway", func(t *testing.T) {
		for range 3 {
			if a := ask(t, c.host("visitor"), request{URL: fmt.Sprintf("http://%s:8088/", c.hostname("front"))}); a.App != "server" {
				t.Fatalf("%d %s", a.Status, a.Body)
			}
		}
		const in = "Mesh=counted VirtualGateway=front"
		to := "Mesh=counted TargetVirtualNode=server TargetVirtualService=" + c.hostname("shop") + " VirtualGateway=front"
		c.has(t, c.gateway, "envoy_appmesh_RequestCount", series{in: 3}) // once, whatever the hops
		c.has(t, c.gateway, "envoy_appmesh_RequestCountPerTarget", series{to: 3})
		c.has(t, c.gateway, "envoy_appmesh_HTTPCode_Target_2XX_Count", series{to: 3})
		c.has(t, c.gateway, "envoy_appmesh_NewConnectionCount", series{"Mesh=counted VirtualGateway=front appmesh_mesh=counted appmesh_virtual_gateway=front": 3})
	})
	t.Run("OBS-027 OBS-031 DogStatsD gets the families, too", func(t *testing.T) {
		c.datagrams.await(t, func(line string) bool {
			return strings.HasPrefix(line, "envoy.appmesh.RequestCount:") && strings.HasSuffix(line, "|c|#Mesh:counted,VirtualNode:server")
		})
		c.datagrams.await(t, func(line string) bool {
			return strings.HasPrefix(line, "envoy.appmesh.NewConnectionCount:") && strings.Contains(line, "Mesh:counted,VirtualNode:server")
		})
	})
	t.Run("AGENT-029 AGENT-040 the agent gives the extension's families by their own names", func(t *testing.T) {
		answer, err := c.client.Host.Client().Get("http://127.0.0.1:9902/stats/prometheus?filter=metrics_extension")
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		text, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Fatal(err)
		}
		got := families(string(text))
		if got["RequestCountPerTarget"][out("shop")] != requests || got["envoy_cluster_upstream_rq_total"] != nil {
			t.Errorf("got\n%s", text)
		}
	})
	t.Run("AGENT-029 EMS-063 a proxy whose metadata asks for nothing counts nothing, on the same node", func(t *testing.T) {
		s := c.sidecar(c.host("plain"), stage.SidecarOptions{Resource: "client", Env: []string{"APPMESH_METRIC_EXTENSION_VERSION=2"}})
		c.quiet(t, s, shop)
	})
	t.Run("an Envoy that cannot count serves without, and its note says why", func(t *testing.T) {
		root, err := stage.Root()
		if err != nil {
			t.Fatal(err)
		}
		found, err := filepath.Glob(filepath.Join(root, "build/tools/envoy-*/envoy"))
		if err != nil || len(found) == 0 {
			t.Fatalf("there is no older Envoy: run make tools (%v)", err)
		}
		old, err := c.Tool(found[0])
		if err != nil {
			t.Fatal(err)
		}
		h := c.host("old")
		s := c.sidecar(h, stage.SidecarOptions{Resource: "client", Env: []string{"APPMESH_METRIC_EXTENSION_VERSION=1", "ENVOY_PATH=" + old}})
		c.quiet(t, s, shop)
		c.until("the note is there", func(ctx context.Context) bool {
			proxies, err := c.control.Proxies(ctx, c.name)
			noted := 0
			for _, p := range proxies {
				if len(p.Notes) > 0 && strings.HasPrefix(p.Notes[0], "It asks for the metrics extension, but its Envoy has no envoy.access_loggers.stats") {
					noted++
				}
			}
			return err == nil && noted == 1
		})
	})
}

// quiet sends a request through the proxy, which may count nothing of the extension.
func (c *counting) quiet(t *testing.T, s *stage.Sidecar, url string) {
	t.Helper()
	if a := ask(t, s.Host, request{URL: url}); a.App != "server" {
		t.Errorf("%d %s", a.Status, a.Body)
	}
	if n := c.stat(s, "listener_manager.lds.update_rejected"); n != 0 {
		t.Errorf("%d listeners were refused", n)
	}
	for family := range families(c.admin(s, "/stats/prometheus")) {
		if strings.HasPrefix(family, "envoy_appmesh_") {
			t.Errorf("it counts %s", family)
		}
	}
}

// callGRPC is a call as Envoy sees it; what the application answers is another matter.
func (c *counting) callGRPC(t *testing.T) {
	t.Helper()
	transport := &http.Transport{DialContext: c.client.Host.Dial, Protocols: &http.Protocols{}}
	transport.Protocols.SetUnencryptedHTTP2(true)
	defer transport.CloseIdleConnections()
	ctx, cancel := c.context()
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, fmt.Sprintf("http://%s:9090/shop.Books/Get", c.hostname("rpc")), http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/grpc")
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil { // or it is cancelled, and never comes whole
		t.Fatal(err)
	}
	if resp.Header.Get("X-App") != "server" {
		t.Fatalf("%s from %q", resp.Status, resp.Header.Get("X-App"))
	}
}

// datagrams are the lines that arrived at a port.
type datagrams struct {
	mu    sync.Mutex
	lines []string
	more  chan struct{} // closed when lines came
}

// collect listens on a UDP port of the host, on loopback, until the test ends.
func collect(t *testing.T, h *ground.Host, port int) *datagrams {
	t.Helper()
	var conn net.PacketConn
	if err := h.Do(func() (err error) {
		conn, err = (&net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
			// What comes while nobody reads is kept, as far as the machine allows; counters are sent once.
			return c.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20) })
		}}).ListenPacket(t.Context(), "udp", fmt.Sprintf("127.0.0.1:%d", port))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	d := &datagrams{more: make(chan struct{})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for space := make([]byte, 1<<16); ; {
			n, _, err := conn.ReadFrom(space)
			if err != nil {
				return
			}
			d.mu.Lock()
			d.lines = append(d.lines, strings.Split(strings.TrimSpace(string(space[:n])), "\n")...)
			close(d.more)
			d.more = make(chan struct{})
			d.mu.Unlock()
		}
	}()
	t.Cleanup(func() { conn.Close(); <-done })
	return d
}

// await waits for such a line.
func (d *datagrams) await(t *testing.T, wanted func(line string) bool) string {
	t.Helper()
	late := time.After(wait)
	for {
		d.mu.Lock()
		lines, more := d.lines, d.more
		d.mu.Unlock()
		if i := slices.IndexFunc(lines, wanted); i >= 0 {
			return lines[i]
		}
		select {
		case <-more:
		case <-late:
			t.Fatalf("of %d lines none is the one, such as %q", len(lines), lines[:min(len(lines), 20)])
		}
	}
}
