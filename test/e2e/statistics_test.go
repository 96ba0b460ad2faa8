//go:build linux

package e2e

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/evermesh/evermesh/test/stage"
)

// names are the names of all statistics of an Envoy, with their values as text.
func (m *mesh) names(s *stage.Sidecar) map[string]string {
	m.t.Helper()
	out := map[string]string{}
	for line := range strings.Lines(m.admin(s, "/stats")) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ": "); ok {
			out[name] = value
		}
	}
	return out
}

// TestStatistics looks for the names by which App Mesh's users know Envoy's own statistics.
func TestStatistics(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "online-store", "ALLOW_ALL")
	h := m.host("website")
	if _, err := m.App(h, stage.App{Name: "website", Listen: []string{":5555", ":6666", ":7777"}}); err != nil {
		t.Fatal(err)
	}
	m.app("cart")
	m.app("elsewhere")
	// Nobody listens where product-details' checks go.
	m.host("product-details")
	m.create("VirtualNode", "product-details", fmt.Sprintf(`{"listeners": [{"portMapping": {"port": %d, "protocol": "http"},
		"healthCheck": {"protocol": "tcp", "intervalMillis": 5000, "timeoutMillis": 2000, "healthyThreshold": 2, "unhealthyThreshold": 2}}],
		"serviceDiscovery": {"dns": {"hostname": %q}}}`, appPort, m.hostname("product-details")))
	var backends []string
	for _, name := range []string{"cart", "product-details", "unused"} {
		service := m.hostname(name + "-service")
		m.DNS().Set(service, nobody)
		m.create("VirtualService", service, fmt.Sprintf(`{"provider": {"virtualNode": {"virtualNodeName": %q}}}`, map[string]string{"unused": "elsewhere"}[name]+strings.TrimSuffix(name, "unused")))
		if name != "unused" {
			backends = append(backends, fmt.Sprintf(`{"virtualService": {"virtualServiceName": %q}}`, service))
		}
	}
	m.create("VirtualNode", "website", fmt.Sprintf(`{"listeners": [{"portMapping": {"port": 5555, "protocol": "http"}}, {"portMapping": {"port": 6666, "protocol": "http"}}],
		"backends": [%s], "serviceDiscovery": {"dns": {"hostname": %q}}}`, strings.Join(backends, ", "), m.hostname("website")))
	tagged := []string{"ENABLE_ENVOY_STATS_TAGS=1"}
	s := m.sidecar(h, stage.SidecarOptions{Resource: "website", AppPorts: "5555,6666", Env: tagged})
	visitor := m.host("visitor")
	for range 3 {
		ask(t, visitor, request{URL: fmt.Sprintf("http://%s:5555/", m.hostname("website"))})
	}
	for _, url := range []string{fmt.Sprintf("http://%s:%d/", m.hostname("cart-service"), appPort), fmt.Sprintf("http://%s:%d/", m.hostname("elsewhere"), appPort)} {
		if a := ask(t, h, request{URL: url}); a.Status != 200 {
			t.Fatalf("%s: %d %s", url, a.Status, a.Body)
		}
	}
	// counts waits until the statistics have these values.
	counts := func(t *testing.T, want map[string]string) {
		t.Helper()
		got := map[string]string{}
		ctx, cancel := context.WithTimeout(t.Context(), wait)
		defer cancel()
		if err := stage.Until(ctx, "the statistics are as they should be", func(context.Context) bool {
			all := m.names(s)
			for name := range want {
				got[name] = all[name]
			}
			return maps.Equal(got, want)
		}); err != nil {
			t.Errorf("got %v, want %v", got, want)
		}
	}
	has := func(t *testing.T, names ...string) {
		t.Helper()
		all := m.names(s)
		for _, name := range names {
			if _, ok := all[name]; !ok {
				t.Errorf("there is no %s", name)
			}
		}
	}
	const cart = "cluster.cds_egress_online-store_cart_http_9080."

	t.Run("OBS-012 OBS-013 downstream, upstream and server, and what comes in apart from what goes out", func(t *testing.T) {
		counts(t, map[string]string{
			"http.ingress.http.5555.downstream_rq_total": "3", "http.egress.downstream_rq_total": "2",
			"cluster.cds_ingress_online-store_website_http_5555.upstream_rq_total": "3", cart + "upstream_rq_total": "1",
		})
		if text := m.admin(s, "/stats?format=prometheus"); families(text)["envoy_server_uptime"] == nil {
			t.Errorf("by Prometheus' format:\n%.500s", text)
		}
	})
	t.Run("OBS-042 the server's own have no direction", func(t *testing.T) {
		has(t, "server.uptime", "server.memory_allocated", "server.memory_heap_size")
		for labels := range families(m.admin(s, "/stats/prometheus"))["envoy_server_memory_allocated"] {
			if strings.Contains(labels, "ingress") || strings.Contains(labels, "egress") {
				t.Errorf("memory is labelled %s", labels)
			}
		}
	})
	t.Run("OBS-015 both listeners count connections, 15001 those to external destinations too", func(t *testing.T) {
		counts(t, map[string]string{
			"listener.0.0.0.0_15000.downstream_cx_total": "3", "listener.0.0.0.0_15000.downstream_cx_active": "0",
			"listener.0.0.0.0_15001.downstream_cx_total": "2", "listener.0.0.0.0_15001.downstream_cx_active": "0",
		})
	})
	t.Run("TRBL-015 requests to a port of no listener are in no statistic", func(t *testing.T) {
		if a := ask(t, visitor, request{URL: fmt.Sprintf("http://%s:7777/", m.hostname("website"))}); a.App != "website" {
			t.Fatalf("%d %s", a.Status, a.Body)
		}
		ask(t, visitor, request{URL: fmt.Sprintf("http://%s:6666/", m.hostname("website"))})
		counts(t, map[string]string{"listener.0.0.0.0_15000.downstream_cx_total": "4", "http.ingress.http.6666.downstream_rq_total": "1"})
	})
	t.Run("OBS-016 OBS-017 clusters that are active, and what each does", func(t *testing.T) {
		has(t, "cluster_manager.active_clusters", "cluster_manager.warming_clusters")
		for _, name := range []string{"upstream_cx_total", "upstream_cx_connect_fail", "upstream_rq_total", "upstream_rq_time", "upstream_rq_2xx"} {
			has(t, cart+name)
		}
		counts(t, map[string]string{cart + "upstream_rq_2xx": "1", cart + "upstream_cx_total": "1", cart + "upstream_cx_connect_fail": "0"})
		m.until("a health check has failed", func(context.Context) bool {
			return m.stat(s, "cluster.cds_egress_online-store_product-details_http_9080.health_check.failure") > 0
		})
	})
	t.Run("OBS-018 the clusters are those of the backends, and nothing else", func(t *testing.T) {
		var got []string
		for line := range strings.Lines(m.admin(s, "/clusters")) {
			if name, _, _ := strings.Cut(line, "::"); strings.HasPrefix(name, "cds_") && !slices.Contains(got, name) {
				got = append(got, name)
			}
		}
		slices.Sort(got)
		want := []string{
			"cds_egress_online-store_amazonaws", "cds_egress_online-store_cart_http_9080", "cds_egress_online-store_mesh-allow-all",
			"cds_egress_online-store_product-details_http_9080", "cds_ingress_online-store_website_http_5555", "cds_ingress_online-store_website_http_6666",
		}
		if !slices.Equal(got, want) {
			t.Errorf("clusters are\n%q\nwant\n%q", got, want)
		}
	})
	t.Run("OBS-020 OBS-021 listeners of several are told apart by labels, under one name", func(t *testing.T) {
		got := families(m.admin(s, "/stats/prometheus"))
		want := "appmesh_listener_port=5555 appmesh_listener_protocol=http appmesh_mesh=online-store appmesh_virtual_node=website envoy_http_conn_manager_prefix=ingress envoy_response_code_class=2"
		if n := got["envoy_http_downstream_rq_xx"][want]; n != 3 {
			t.Errorf("it counts %v: %v", n, got["envoy_http_downstream_rq_xx"])
		}
		if got["envoy_http_http_5555_downstream_rq_xx"] != nil {
			t.Error("the port is in a name")
		}
	})
	t.Run("OBS-022 the names of several listeners' statistics", func(t *testing.T) {
		for _, port := range []string{"5555", "6666"} {
			has(t, "http.ingress.http."+port+".rds.rds_ingress_http_"+port+".version_text", "listener.0.0.0.0_15000.http.ingress.http."+port+".downstream_rq_2xx",
				"http.ingress.http."+port+".downstream_cx_length_ms")
		}
	})
	t.Run("OBS-014 OBS-044 stats tags name the mesh and the node, or the gateway", func(t *testing.T) {
		m.create("VirtualGateway", "one", `{"listeners": [{"portMapping": {"port": 8088, "protocol": "http"}}]}`)
		gateway := m.sidecar(m.host("one"), stage.SidecarOptions{Resource: "mesh/" + m.name + "/virtualGateway/one", Alone: true, Env: tagged})
		for s, want := range map[*stage.Sidecar]string{s: "appmesh_virtual_node=website", gateway: "appmesh_virtual_gateway=one"} {
			n := 0
			for family, all := range families(m.admin(s, "/stats/prometheus")) {
				if strings.HasPrefix(family, "envoy_filesystem_") {
					continue // Envoy makes these before it knows its tags
				}
				for labels := range all {
					if n++; !strings.Contains(labels, "appmesh_mesh=online-store") || !strings.Contains(labels, want) {
						t.Errorf("%s has %s", family, labels)
					}
				}
			}
			if n < 100 {
				t.Errorf("only %d series", n)
			}
		}
	})
	t.Run("OBS-023 a gateway's second hop is in the name of its cluster", func(t *testing.T) {
		m.create("VirtualGateway", "two", `{"listeners": [{"portMapping": {"port": 1111, "protocol": "http"}}, {"portMapping": {"port": 2222, "protocol": "http"}}]}`)
		two := m.sidecar(m.host("two"), stage.SidecarOptions{Resource: "mesh/" + m.name + "/virtualGateway/two", Alone: true})
		for _, port := range []string{"1111", "2222"} {
			want := "envoy_cluster_name=cds_ingress_online-store_two_self_redirect_" + port + "_http_15001"
			if got := families(m.admin(two, "/stats/prometheus"))["envoy_cluster_assignment_stale"]; !slices.Contains(slices.Collect(maps.Keys(got)), want) {
				t.Errorf("there is no %s: %v", want, got)
			}
		}
	})
	t.Run("OBS-019 the rules for alerts name what an Envoy has", func(t *testing.T) {
		root, err := stage.Root()
		if err != nil {
			t.Fatal(err)
		}
		var rules struct {
			Groups []struct{ Rules []struct{ Expr string } }
		}
		if err := yaml.Unmarshal([]byte(read(t, filepath.Join(root, "deploy/prometheus/envoy-alerts.yaml"))), &rules); err != nil {
			t.Fatal(err)
		}
		got, seen := families(m.admin(s, "/stats/prometheus")), 0
		for _, rule := range rules.Groups[0].Rules {
			seen++
			if name := regexp.MustCompile(`envoy_[a-z_]+`).FindString(rule.Expr); got[name] == nil {
				t.Errorf("%s: an Envoy has no %s", rule.Expr, name)
			}
		}
		if seen < 4 {
			t.Errorf("there are %d rules", seen)
		}
	})
	t.Run("OBS-040 the default retry policy and circuit breakers can be looked up", func(t *testing.T) {
		dump := regexp.MustCompile(`\s+`).ReplaceAllString(m.admin(s, "/config_dump"), "")
		for _, want := range []string{
			`"retry_on":"unavailable,reset,connect-failure,refused-stream,retriable-status-codes","num_retries":2`, `"max_connections":2147483647,"max_pending_requests":2147483647`,
		} {
			if !strings.Contains(dump, want) {
				t.Errorf("config_dump has no %s", want)
			}
		}
	})
}
