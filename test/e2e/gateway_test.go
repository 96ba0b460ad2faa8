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

// toService is a gateway route's spec.
func toService(service, match, rewrite string) string {
	if rewrite != "" {
		rewrite = `, "rewrite": ` + rewrite
	}
	return fmt.Sprintf(`{"httpRoute": {"match": %s, "action": {"target": {"virtualService": {"virtualServiceName": %q}}%s}}}`, match, service, rewrite)
}

// TestGateway calls through a virtual gateway, from outside the mesh.
func TestGateway(t *testing.T) {
	m := newMesh(t, "entry", "DROP_ALL")
	for _, name := range []string{"blue", "green", "red"} {
		m.app(name)
	}
	books := m.service("books", appPort, map[string]string{
		"rest": to("blue", `{"prefix": "/"}`), "inside": to("red", `{"prefix": "/inside"}`),
		"slow": `{"httpRoute": {"match": {"prefix": "/slow"}, "action": {"weightedTargets": [{"virtualNode": "blue", "weight": 1}]}, "timeout": {"perRequest": {"unit": "s", "value": 20}}}}`,
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
		"VG-001 VG-004 the prefix becomes / and the host the service's name": {"/chapter/1", "blue", "/1", books},
		"GR-022 a prefix without a slash matches itself":                     {"/chapter", "blue", "/", books},
		"GR-027 a prefix is a plain string prefix":                           {"/chapterX", "blue", "/X", books},
		"GR-009 the longest prefix wins":                                     {"/chapter/chapter", "blue", "/chapter", books},
		"GR-009 and / takes the rest":                                        {"/anything?a=b", "green", "/anything?a=b", music},
		"GR-015 defaultPrefix DISABLED keeps the path":                       {"/kept/1", "blue", "/kept/1", books},
		"GR-015 GR-018 a prefix value, and the router's routes on it":        {"/old/1", "red", "/inside/1", books},
		"GR-001 VG-024 a service with a node provider":                       {"/direct/x", "red", "/x", direct},
		"GR-018 the router's routes see the rewritten path":                  {"/chapter/inside/1", "red", "/inside/1", books},
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
	t.Run("GR-012 paths are normalised", func(t *testing.T) {
		if a := ask(t, visitor, request{URL: url + "//chapter/./1"}); a.App != "blue" || a.Seen.Path != "/1" {
			t.Errorf("%d: %q saw %s", a.Status, a.App, a.Seen.Path)
		}
	})
	t.Run("GR-001 routes come and go", func(t *testing.T) {
		m.settle(m.put("Update", "GatewayRoute", "front", "root", toService(books, `{"prefix": "/"}`, "")))
		if a := ask(t, visitor, request{URL: url + "/anything"}); a.App != "blue" {
			t.Errorf("%d %s", a.Status, a.Body)
		}
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
