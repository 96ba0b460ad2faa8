package agent

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/agent/agenttest"
	"github.com/evermesh/evermesh/internal/agent/httpapi"
	"github.com/evermesh/evermesh/internal/agent/pause"
	"github.com/evermesh/evermesh/internal/agent/settings"
	"github.com/evermesh/evermesh/internal/testenv"
)

// elsewhere is a file of the user that has the administration interface at another place, and a listener in front of an
// application.
const elsewhere = `
admin:
  address: %s
static_resources:
  listeners:
  - name: app
    address: {socket_address: {address: 127.0.0.1, port_value: %d}}
    traffic_direction: INBOUND
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: app
          route_config: {virtual_hosts: [{name: all, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: app, timeout: 0s}}]}]}
          http_filters: [{name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]
  clusters:
  - name: app
    type: STATIC
    load_assignment: {cluster_name: app, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: %d}}}}]}]}
`

// Envoy listens where the merged bootstrap says, so that is where it is asked how it is, and to drain.
func TestAdminElsewhere(t *testing.T) {
	t.Parallel()
	for name, place := range map[string]func(t *testing.T) string{
		"a port": func(t *testing.T) string {
			return fmt.Sprintf("{socket_address: {address: 127.0.0.1, port_value: %d}}", testenv.FreePort(t))
		},
		"another address": func(t *testing.T) string {
			return fmt.Sprintf("{socketAddress: {address: 127.0.0.2, portValue: %d}}", testenv.FreePort(t))
		},
		"a pipe": func(t *testing.T) string {
			return "{pipe: {path: " + filepath.Join(agenttest.ShortDir(t), "admin.sock") + "}}"
		},
	} {
		t.Run("AGENT-025 AGENT-046 AGENT-047 "+name, func(t *testing.T) {
			t.Parallel()
			got, open := make(chan struct{}), make(chan struct{})
			app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				close(got)
				<-open
				fmt.Fprint(w, "hello")
			}))
			defer app.Close()
			port, file := testenv.FreePort(t), filepath.Join(t.TempDir(), "resources.yaml")
			text := fmt.Sprintf(elsewhere, place(t), port, portOf(t, app.Listener.Addr().String()))
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			s, _ := realStub(t, false, "ENVOY_RESOURCES_CONFIG_FILE="+file, "LISTENER_DRAIN_WAIT_TIME_S=110", "APPNET_AGENT_ADMIN_MODE=uds")
			s.lines = append(s.lines, "APPNET_AGENT_ADMIN_UDS_PATH="+filepath.Join(s.dir, "agent.sock"))
			p := play(t, s)
			client, address := httpapi.Client(settings.Server{Network: "unix", Address: filepath.Join(s.dir, "agent.sock")})
			client.Timeout = 0
			testenv.Eventually(t, "the agent knows that Envoy serves", func() bool {
				var state httpapi.Status
				_, text := askHTTP(t, client, http.MethodGet, address)
				return json.Unmarshal([]byte(text), &state) == nil && state.State == "LIVE" && state.Health == "HEALTHY"
			})
			answer := make(chan string, 1)
			go func() {
				code, text := askHTTP(t, http.DefaultClient, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/", port))
				answer <- fmt.Sprintf("%d %s", code, text)
			}()
			select {
			case <-got:
			case early := <-answer:
				t.Fatalf("the request did not get to the application: %s", early)
			}
			p.tell(t, syscall.SIGTERM)
			testenv.Eventually(t, "it drains, or does not", func() bool {
				return strings.Contains(p.out.String(), "draining envoy") || strings.Contains(p.out.String(), "nothing to drain")
			})
			close(open)
			if got := <-answer; got != "200 hello" {
				t.Errorf("the open request got %q", got)
			}
			p.tell(t, syscall.SIGTERM)
			p.ends(t, 0)
			if strings.Contains(p.out.String(), "nothing to drain") {
				t.Error("it did not drain")
			}
		})
	}
}

func portOf(t *testing.T, address string) int {
	t.Helper()
	return number(t, address[strings.LastIndexByte(address, ':')+1:])
}

// A program beside the agent finds the interface as the agent does.
func TestAdminForClient(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return filepath.Join(dir, name)
	}
	for name, test := range map[string]struct {
		lines []string
		want  settings.Admin
	}{
		"by default":           {nil, settings.Admin{Port: 9901}},
		"as the variable says": {[]string{"ENVOY_ADMIN_ACCESS_PORT=9990"}, settings.Admin{Port: 9990}},
		"as a file says": {
			[]string{"ENVOY_ADMIN_ACCESS_PORT=9990", "ENVOY_RESOURCES_CONFIG_FILE=" + write("r.yaml", "admin: {address: {socket_address: {address: \"::\", port_value: 9999}}}")},
			settings.Admin{Address: "::1", Port: 9999, Given: true},
		},
		"as a bootstrap says": {
			[]string{"ENVOY_CONFIG_FILE=" + write("own.json", `{"admin": {"address": {"pipe": {"path": "/run/a.sock"}}}}`)},
			settings.Admin{Socket: "/run/a.sock", Given: true},
		},
		"a file that says nothing of it": {[]string{"ENVOY_STATS_CONFIG_FILE=" + write("s.yaml", "stats_config: {}")}, settings.Admin{Port: 9901}},
		"a file that is not there":       {[]string{"ENVOY_TRACING_CFG_FILE=/nowhere"}, settings.Admin{Port: 9901}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := AdminForClient(agenttest.Environment(test.lines...), 0); got != test.want {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
		})
	}
}

// passing is elsewhere with a listener that passes on connections as they are.
func passing() string {
	const from, to = "    - filters:\n", "  clusters:\n"
	head, rest, _ := strings.Cut(elsewhere, from)
	_, tail, _ := strings.Cut(rest, to)
	return head + from + `      - name: tcp
        typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: app, cluster: app}
` + to + tail
}

// A listener of the node that leads to the agent's own interface lets nobody end the agent.
func TestOwnInterfaceThroughEnvoy(t *testing.T) {
	t.Parallel()
	for name, config := range map[string]string{"of HTTP": elsewhere, "of TCP": passing()} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ownInterface(t, config)
		})
	}
}

func ownInterface(t *testing.T, config string) {
	t.Helper()
	port, own, file := testenv.FreePort(t), testenv.FreePort(t), filepath.Join(t.TempDir(), "resources.yaml")
	place := fmt.Sprintf("{socket_address: {address: 127.0.0.1, port_value: %d}}", testenv.FreePort(t))
	if err := os.WriteFile(file, []byte(fmt.Sprintf(config, place, port, own)), 0o600); err != nil {
		t.Fatal(err)
	}
	s, _ := realStub(t, false, "ENVOY_RESOURCES_CONFIG_FILE="+file, "APPNET_AGENT_ADMIN_MODE=tcp", fmt.Sprintf("APPNET_AGENT_HTTP_PORT=%d", own))
	p := play(t, s)
	through, direct := fmt.Sprintf("http://127.0.0.1:%d", port), fmt.Sprintf("http://127.0.0.1:%d", own)
	for late := time.Now().Add(agenttest.Wait); ; _ = pause.For(t.Context(), 150*time.Millisecond) { // 10 requests a second are taken
		code, text := askHTTP(t, http.DefaultClient, http.MethodGet, through+"/status")
		if code == http.StatusOK && strings.Contains(text, "LIVE") {
			break
		}
		if time.Now().After(late) {
			t.Fatalf("the interface does not answer through Envoy: %d %s", code, text)
		}
	}
	for _, path := range []string{"/quit", "/enableLogging?level=debug", "/drain_listeners"} {
		if code, text := askHTTP(t, http.DefaultClient, http.MethodPost, through+path); code != http.StatusForbidden {
			t.Errorf("%s: got %d %s", path, code, text)
		}
	}
	if code, text := askHTTP(t, http.DefaultClient, http.MethodPost, direct+"/quit"); code != http.StatusOK {
		t.Errorf("from this host: got %d %s", code, text)
	}
	p.tell(t, syscall.SIGTERM) // hurries
	p.ends(t, 0)
}
