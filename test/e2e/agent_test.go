//go:build linux

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/test/stage"
)

// TestDialects has one proxy of each dialect on the same node. The second one's bootstrap is the user's own and asks
// for the state of the world, as App Mesh's image did.
func TestDialects(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "dialects", "DROP_ALL")
	m.app("blue")
	m.app("green")
	service := m.service("shop", appPort, map[string]string{"r": weighted(noRetry, "blue", 1)})
	other := m.service("other", appPort, map[string]string{"r": weighted(noRetry, "blue", 99, "green", 1)})
	arn := m.create("VirtualNode", "client", callerSpec(service, other))
	delta, world := m.host("delta"), m.host("world")
	first := m.sidecar(delta, stage.SidecarOptions{Resource: "client"})
	// The relay's socket is where stage puts it, in the directory of the host.
	socket := filepath.Join(m.Dir(), "run", world.Name(), "xds.sock")
	bootstrap := filepath.Join(m.Dir(), "run", "state-of-the-world.json")
	if err := os.WriteFile(bootstrap, []byte(stateOfTheWorld(arn, socket)), 0o644); err != nil {
		t.Fatal(err)
	}
	second := m.sidecar(world, stage.SidecarOptions{Resource: "client", Env: []string{"ENVOY_CONFIG_FILE=" + bootstrap}})
	url := fmt.Sprintf("http://%s:%d/", service, appPort)

	t.Run("EMS-001 EMS-015 both dialects are served, and named", func(t *testing.T) {
		m.until("one proxy of each dialect is current", func(ctx context.Context) bool {
			proxies, err := m.control.Proxies(ctx, m.name)
			got := map[api.Dialect]int{}
			for _, p := range proxies {
				if p.ResourceARN == arn && p.State == api.ProxyStateCurrent {
					got[p.Dialect]++
				}
			}
			return err == nil && got[api.DialectDelta] == 1 && got[api.DialectStateOfTheWorld] == 1
		})
	})
	for _, to := range []string{"green", "blue"} {
		m.settle(m.put("Update", "Route", "shop", "r", weighted(noRetry, to, 1)))
		t.Run("API-027 EMS-001 both follow a change to "+to, func(t *testing.T) {
			for _, s := range []*stage.Sidecar{first, second} {
				if a := ask(t, s.Host, request{URL: url}); a.App != to {
					t.Errorf("on %s: %d %s", s.Host.Name(), a.Status, a.Body)
				}
			}
		})
	}
	t.Run("EMS-052 EMS-001 a name server is silent for 3 s while a new target gets half the weight", func(t *testing.T) {
		m.silentNames(t, []*stage.Sidecar{first, second}, url, fmt.Sprintf("http://%s:%d/", other, appPort))
	})
	t.Run("EMS-048 neither refused anything", func(t *testing.T) {
		for _, s := range []*stage.Sidecar{first, second} {
			for _, name := range []string{"listener_manager.lds.update_rejected", "cluster_manager.cds.update_rejected", fmt.Sprintf("http.egress.rds.rds_egress_http_%d.update_rejected", appPort)} {
				if n := m.stat(s, name); n != 0 {
					t.Errorf("%s: %s is %d", s.Host.Name(), name, n)
				}
			}
		}
	})
}

// silentNames routes half of a service's requests to a target whose name is not resolved for 3 s. The route waits for
// the target, other routes do not wait for it (D6.1), and no request fails.
func (m *mesh) silentNames(t *testing.T, sidecars []*stage.Sidecar, url, other string) {
	t.Helper()
	m.program("late")
	m.create("VirtualNode", "late", m.nodeSpec("late"))
	const silence = 3 * time.Second
	var loads, others []*stage.Steady
	for _, s := range sidecars {
		load, beside := stage.NewSteady(s.Host, url, 2, 5*time.Millisecond), stage.NewSteady(s.Host, other, 1, 10*time.Millisecond)
		defer load.Stop()
		defer beside.Stop()
		loads, others = append(loads, load), append(others, beside)
	}
	count := func(from, to time.Time) stage.Tally {
		sum := stage.Tally{ByApp: map[string]int{}, Faults: map[string]int{}}
		for _, load := range loads {
			add(&sum, load.Count(from, to))
		}
		return sum
	}
	began := time.Now()
	m.DNS().Silence(m.hostname("late"), silence)
	arn := m.put("Update", "Route", "shop", "r", weighted(noRetry, "blue", 50, "late", 50))
	m.put("Update", "Route", "other", "r", weighted(noRetry, "green", 1))
	m.settle(arn)
	accepted, waited := time.Now(), time.Since(began)
	if waited < silence {
		t.Errorf("the new target's route was accepted after %v: want it to wait for the name, %v", waited, silence)
	}
	for i, beside := range others {
		// It took all requests but one of a hundred before.
		if c := beside.Count(began, began.Add(silence)); c.ByApp["green"] <= c.ByApp["blue"]/10 {
			t.Errorf("on %s the other route was not in use while the name server was silent: %v", sidecars[i].Host.Name(), c.ByApp)
		}
	}
	if early := count(began, began.Add(2*time.Second)); early.ByApp["late"] > 0 {
		t.Errorf("the new target answered %d requests while its name was not resolved", early.ByApp["late"])
	}
	ctx, cancel := m.context()
	defer cancel()
	for _, load := range loads {
		if err := load.Wait(ctx, accepted, 720); err != nil {
			t.Fatal(err)
		}
	}
	for _, load := range loads {
		load.Stop()
	}
	compare(t, count(accepted, time.Time{}), map[string]float64{"blue": 0.5, "late": 0.5})
	all := count(began, time.Time{})
	t.Logf("the new target's route was accepted after %v, %d queries for its name; %d requests, %d failed", waited.Round(time.Millisecond),
		m.DNS().Queries(m.hostname("late")), all.Requests, all.Failed)
	if all.Failed > 0 {
		t.Errorf("%d of %d requests failed: %v", all.Failed, all.Requests, all.Faults)
	}
}

// stateOfTheWorld is a bootstrap as App Mesh's image wrote it, but for the signature, which Envoy has unlearnt: the
// relay behind the socket adds it.
func stateOfTheWorld(id, socket string) string {
	ads := map[string]any{"ads": map[string]any{}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"}
	mark := []any{map[string]any{"level": 1, "name": 36, "int_value": 1337, "state": "STATE_PREBIND"}}
	doc := map[string]any{
		"node":  map[string]any{"id": id, "cluster": id},
		"admin": map[string]any{"address": map[string]any{"socket_address": map[string]any{"address": "0.0.0.0", "port_value": 9901}}},
		"dynamic_resources": map[string]any{
			"lds_config": ads, "cds_config": ads,
			"ads_config": map[string]any{
				"api_type": "GRPC", "transport_api_version": "V3",
				"grpc_services": []any{map[string]any{"envoy_grpc": map[string]any{"cluster_name": "xds"}}},
			},
		},
		"static_resources": map[string]any{"clusters": []any{map[string]any{
			"name": "xds", "type": "STATIC", "connect_timeout": "1s",
			"typed_extension_protocol_options": map[string]any{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": map[string]any{
				"@type":                "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
				"explicit_http_config": map[string]any{"http2_protocol_options": map[string]any{}},
			}},
			"load_assignment": map[string]any{"cluster_name": "xds", "endpoints": []any{map[string]any{"lb_endpoints": []any{map[string]any{
				"endpoint": map[string]any{"address": map[string]any{"pipe": map[string]any{"path": socket}}},
			}}}}},
		}}},
	}
	if world.Owner().Mark != 0 {
		doc["cluster_manager"] = map[string]any{"upstream_bind_config": map[string]any{"socket_options": mark}}
	}
	text, _ := json.Marshal(doc) // strings, numbers and maps alone
	return string(text)
}

// TestAgent shows what the agent does for its Envoy.
func TestAgent(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "agent", "DROP_ALL")
	server := m.app("server")
	service := m.service("shop", appPort, map[string]string{"r": weighted("", "server", 1)})
	m.create("VirtualNode", "client", callerSpec(service))
	const drain = 8 // s; longer than the request under way lasts
	in := m.sidecar(server, stage.SidecarOptions{Resource: "server", AppPorts: fmt.Sprint(appPort), Env: []string{fmt.Sprint("LISTENER_DRAIN_WAIT_TIME_S=", drain)}})
	client := m.host("client")
	out := m.sidecar(client, stage.SidecarOptions{Resource: "client"})
	url := fmt.Sprintf("http://%s:%d/", service, appPort)

	t.Run("AGENT-037 status", func(t *testing.T) {
		c := client.Client()
		defer c.CloseIdleConnections()
		var status map[string]string
		m.until("the agent says HEALTHY", func(ctx context.Context) bool {
			resp, err := c.Get("http://127.0.0.1:9902/status")
			if err != nil {
				return false
			}
			defer resp.Body.Close()
			return json.NewDecoder(resp.Body).Decode(&status) == nil && status["healthStatus"] == "HEALTHY"
		})
		if status["envoyState"] != "LIVE" || status["managementServerConnectionStatus"] != "CONNECTED" {
			t.Errorf("status is %v", status)
		}
	})
	t.Run("AGENT-041 it takes little memory, even when all statistics go through it", func(t *testing.T) {
		c := client.Client()
		defer c.CloseIdleConnections()
		read, answers := 0, 0
		m.until("ten answers, for the agent gives ten a second at most", func(context.Context) bool {
			resp, err := c.Get("http://127.0.0.1:9902/stats/prometheus")
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			n, err := io.Copy(io.Discard, resp.Body)
			if err == nil && resp.StatusCode == http.StatusOK {
				read, answers = read+int(n), answers+1
			}
			return answers == 10
		})
		anon, all := memory(t, out.Process.Pid())
		t.Logf("agent: RssAnon %.1f MB, VmRSS %.1f MB after %.1f MB of statistics", anon, all, float64(read)/1e6)
		// What it had for a moment it gives back, when its collector comes to run.
		m.until("the agent has at most 14 MB of its own, and 32 MB in all", func(context.Context) bool {
			anon, all := memory(t, out.Process.Pid())
			return anon <= 14 && all <= 32
		})
	})
	t.Run("AGENT-001 AGENT-047 Envoy is started again when it dies", func(t *testing.T) {
		ctx, cancel := m.context()
		defer cancel()
		if err := out.RestartEnvoy(ctx); err != nil {
			t.Fatal(err)
		}
		if a := ask(t, client, request{URL: url}); a.App != "server" {
			t.Errorf("%d %s", a.Status, a.Body)
		}
	})
	t.Run("AGENT-046 SIGTERM lets requests under way end", func(t *testing.T) {
		slow := m.slowly(t, client, url, 1, 3*time.Second, server)
		began := time.Now()
		ctx, cancel := m.context()
		defer cancel()
		if err := in.Process.Stop(ctx); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took < (drain-1)*time.Second {
			t.Errorf("the agent ended after %v; it must serve for LISTENER_DRAIN_WAIT_TIME_S, %d s here", took, drain)
		}
		if err := in.Process.Err(); err != nil {
			t.Errorf("the agent ended with %v, want 0", err)
		}
		if all := slow.wait(t); all.ByApp["server"] != 1 {
			t.Errorf("the request ended with %v", all.Faults)
		}
	})
}

// kill ends the Envoy of a sidecar by SIGKILL, as the kernel would for want of memory.
func (m *mesh) kill(s *stage.Sidecar) {
	m.t.Helper()
	if err := s.KillEnvoy(); err != nil {
		m.t.Fatal(err)
	}
}

// memory is what a process has resident: of its own, and in all, in MB.
func memory(t *testing.T, pid int) (anon, all float64) {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		var kib float64
		if name == "RssAnon" || name == "VmRSS" {
			if _, err := fmt.Sscan(value, &kib); err != nil {
				t.Fatal(err)
			}
		}
		switch name {
		case "RssAnon":
			anon = kib * 1024 / 1e6
		case "VmRSS":
			all = kib * 1024 / 1e6
		}
	}
	if anon == 0 || all == 0 {
		t.Fatalf("no memory in %s", text)
	}
	return anon, all
}
