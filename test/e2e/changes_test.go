//go:build linux

package e2e

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/test/stage"
)

// TestChangesUnderTraffic changes a mesh in every way that its users do while a client never stops. Not one of its
// requests may fail, and none is repeated.
func TestChangesUnderTraffic(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "changes", "DROP_ALL")
	servers := map[string]*stage.Sidecar{}
	for _, name := range []string{"blue", "green"} {
		h := m.app(name)
		servers[name] = m.sidecar(h, stage.SidecarOptions{Resource: name, AppPorts: fmt.Sprint(appPort)})
	}
	m.program("red")
	service := m.service("shop", appPort, map[string]string{"r": weighted(noRetry, "blue", 100)})
	later := m.hostname("later")
	m.DNS().Set(later, nobody)
	m.create("VirtualNode", "client", callerSpec(service, later))
	client := m.host("client")
	sidecar := m.sidecar(client, stage.SidecarOptions{Resource: "client"})
	url := fmt.Sprintf("http://%s:%d/", service, appPort)

	steady := stage.NewSteady(client, url, 4, 5*time.Millisecond)
	defer steady.Stop()
	count := func(n int) stage.Tally {
		t.Helper()
		return m.answers(t, steady, n)
	}
	shift := func(weights ...any) {
		t.Helper()
		m.settle(m.put("Update", "Route", "shop", "r", weighted(noRetry, weights...)))
	}
	compare(t, count(200), map[string]float64{"blue": 1})

	t.Run("API-027 EMS-023 a new target is reached without a restart", func(t *testing.T) {
		before := m.stat(sidecar, "server.uptime")
		m.during(t, steady, "target added", 1, func() {
			shift("blue", 50, "green", 50)
			compare(t, count(1440), map[string]float64{"blue": 0.5, "green": 0.5})
		})
		if after := m.stat(sidecar, "server.uptime"); after < before {
			t.Errorf("Envoy's uptime went from %d to %d s", before, after)
		}
	})
	t.Run("RT-009 API-043 weights change twenty times", func(t *testing.T) {
		m.during(t, steady, "weight change", 500, func() {
			for n := range 20 {
				share := 5 * (n + 1)
				shift("blue", share, "green", 100-share)
			}
		})
		compare(t, count(500), map[string]float64{"blue": 1})
	})
	t.Run("RT-009 routes come and go", func(t *testing.T) {
		m.during(t, steady, "route added and removed", 100, func() {
			first := strings.Replace(weighted(noRetry, "green", 1), "{", `{"priority": 1, `, 1)
			m.settle(m.route("shop", "first", first))
			m.reaches(t, steady, "green")
			m.delete("Route", `{"virtualRouterName": "shop", "routeName": "first"}`)
			m.reaches(t, steady, "blue")
		})
	})
	t.Run("RT-035 retries and timeouts change", func(t *testing.T) {
		m.during(t, steady, "retry or timeout change", 100, func() {
			for _, spec := range []string{
				`"timeout": {"perRequest": {"unit": "s", "value": 5}}, ` + noRetry,
				`"timeout": {"perRequest": {"unit": "s", "value": 0}, "idle": {"unit": "s", "value": 60}}, ` + strings.Replace(noRetry, "gateway-error", "stream-error", 1),
				`"timeout": {"idle": {"unit": "s", "value": 30}}, ` + strings.Replace(noRetry, "15", "7", 1),
				noRetry,
			} {
				m.settle(m.put("Update", "Route", "shop", "r", weighted(spec, "blue", 1)))
				count(50)
			}
			for _, limit := range []string{`, "timeout": {"http": {"perRequest": {"unit": "s", "value": 20}}}`, `, "timeout": {"http": {"idle": {"unit": "s", "value": 20}}}`, ""} {
				m.settle(m.update("VirtualNode", "blue", m.nodeWith("blue", limit)))
				count(50)
			}
		})
	})
	t.Run("VN-015 EMS-052 health checks come, change and go", func(t *testing.T) {
		const check = `, "healthCheck": {"protocol": %q, "path": %q, "intervalMillis": 5000, "timeoutMillis": 2000, "healthyThreshold": 2, "unhealthyThreshold": 2}`
		checked := "cluster.cds_egress_changes_blue_http_9080.health_check.success"
		m.during(t, steady, "health-check change", 100, func() {
			for n, check := range []string{fmt.Sprintf(check, "http", "/health"), fmt.Sprintf(check, "http", "/other"), fmt.Sprintf(check, "tcp", "/"), ""} {
				before := m.stat(sidecar, checked)
				m.settle(m.update("VirtualNode", "blue", m.nodeWith("blue", check)))
				if n < 3 {
					m.until("a check has passed", func(context.Context) bool { return m.stat(sidecar, checked) > before })
				}
				count(50)
			}
		})
	})
	t.Run("VN-009 VN-012 pools and outlier detection change", func(t *testing.T) {
		m.during(t, steady, "connection pool or outlier detection change", 100, func() {
			for _, more := range []string{
				`, "connectionPool": {"http": {"maxConnections": 50, "maxPendingRequests": 100}}`,
				`, "outlierDetection": {"maxServerErrors": 5, "interval": {"unit": "s", "value": 10}, "baseEjectionDuration": {"unit": "s", "value": 10}, "maxEjectionPercent": 50}`,
				"",
			} {
				m.settle(m.update("VirtualNode", "blue", m.nodeWith("blue", more)))
				count(50)
			}
		})
	})
	t.Run("VN-028 EMS-052 access logs come and go", func(t *testing.T) {
		m.during(t, steady, "access log change", 100, func() {
			logged := func(spec, file string) string {
				return fmt.Sprintf(`{"logging": {"accessLog": {"file": {"path": %q}}}, %s`, file, spec[1:])
			}
			for name, of := range map[string]struct {
				spec string
				*stage.Sidecar
			}{"client": {callerSpec(service, later), sidecar}, "blue": {m.nodeSpec("blue"), servers["blue"]}} {
				file := of.Dir + "/access.log"
				m.settle(m.update("VirtualNode", name, logged(of.spec, file)))
				m.until("requests are logged", func(context.Context) bool { return read(t, file) != "" })
				m.settle(m.update("VirtualNode", name, of.spec))
			}
		})
	})
	t.Run("VN-024 EMS-052 backends come and go", func(t *testing.T) {
		m.create("VirtualNode", "red", m.nodeSpec("red"))
		to := map[string]string{"r": weighted(noRetry, "red", 1)}
		near, far := m.service("near", appPort, to), m.service("far", appPort+1, to)
		m.during(t, steady, "backend added and removed", 100, func() {
			for n, backends := range [][]string{{service, later, near}, {service, later, near, far}, {service, later}} {
				m.settle(m.update("VirtualNode", "client", callerSpec(backends...)))
				for i, of := range []string{near, far} {
					want := "closed"
					if n < 2 && i <= n {
						want = "red"
					} else if i == 0 {
						want = "404"
					}
					m.until(fmt.Sprintf("with %v, %s is %s", backends, of, want), func(context.Context) bool {
						return reach(t, client, fmt.Sprintf("http://%s:%d/", of, appPort+i), "") == want
					})
				}
				count(50)
			}
		})
	})
	t.Run("VN-031 a node's host name changes", func(t *testing.T) {
		shift("green", 1)
		compare(t, count(200), map[string]float64{"green": 1})
		m.during(t, steady, "host name change", 100, func() {
			m.settle(m.update("VirtualNode", "green", m.nodeSpec("red")))
			m.reaches(t, steady, "red")
			compare(t, count(200), map[string]float64{"red": 1})
			m.settle(m.update("VirtualNode", "green", m.nodeSpec("green")))
			m.reaches(t, steady, "green")
		})
	})
	t.Run("EMS-052 a target leaves and is deleted", func(t *testing.T) {
		m.during(t, steady, "target removed", 200, func() {
			shift("blue", 1)
			m.delete("VirtualNode", `{"virtualNodeName": "green"}`)
			m.until("the cluster is gone", func(context.Context) bool {
				return !strings.Contains(m.admin(sidecar, "/clusters"), "cds_egress_changes_green_")
			})
		})
		compare(t, count(200), map[string]float64{"blue": 1})
	})
	t.Run("EMS-052 a name server that is silent for 3 s while a new target gets weight", func(t *testing.T) {
		h := m.program("late")
		m.DNS().Set(m.hostname("late"), h.Addr())
		// Of one family: where Envoy asks for both, one after the other, its resolver has twice the time.
		m.create("VirtualNode", "late", strings.Replace(m.nodeSpec("late"), `"hostname"`, `"ipPreference": "IPv4_ONLY", "hostname"`, 1))
		m.during(t, steady, "new target whose name resolves only after 3 s", 1, func() {
			m.DNS().Silence(m.hostname("late"), 3*time.Second)
			began := time.Now()
			shift("blue", 50, "late", 50)
			t.Logf("the route was accepted after %v", time.Since(began))
			if time.Since(began) < 2*time.Second {
				t.Errorf("the route was accepted after %v, while the name server was silent for 3 s", time.Since(began))
			}
			compare(t, count(900), map[string]float64{"blue": 0.5, "late": 0.5})
		})
	})
	t.Run("VS-003 VS-004 VN-025 a backend's service comes, gets a provider, and another", func(t *testing.T) {
		target := fmt.Sprintf("http://%s:%d/", later, appPort)
		m.create("VirtualService", later, `{}`)
		for _, step := range []struct{ spec, want string }{
			{`{"provider": {"virtualRouter": {"virtualRouterName": "shop"}}}`, "blue"},
			{`{"provider": {"virtualNode": {"virtualNodeName": "late"}}}`, "late"},
			{`{"provider": {"virtualRouter": {"virtualRouterName": "shop"}}}`, "blue"},
		} {
			if step.want == "blue" {
				shift("blue", 1)
			}
			m.settle(m.update("VirtualService", later, step.spec))
			m.until(step.spec+" leads to "+step.want, func(context.Context) bool { return ask(t, client, request{URL: target}).App == step.want })
		}
	})
	t.Run("VS-001 VS-004 a service loses its provider", func(t *testing.T) {
		m.settle(m.update("VirtualService", later, `{}`))
		m.until("it is not there any more", func(ctx context.Context) bool {
			a, err := send(ctx, client, request{URL: fmt.Sprintf("http://%s:%d/", later, appPort)})
			return err != nil || a.Status == http.StatusNotFound
		})
	})
	t.Run("EMS-052 API-027 a node takes the place of another one", func(t *testing.T) {
		m.during(t, steady, "virtual node replaced under a router", 200, func() {
			shift("blue", 1)
			m.create("VirtualNode", "next", m.nodeSpec("late"))
			shift("next", 1)
			m.reaches(t, steady, "late")
			m.delete("VirtualNode", `{"virtualNodeName": "blue"}`)
			m.until("the cluster is gone", func(context.Context) bool {
				return !strings.Contains(m.admin(sidecar, "/clusters"), "cds_egress_changes_blue_")
			})
		})
	})
	t.Run("EMS-064 the versions are told", func(t *testing.T) {
		stats := m.admin(sidecar, "/stats?filter=version_text")
		for _, name := range []string{"listener_manager.lds.version_text", "cluster_manager.cds.version_text", fmt.Sprintf("http.egress.rds.rds_egress_http_%d.version_text", appPort)} {
			if !strings.Contains(stats, name+": \"") || strings.Contains(stats, name+": \"\"") {
				t.Errorf("no %s in\n%s", name, stats)
			}
		}
	})

	steady.Stop()
	lossless(t, "all of these changes", steady.Count(time.Time{}, time.Time{}))
	m.unrepeated(t, sidecar)
}

// TestRefusedConfiguration gives one node an access log that its Envoy cannot open.
func TestRefusedConfiguration(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "refused", "DROP_ALL")
	m.app("blue")
	service := m.service("shop", appPort, map[string]string{"r": weighted("", "blue", 1)})
	logging := func(path string) string {
		spec := callerSpec(service)
		return fmt.Sprintf(`{"logging": {"accessLog": {"file": {"path": %q}}}, %s`, path, spec[1:])
	}
	m.create("VirtualNode", "client", callerSpec(service))
	m.create("VirtualNode", "other", callerSpec(service))
	client, other := m.host("client"), m.host("other")
	sidecar := m.sidecar(client, stage.SidecarOptions{Resource: "client"})
	second := m.sidecar(other, stage.SidecarOptions{Resource: "other"})
	url := fmt.Sprintf("http://%s:%d/", service, appPort)
	rejected := m.stat(second, "listener_manager.lds.update_rejected")

	arn := m.update("VirtualNode", "client", logging("/nowhere/access.log"))
	ctx, cancel := m.context()
	defer cancel()
	_, err := m.control.Rollout(ctx, arn)

	t.Run("EMS-047 Envoy's refusal is told, with its text", func(t *testing.T) {
		if err == nil || !strings.Contains(err.Error(), "/nowhere/access.log") {
			t.Errorf("the rollout said %v, want a refusal that names the file", err)
		}
		if n := m.stat(sidecar, "listener_manager.lds.update_rejected"); n == 0 {
			t.Error("Envoy counts no refused listener update")
		}
		proxies, err := m.control.Proxies(ctx, m.name)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range proxies {
			want := api.ProxyStateCurrent
			if p.ResourceARN == arn {
				want = api.ProxyStateRefused
			}
			if p.State != want {
				t.Errorf("%s is %s, want %s", p.ResourceARN, p.State, want)
			}
		}
	})
	t.Run("EMS-047 the last good configuration goes on", func(t *testing.T) {
		for _, h := range []struct{ name string }{{"client"}, {"other"}} {
			if a := ask(t, m.host(h.name), request{URL: url}); a.App != "blue" {
				t.Errorf("from %s: %d %s", h.name, a.Status, a.Body)
			}
		}
		if n := m.stat(second, "listener_manager.lds.update_rejected"); n != rejected {
			t.Error("the other proxy refused something")
		}
	})
	t.Run("VN-028 a good one is taken", func(t *testing.T) {
		file := sidecar.Dir + "/access.log"
		m.settle(m.update("VirtualNode", "client", logging(file)))
		ask(t, client, request{URL: url + "seen"})
		m.until("the access log has the request", func(context.Context) bool { return strings.Contains(read(t, file), "/seen") })
	})
}
