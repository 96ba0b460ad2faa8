//go:build linux

package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/evermesh/evermesh/test/stage"
)

// toService is a gateway route's spec.
func toService(service, match, rewrite string) string {
	if rewrite != "" {
		rewrite = `, "rewrite": ` + rewrite
	}
	return fmt.Sprintf(`{"httpRoute": {"match": %s, "action": {"target": {"virtualService": {"virtualServiceName": %q}}%s}}}`, match, service, rewrite)
}

// TestGateway calls through a virtual gateway, from outside the mesh.
func TestGateway(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "entry", "DROP_ALL")
	for _, name := range []string{"blue", "green", "red"} {
		m.app(name)
	}
	books := m.service("books", appPort, map[string]string{
		"rest": to("blue", `{"prefix": "/"}`), "inside": to("red", `{"prefix": "/inside"}`),
		"slow": `{"httpRoute": {"match": {"prefix": "/slow"}, "action": {"weightedTargets": [{"virtualNode": "blue", "weight": 1}]}, "timeout": {"perRequest": {"unit": "s", "value": 40}}}}`,
	})
	music := m.service("music", appPort, map[string]string{"r": weighted("", "green", 1)})
	direct := m.hostname("direct")
	m.create("VirtualService", direct, `{"provider": {"virtualNode": {"virtualNodeName": "red"}}}`)
	m.create("VirtualGateway", "front", `{"listeners": [{"portMapping": {"port": 8088, "protocol": "http"}}]}`)
	for name, spec := range map[string]string{
		"root":     toService(music, `{"prefix": "/"}`, ""),
		"chapter":  toService(books, `{"prefix": "/chapter"}`, ""),
		"kept":     toService(books, `{"prefix": "/kept/"}`, `{"prefix": {"defaultPrefix": "DISABLED"}}`),
		"replaced": toService(books, `{"prefix": "/old/"}`, `{"prefix": {"value": "/inside/"}}`),
		"direct":   toService(direct, `{"prefix": "/direct"}`, ""),
	} {
		m.put("Create", "GatewayRoute", "front", name, spec)
	}
	front, visitor := m.host("front"), m.host("visitor")
	s := m.sidecar(front, stage.SidecarOptions{Resource: "mesh/" + m.name + "/virtualGateway/front", Alone: true})
	url := fmt.Sprintf("http://%s:8088", m.hostname("front"))
	slow := later(t, visitor, request{URL: url + "/chapter/slow", Header: map[string]string{"X-Delay": "16s"}})

	for name, c := range map[string]struct{ path, app, seen, host string }{
		"VG-001 VG-004 the prefix becomes a slash and the host the service's name": {"/chapter/1", "blue", "/1", books},
		"GR-022 a prefix without a slash matches itself":                           {"/chapter", "blue", "/", books},
		"GR-027 a prefix is a plain string prefix":                                 {"/chapterX", "blue", "/X", books},
		"GR-009 the longest prefix wins":                                           {"/chapter/chapter", "blue", "/chapter", books},
		"GR-009 and the root takes the rest":                                       {"/anything?a=b", "green", "/anything?a=b", music},
		"GR-015 defaultPrefix DISABLED keeps the path":                             {"/kept/1", "blue", "/kept/1", books},
		"GR-015 GR-018 a prefix value, and the router's routes on it":              {"/old/1", "red", "/inside/1", books},
		"GR-001 VG-024 a service with a node provider":                             {"/direct/x", "red", "/x", direct},
		"GR-018 the router's routes see the rewritten path":                        {"/chapter/inside/1", "red", "/inside/1", books},
	} {
		t.Run(name, func(t *testing.T) {
			a := ask(t, visitor, request{URL: url + c.path})
			if host, _, _ := strings.Cut(a.Seen.Host, ":"); a.App != c.app || a.Seen.Path != c.seen || host != c.host {
				t.Errorf("%d: %q saw %s %s, want %s to see %s %s", a.Status, a.App, a.Seen.Host, a.Seen.Path, c.app, c.host, c.seen)
			}
		})
	}
	t.Run("VG-014 outsiders reach it by address too", func(t *testing.T) {
		if a := ask(t, visitor, request{URL: fmt.Sprintf("http://%s:8088/chapter/1", front.Addr())}); a.App != "blue" {
			t.Errorf("%d %s", a.Status, a.Body)
		}
	})
	t.Run("VG-023 EMS-026 names", func(t *testing.T) {
		listeners, clusters := m.admin(s, "/listeners"), m.admin(s, "/clusters")
		for _, name := range []string{"lds_ingress_0.0.0.0_8088::", "lds_egress_0.0.0.0_15001::"} {
			if !strings.Contains(listeners, name) {
				t.Errorf("no %s in %s", name, listeners)
			}
		}
		if !strings.Contains(clusters, "cds_ingress_entry_front_self_redirect_http_15001::") {
			t.Errorf("no self_redirect cluster in %s", clusters)
		}
		for _, name := range []string{"http.ingress.downstream_rq_2xx", "http.egress.downstream_rq_2xx", "cluster.cds_ingress_entry_front_self_redirect_http_15001.upstream_rq_200"} {
			if m.stat(s, name) == 0 {
				t.Errorf("%s is 0", name)
			}
		}
	})
	t.Run("VG-003 a connection upgrades to WebSocket", func(t *testing.T) {
		webSocket(t, visitor, fmt.Sprintf("%s:8088", m.hostname("front")), "green")
	})
	t.Run("GR-012 paths are normalised", func(t *testing.T) {
		if a := ask(t, visitor, request{URL: url + "//chapter/./1"}); a.App != "blue" || a.Seen.Path != "/1" {
			t.Errorf("%d: %q saw %s", a.Status, a.App, a.Seen.Path)
		}
	})
	t.Run("GR-001 routes come and go", func(t *testing.T) {
		m.settle(m.put("Update", "GatewayRoute", "front", "root", toService(books, `{"prefix": "/"}`, "")))
		m.until("the root leads to blue", func(context.Context) bool { return ask(t, visitor, request{URL: url + "/anything"}).App == "blue" })
		ctx, cancel := m.context()
		defer cancel()
		if err := m.control.Evermesh.Call(ctx, "DeleteGatewayRoute", map[string]any{"meshName": m.name, "virtualGatewayName": "front", "gatewayRouteName": "root"}, nil); err != nil {
			t.Fatal(err)
		}
		if err := stage.Until(ctx, "nothing matches", func(context.Context) bool {
			return ask(t, visitor, request{URL: url + "/anything"}).Status == http.StatusNotFound
		}); err != nil {
			t.Error(err)
		}
	})
	t.Run("GR-021 the timeout is the longest of the service's routes", func(t *testing.T) {
		a := slow(t)
		if a.Status != http.StatusOK || a.Took < 16*time.Second {
			t.Errorf("status %d after %v", a.Status, a.Took)
		}
	})
}

// TestGatewayMatches has a gateway with two listeners, and routes by more than a prefix.
func TestGatewayMatches(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "doors", "DROP_ALL")
	for _, name := range []string{"blue", "green", "red"} {
		m.app(name)
	}
	blue := m.service("to-blue", appPort, map[string]string{"r": weighted("", "blue", 1)})
	green := m.service("to-green", appPort, map[string]string{"r": weighted("", "green", 1)})
	red := m.service("to-red", appPort, map[string]string{"r": weighted("", "red", 1)})
	m.create("VirtualGateway", "front", `{"listeners": [{"portMapping": {"port": 8088, "protocol": "http"}, "connectionPool": {"http": {"maxConnections": 77, "maxPendingRequests": 88}}},
		{"portMapping": {"port": 8089, "protocol": "http"}}]}`)
	keepHost := `{"hostname": {"defaultTargetHostname": "DISABLED"}}`
	for name, spec := range map[string]string{
		"rest":     toService(green, `{"prefix": "/", "port": 8088}`, ""),
		"second":   toService(red, `{"prefix": "/", "port": 8089}`, ""),
		"exact":    toService(blue, `{"path": {"exact": "/exact"}, "port": 8088}`, ""),
		"regex":    toService(blue, `{"path": {"regex": "/v[0-9]+"}, "port": 8088}`, `{"path": {"exact": "/version"}}`),
		"header":   prioritised(1, toService(red, `{"prefix": "/", "port": 8088, "headers": [{"name": "X-Tier", "match": {"exact": "gold"}}]}`, "")),
		"method":   prioritised(2, toService(blue, `{"prefix": "/", "port": 8088, "method": "PUT"}`, "")),
		"query":    prioritised(3, toService(blue, `{"prefix": "/", "port": 8088, "queryParameters": [{"name": "q", "match": {"exact": "1"}}]}`, "")),
		"hostname": toService(blue, `{"prefix": "/", "port": 8088, "hostname": {"exact": "blue.example.com"}}`, ""),
		"suffix":   toService(red, `{"prefix": "/", "port": 8088, "hostname": {"suffix": ".example.org"}}`, ""),
		"kept":     toService(green, `{"prefix": "/", "port": 8088, "hostname": {"exact": "kept.example.com"}}`, keepHost),
		"narrow":   toService(blue, `{"prefix": "/narrow", "port": 8088, "hostname": {"exact": "narrow.example.com"}}`, ""),
	} {
		m.put("Create", "GatewayRoute", "front", name, spec)
	}
	front, visitor := m.host("front"), m.host("visitor")
	resource := "mesh/" + m.name + "/virtualGateway/front"
	s := m.sidecar(front, stage.SidecarOptions{Resource: resource, Alone: true})

	t.Run("VG-005 a pool limits the way inside", func(t *testing.T) {
		clusters := m.admin(s, "/clusters")
		for _, limit := range []string{"max_connections::77", "max_pending_requests::88", "max_requests::2147483647"} {
			if line := "cds_ingress_doors_front_self_redirect_8088_http_15001::default_priority::" + limit; !strings.Contains(clusters, line) {
				t.Errorf("/clusters lacks %s", line)
			}
		}
	})
	t.Run("VG-012 VG-021 the proxy is named after the gateway", func(t *testing.T) {
		var info struct {
			Node struct{ ID, Cluster string }
		}
		if err := json.Unmarshal([]byte(m.admin(s, "/server_info")), &info); err != nil {
			t.Fatal(err)
		}
		if info.Node.ID != resource || info.Node.Cluster != resource {
			t.Errorf("node %+v, want both to be %s", info.Node, resource)
		}
	})
	t.Run("VG-019 a load balancer's connection succeeds", func(t *testing.T) {
		ctx, cancel := m.context()
		defer cancel()
		for _, port := range []int{8088, 8089} {
			conn, err := visitor.Dial(ctx, "tcp", fmt.Sprintf("%s:%d", front.Addr(), port))
			if err != nil {
				t.Fatal(err)
			}
			conn.Close()
		}
	})
	t.Run("VG-020 PROXY protocol is not understood", func(t *testing.T) {
		ctx, cancel := m.context()
		defer cancel()
		conn, err := visitor.Dial(ctx, "tcp", fmt.Sprintf("%s:8088", front.Addr()))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		// Version 2, PROXY, TCP over IPv4, 12 bytes of addresses; then a request.
		header := "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\x0a\x4d\x00\x01\x0a\x4d\x00\x02\x1f\x98\x1f\x98"
		if _, err := io.WriteString(conn, header+"GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusBadRequest {
			t.Errorf("%s, want 400", resp.Status)
		}
	})
	for name, c := range map[string]struct {
		port   int
		method string
		path   string
		host   string
		header map[string]string
		want   string // application and path, or status
		seen   string // host; "" is not compared
	}{
		"VG-002 GR-007 the first listener":                     {port: 8088, path: "/a", want: "green /a", seen: green},
		"VG-002 GR-007 the second listener":                    {port: 8089, path: "/a", want: "red /a", seen: red},
		"GR-013 an exact path":                                 {port: 8088, path: "/exact", want: "blue /exact"},
		"GR-013 an exact path matches whole":                   {port: 8088, path: "/exact/1", want: "green /exact/1"},
		"GR-013 GR-016 a regular expression, and its rewrite":  {port: 8088, path: "/v12", want: "blue /version"},
		"GR-008 GR-006 GR-026 a header":                        {port: 8088, path: "/a", header: map[string]string{"X-Tier": "gold"}, want: "red /a"},
		"GR-008 a method":                                      {port: 8088, method: "PUT", path: "/a", want: "blue /a"},
		"GR-008 a query parameter":                             {port: 8088, path: "/a?q=1", want: "blue /a?q=1"},
		"GR-008 GR-014 an exact host name is rewritten":        {port: 8088, path: "/a", host: "blue.example.com", want: "blue /a", seen: blue},
		"GR-023 an exact host name with a port":                {port: 8088, path: "/a", host: "blue.example.com:8088", want: "blue /a"},
		"GR-008 a host name's suffix":                          {port: 8088, path: "/a", host: "any.example.org", want: "red /a"},
		"GR-023 a host name's suffix, with a port":             {port: 8088, path: "/a", host: "any.example.org:8088", want: "red /a"},
		"GR-014 a host name that is kept":                      {port: 8088, path: "/a", host: "kept.example.com", want: "green /a", seen: "kept.example.com"},
		"GR-025 a host with routes falls back to none without": {port: 8088, path: "/a", host: "narrow.example.com", want: "404"},
		"GR-025 and its own route matches":                     {port: 8088, path: "/narrow", host: "narrow.example.com", want: "blue /"},
	} {
		t.Run(name, func(t *testing.T) {
			a := ask(t, visitor, request{Method: c.method, URL: fmt.Sprintf("http://%s:%d%s", m.hostname("front"), c.port, c.path), Host: c.host, Header: c.header})
			got := fmt.Sprint(a.Status)
			if a.App != "" {
				got = a.App + " " + a.Seen.Path
			}
			host, _, _ := strings.Cut(a.Seen.Host, ":")
			if got != c.want || c.seen != "" && host != c.seen {
				t.Errorf("%s, seen as host %s; want %s, host %s", got, host, c.want, c.seen)
			}
		})
	}
}

// TestGatewayLogsAndPorts has a gateway with an access log, and then with a port that Envoy's user may not open.
func TestGatewayLogsAndPorts(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "low", "DROP_ALL")
	m.app("blue")
	blue := m.service("to-blue", appPort, map[string]string{"r": weighted("", "blue", 1)})
	front, visitor := m.host("front"), m.host("visitor")
	log := filepath.Join(m.Dir(), "run", front.Name(), "access.log")
	spec := func(more string) string {
		return fmt.Sprintf(`{"listeners": [{"portMapping": {"port": 8088, "protocol": "http"}}%s], "logging": {"accessLog": {"file": {"path": %q}}}}`, more, log)
	}
	m.create("VirtualGateway", "front", spec(""))
	m.put("Create", "GatewayRoute", "front", "all", toService(blue, `{"prefix": "/", "port": 8088}`, ""))
	s := m.sidecar(front, stage.SidecarOptions{Resource: "mesh/" + m.name + "/virtualGateway/front", Alone: true})
	url := fmt.Sprintf("http://%s:8088/", m.hostname("front"))

	t.Run("VG-011 an access log", func(t *testing.T) {
		ask(t, visitor, request{URL: url + "logged"})
		m.until("the access log has the request", func(context.Context) bool { return strings.Contains(read(t, log), "/logged") })
	})
	t.Run("VG-018 a port below 1024 that Envoy may not open", func(t *testing.T) {
		if m.Owner().UID == 0 {
			t.Skip("Envoy is root in its user namespace, and may open every port")
		}
		ctx, cancel := m.context()
		defer cancel()
		if _, err := m.control.Rollout(ctx, m.update("VirtualGateway", "front", spec(`, {"portMapping": {"port": 80, "protocol": "http"}}`))); err == nil || !strings.Contains(err.Error(), "0.0.0.0:80") {
			t.Errorf("the rollout said %v, want a refusal that names the port", err)
		}
		if n := m.stat(s, "listener_manager.lds.update_rejected"); n == 0 {
			t.Error("Envoy counts no refused update")
		}
		if a := ask(t, visitor, request{URL: url}); a.App != "blue" {
			t.Errorf("the other listener: %d %s", a.Status, a.Body)
		}
	})
}
