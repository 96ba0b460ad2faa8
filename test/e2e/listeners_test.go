//go:build linux

package e2e

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/evermesh/evermesh/test/stage"
)

// TestSeveralListeners has a node and a router with two listeners each.
func TestSeveralListeners(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "ports", "DROP_ALL")
	server := m.host("server")
	if _, err := m.App(server, stage.App{Name: "server", Listen: []string{":9080", ":9081"}}); err != nil {
		t.Fatal(err)
	}
	m.create("VirtualNode", "server", fmt.Sprintf(`{"listeners": [{"portMapping": {"port": 9080, "protocol": "http"}}, {"portMapping": {"port": 9081, "protocol": "http"}}],
		"serviceDiscovery": {"dns": {"hostname": %q}}}`, m.hostname("server")))
	m.create("VirtualRouter", "shop", `{"listeners": [{"portMapping": {"port": 8000, "protocol": "http"}}, {"portMapping": {"port": 8001, "protocol": "http"}}]}`)
	for n, name := range []string{"first", "second"} {
		m.route("shop", name, fmt.Sprintf(`{"httpRoute": {"match": {"prefix": "/", "port": %d}, "action": {"weightedTargets": [{"virtualNode": "server", "weight": 1, "port": %d}]}}}`, 8000+n, 9080+n))
	}
	services := []string{m.hostname("shop"), m.hostname("store")}
	for _, s := range services {
		m.DNS().Set(s, nobody)
		m.create("VirtualService", s, `{"provider": {"virtualRouter": {"virtualRouterName": "shop"}}}`)
	}
	m.create("VirtualNode", "client", callerSpec(services...))
	in := m.sidecar(server, stage.SidecarOptions{Resource: "server", AppPorts: "9080,9081"})
	client := m.host("client")
	m.sidecar(client, stage.SidecarOptions{Resource: "client"})

	t.Run("VN-006 RT-007 RT-020 each port has its route and its target's port", func(t *testing.T) {
		for router, app := range map[int]int{8000: 9080, 8001: 9081} {
			if a := ask(t, client, request{URL: fmt.Sprintf("http://%s:%d/", services[0], router)}); a.Seen.Port != app {
				t.Errorf("port %d: %d, the application saw port %d, want %d", router, a.Status, a.Seen.Port, app)
			}
		}
	})
	t.Run("VS-016 VR-001 VR-002 one router behind two services", func(t *testing.T) {
		for _, s := range services {
			if a := ask(t, client, request{URL: fmt.Sprintf("http://%s:8001/", s)}); a.App != "server" {
				t.Errorf("%s: %d %s", s, a.Status, a.Body)
			}
		}
	})
	t.Run("EMS-029 statistics carry protocol and port", func(t *testing.T) {
		for _, name := range []string{"http.ingress.http.9080.downstream_rq_2xx", "http.ingress.http.9081.downstream_rq_2xx", "cluster.cds_ingress_ports_server_http_9081.upstream_rq_200"} {
			if m.stat(in, name) == 0 {
				t.Errorf("%s is 0", name)
			}
		}
	})
}

// TestHTTP2 has a service that speaks HTTP/2 without TLS.
func TestHTTP2(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "two", "DROP_ALL")
	server := m.program("server")
	m.create("VirtualNode", "server", fmt.Sprintf(`{"listeners": [{"portMapping": {"port": %d, "protocol": "http2"}}], "serviceDiscovery": {"dns": {"hostname": %q}}}`, appPort, m.hostname("server")))
	m.create("VirtualRouter", "shop", fmt.Sprintf(`{"listeners": [{"portMapping": {"port": %d, "protocol": "http2"}}]}`, appPort))
	service := m.hostname("shop")
	m.DNS().Set(service, nobody)
	httpRoute := `{"httpRoute": {"match": {"prefix": "/"}, "action": {"weightedTargets": [{"virtualNode": "server", "weight": 1}]}}}`
	m.route("shop", "r", httpRoute)
	m.create("VirtualService", service, `{"provider": {"virtualRouter": {"virtualRouterName": "shop"}}}`)
	m.create("VirtualNode", "client", callerSpec(service))
	m.sidecar(server, stage.SidecarOptions{Resource: "server", AppPorts: fmt.Sprint(appPort)})
	client := m.host("client")
	m.sidecar(client, stage.SidecarOptions{Resource: "client"})

	t.Run("RT-003 RT-004 VN-037 a route becomes one of its router's protocol", func(t *testing.T) {
		m.settle(m.put("Update", "Route", "shop", "r", strings.Replace(httpRoute, "httpRoute", "http2Route", 1)))
		transport := &http.Transport{DialContext: client.Dial, Protocols: &http.Protocols{}}
		transport.Protocols.SetUnencryptedHTTP2(true)
		defer transport.CloseIdleConnections()
		ctx, cancel := m.context()
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, fmt.Sprintf("http://%s:%d/", service, appPort), http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := (&http.Client{Transport: transport}).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK || resp.ProtoMajor != 2 || resp.Header.Get("X-App") != "server" {
			t.Errorf("%s over %s from %q", resp.Status, resp.Proto, resp.Header.Get("X-App"))
		}
	})
}

// TestEndpoints has a node with two endpoints.
func TestEndpoints(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "pairs", "DROP_ALL")
	pair := m.hostname("pair")
	one, two := m.host("one"), m.host("two")
	m.DNS().Set(pair, one.Addr(), two.Addr())
	first, err := m.App(one, stage.App{Name: "one", Listen: []string{":9080"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.App(two, stage.App{Name: "two", Listen: []string{":9080"}}); err != nil {
		t.Fatal(err)
	}
	ill := m.hostname("ill")
	third := m.host("three")
	if _, err := m.App(third, stage.App{Name: "three", Listen: []string{":9080"}, Status: http.StatusInternalServerError}); err != nil {
		t.Fatal(err)
	}
	m.DNS().Set(ill, two.Addr(), third.Addr())
	node := func(hostname, more string) string {
		return fmt.Sprintf(`{"listeners": [{"portMapping": {"port": 9080, "protocol": "http"}%s}],
			"serviceDiscovery": {"dns": {"hostname": %q, "responseType": "ENDPOINTS"}}}`, more, hostname)
	}
	m.create("VirtualNode", "pair", node(pair, ""))
	m.create("VirtualNode", "checked", node(pair, `, "healthCheck": {"protocol": "http", "path": "/health", "intervalMillis": 5000, "timeoutMillis": 2000, "healthyThreshold": 2, "unhealthyThreshold": 2}`))
	m.create("VirtualNode", "ejecting", node(ill, `, "outlierDetection": {"maxServerErrors": 3, "interval": {"unit": "s", "value": 1}, "baseEjectionDuration": {"unit": "s", "value": 60}, "maxEjectionPercent": 50}`))
	services := map[string]string{}
	var backends []string
	for _, name := range []string{"pair", "checked", "ejecting"} {
		services[name] = m.service(name+"-service", 9080, map[string]string{"r": weighted("", name, 1)})
		backends = append(backends, services[name])
	}
	m.create("VirtualNode", "client", callerSpec(backends...))
	client := m.host("client")
	sidecar := m.sidecar(client, stage.SidecarOptions{Resource: "client"})
	url := func(name string) string { return fmt.Sprintf("http://%s:9080/", services[name]) }

	t.Run("DISC-003 VN-029 every answer of the name server is an endpoint", func(t *testing.T) {
		shares(t, client, url("pair"), map[string]float64{"one": 0.5, "two": 0.5})
	})
	t.Run("EMS-045 VN-015 clients check the health of a node that asks for it", func(t *testing.T) {
		m.until("checks have passed", func(context.Context) bool {
			return m.stat(sidecar, "cluster.cds_egress_pairs_checked_http_9080.health_check.success") >= 2
		})
		if n := m.stat(sidecar, "cluster.cds_egress_pairs_pair_http_9080.health_check.attempt"); n != 0 {
			t.Errorf("a node that does not ask is checked: %d", n)
		}
	})
	t.Run("VN-012 VN-013 VN-014 a host that answers 5xx is ejected", func(t *testing.T) {
		m.until("one host is ejected", func(context.Context) bool {
			for range 10 {
				ask(t, client, request{URL: url("ejecting")})
			}
			return m.stat(sidecar, "cluster.cds_egress_pairs_ejecting_http_9080.outlier_detection.ejections_active") == 1
		})
		for range 20 {
			if a := ask(t, client, request{URL: url("ejecting")}); a.Status != http.StatusOK || a.App != "two" {
				t.Errorf("%d from %s, want 200 from two", a.Status, a.App)
			}
		}
	})
	t.Run("EMS-066 a retry goes to another host than the failed one", func(t *testing.T) {
		steady := stage.NewSteady(client, url("pair"), 4, 5*time.Millisecond)
		defer steady.Stop()
		ctx, cancel := m.context()
		defer cancel()
		if err := steady.Wait(ctx, time.Time{}, 100); err != nil {
			t.Fatal(err)
		}
		if err := first.Kill(); err != nil {
			t.Fatal(err)
		}
		from := time.Now()
		if err := steady.Wait(ctx, from, 500); err != nil {
			t.Fatal(err)
		}
		steady.Stop()
		all := steady.Count(time.Time{}, time.Time{})
		if all.Failed > 0 {
			t.Errorf("%d of %d requests failed: %v", all.Failed, all.Requests, all.Faults)
		}
		if n := m.stat(sidecar, "cluster.cds_egress_pairs_pair_http_9080.upstream_rq_retry_success"); n == 0 {
			t.Error("nothing was retried: the test shows nothing")
		}
	})
}

// TestConnectionPool has a server whose Envoy lets one request through at a time.
func TestConnectionPool(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "pool", "DROP_ALL")
	server := m.program("server")
	m.create("VirtualNode", "server", fmt.Sprintf(`{"listeners": [{"portMapping": {"port": %d, "protocol": "http"}, "connectionPool": {"http": {"maxConnections": 1, "maxPendingRequests": 1}}}],
		"serviceDiscovery": {"dns": {"hostname": %q}}}`, appPort, m.hostname("server")))
	in := m.sidecar(server, stage.SidecarOptions{Resource: "server", AppPorts: fmt.Sprint(appPort)})
	visitor := m.host("visitor")

	t.Run("VN-009 VN-011 the pool limits the way to the application", func(t *testing.T) {
		r := request{URL: fmt.Sprintf("http://%s:%d/", m.hostname("server"), appPort), Header: map[string]string{"X-Hold": "pool"}}
		cluster := "cluster.cds_ingress_pool_server_http_9080."
		running := later(t, visitor, r)
		m.until("one request has the connection", func(context.Context) bool { return m.stat(in, cluster+"upstream_rq_active") == 1 })
		waiting := later(t, visitor, r)
		m.until("one waits", func(context.Context) bool { return m.stat(in, cluster+"upstream_rq_pending_active") == 1 })
		for range 3 {
			if a := ask(t, visitor, r); a.Status != http.StatusServiceUnavailable {
				t.Errorf("one more: %d %s, want 503 at once", a.Status, a.Body)
			}
		}
		askApp(t, server, "X-Release", "pool")
		for name, answer := range map[string]func(*testing.T) answer{"running": running, "waiting": waiting} {
			if a := answer(t); a.Status != http.StatusOK {
				t.Errorf("the one %s: %d %s", name, a.Status, a.Body)
			}
		}
		if n := m.stat(in, cluster+"upstream_rq_pending_overflow"); n != 3 {
			t.Errorf("Envoy counts %d overflows, want 3", n)
		}
	})
}

// TestTCP has services that are reached over TCP without more; what speaks HTTP speaks it through them.
func TestTCP(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "bytes", "DROP_ALL")
	var services []string
	for n, name := range []string{"blue", "green"} {
		h := m.program(name)
		m.create("VirtualNode", name, fmt.Sprintf(`{"listeners": [{"portMapping": {"port": %d, "protocol": "tcp"}}], "serviceDiscovery": {"dns": {"hostname": %q}}}`, appPort, m.hostname(name)))
		m.create("VirtualRouter", name, fmt.Sprintf(`{"listeners": [{"portMapping": {"port": %d, "protocol": "tcp"}}]}`, 7001+n))
		m.route(name, "r", fmt.Sprintf(`{"tcpRoute": {"action": {"weightedTargets": [{"virtualNode": %q, "weight": 1}]}}}`, name))
		service := m.hostname("to-" + name)
		m.DNS().Set(service, nobody)
		m.create("VirtualService", service, fmt.Sprintf(`{"provider": {"virtualRouter": {"virtualRouterName": %q}}}`, name))
		m.sidecar(h, stage.SidecarOptions{Resource: name, AppPorts: fmt.Sprint(appPort)})
		services = append(services, service)
	}
	m.create("VirtualNode", "client", callerSpec(services...))
	client := m.host("client")
	s := m.sidecar(client, stage.SidecarOptions{Resource: "client"})

	t.Run("RT-012 VN-005 tcp services on ports of their own are reached", func(t *testing.T) {
		for n, want := range []string{"blue", "green"} {
			if a := ask(t, client, request{URL: fmt.Sprintf("http://%s:%d/", services[n], 7001+n)}); a.App != want {
				t.Errorf("port %d: %d from %q, want %s", 7001+n, a.Status, a.App, want)
			}
		}
		if m.stat(s, "cluster.cds_egress_bytes_blue_tcp_9080.upstream_cx_total") == 0 {
			t.Error("Envoy counts no connection")
		}
	})
}
