package agent

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/agent/agenttest"
	"github.com/evermesh/evermesh/internal/agent/envoyadmin"
	"github.com/evermesh/evermesh/internal/agent/settings"
	"github.com/evermesh/evermesh/internal/testenv"
)

// dynamic is an Envoy whose listeners and clusters come while it runs, as from a control plane, named as those are.
const dynamic = `
node: {id: node, cluster: nodes}
admin: {address: {socket_address: {address: 0.0.0.0, port_value: %[1]d}}}
dynamic_resources:
  lds_config: {path_config_source: {path: %[2]s/lds.yaml}}
  cds_config: {path_config_source: {path: %[2]s/cds.yaml}}
`

const dynamicListener = `
- "@type": type.googleapis.com/envoy.config.listener.v3.Listener
  name: lds_ingress_0.0.0.0_%[1]d
  address: {socket_address: {address: 0.0.0.0, port_value: %[1]d}}
  filter_chains:
  - filters:
    - name: echo
      typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo}
`

const dynamicCluster = `
resources:
- "@type": type.googleapis.com/envoy.config.cluster.v3.Cluster
  name: cds_ingress_m_n_http_%[1]d
  type: STATIC
  load_assignment: {cluster_name: cds_ingress_m_n_http_%[1]d, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: %[1]d}}}}]}]}
`

// runDynamic runs a dynamic Envoy in dir until the test ends: with that bootstrap, those listeners, and the cluster of a
// node's listener on the port cds.
func runDynamic(t *testing.T, dir, bootstrap, listeners string, cds int) {
	t.Helper()
	for file, text := range map[string]string{"lds.yaml": listeners, "cds.yaml": fmt.Sprintf(dynamicCluster, cds), "envoy.yaml": bootstrap} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ctx, stop := context.WithCancel(t.Context())
	cmd := exec.CommandContext(ctx, agenttest.Envoys(t)[0], "-c", filepath.Join(dir, "envoy.yaml"), "-l", "off", "--disable-hot-restart", "--concurrency", "1")
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(); _ = cmd.Wait() })
}

func onPort(t *testing.T, port int) settings.Settings {
	t.Helper()
	s, err := settings.Parse(agenttest.Environment("APPMESH_RESOURCE_ARN=mesh/m/virtualNode/n", "APPMESH_XDS_ENDPOINT=c:1", fmt.Sprintf("ENVOY_ADMIN_ACCESS_PORT=%d", port)), settings.Flags{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestPorts(t *testing.T) {
	t.Run("AGENT-008 a port that somebody has already is said before the start", func(t *testing.T) {
		port := testenv.FreePort(t)
		l, err := net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			t.Fatal(err)
		}
		log, written := agenttest.Log(t)
		checkAdminPort(onPort(t, port), log)
		if !strings.Contains(written.String(), "set ENVOY_ADMIN_ACCESS_PORT to another one") || !strings.Contains(written.String(), "address already in use") {
			t.Errorf("got %q", written)
		}
		l.Close()
		log, written = agenttest.Log(t)
		if checkAdminPort(onPort(t, port), log); written.String() != "" {
			t.Errorf("got %q", written)
		}
	})
	taken, err := net.Listen("tcp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { taken.Close() })
	for name, clash := range map[string]func(admin int) (lds, cds int){
		"a gateway's listener":     func(admin int) (int, int) { return admin, 1 },
		"a node's listener":        func(admin int) (int, int) { return 0, admin },
		"no listener":              func(int) (int, int) { return 0, 1 },
		"no listener, one refused": func(int) (int, int) { return 0, 1 },
	} {
		t.Run("AGENT-008 "+name+" on the port of the administration interface", func(t *testing.T) {
			t.Parallel()
			dir, admin, other := agenttest.ShortDir(t), testenv.FreePort(t), testenv.FreePort(t)
			lds, cds := clash(admin)
			if lds == 0 {
				lds = other
			}
			listeners, none := "resources:\n"+fmt.Sprintf(dynamicListener, lds), strings.HasPrefix(name, "no listener")
			if strings.HasSuffix(name, "refused") {
				listeners += fmt.Sprintf(dynamicListener, taken.Addr().(*net.TCPAddr).Port)
			}
			runDynamic(t, dir, fmt.Sprintf(dynamic, admin, dir), listeners, cds)
			s := onPort(t, admin)
			log, written := agenttest.Log(t)
			client := envoyadmin.New(s.Admin)
			testenv.Eventually(t, "Envoy answers", func() bool { return client.State(t.Context()) == "LIVE" })
			if strings.HasSuffix(name, "refused") { // which Envoy tells whatever it is asked for
				if names, err := namesOf(t.Context(), client, "dynamic_listeners", "none"); err != nil || len(names) == 0 {
					t.Errorf("Envoy refused no listener: %v", err)
				}
			}
			watchPorts(agenttest.Within(t), client, s, log)
			if said := strings.Contains(written.String(), "a listener has the port"); said == none {
				t.Errorf("got %q", written)
			}
		})
	}
}
