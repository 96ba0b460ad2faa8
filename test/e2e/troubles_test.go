//go:build linux

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/evermesh/evermesh/test/stage"
)

// TestTroubles has what App Mesh's guide tells to look for when something does not work.
func TestTroubles(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "troubles", "DROP_ALL")
	m.app("blue")
	m.create("VirtualNode", "away", fmt.Sprintf(`{"listeners": [{"portMapping": {"port": %d, "protocol": "http"}}], "serviceDiscovery": {"dns": {"hostname": "nowhere.troubles.local"}}}`, appPort))
	service := m.service("shop", appPort, map[string]string{
		"blue": to("blue", `{"prefix": "/blue"}`), "away": strings.Replace(to("away", `{"prefix": "/away"}`), `}]}}`, `}]}, `+noRetry+`}`, 1),
	})
	m.create("VirtualNode", "client", callerSpec(service))
	state := func(s *stage.Sidecar) string {
		ctx, cancel := m.context()
		defer cancel()
		text, err := s.Admin(ctx, "/server_info")
		var info struct{ State string }
		if err != nil || json.Unmarshal([]byte(text), &info) != nil {
			return ""
		}
		return info.State
	}

	t.Run("TRBL-003 AGENT-043 the admin interface tells the state, before and after the first configuration", func(t *testing.T) {
		away := *m.control
		away.XDS = "127.0.0.1:1" // nobody's
		waiting := m.sidecar(m.host("waiting"), stage.SidecarOptions{Resource: "client", XDS: []*stage.Control{&away}, Early: true})
		m.until("Envoy waits for its first configuration", func(context.Context) bool {
			s := state(waiting)
			return s == "INITIALIZING" || s == "PRE_INITIALIZING"
		})
	})
	h := m.host("client")
	s := m.sidecar(h, stage.SidecarOptions{Resource: "client", Env: []string{"ENVOY_LOG_LEVEL=debug"}})
	t.Run("TRBL-003 LIVE is what serves", func(t *testing.T) {
		if got := state(s); got != "LIVE" {
			t.Errorf("state is %q", got)
		}
	})
	said := func(t *testing.T, words string) {
		t.Helper()
		m.until("Envoy says "+words, func(context.Context) bool { return strings.Contains(strings.ToLower(read(t, s.Process.Log())), words) })
	}
	t.Run("TRBL-009 a target without endpoints: no healthy upstream", func(t *testing.T) {
		a := ask(t, h, request{URL: fmt.Sprintf("http://%s:%d/away", service, appPort)})
		if a.Status != http.StatusServiceUnavailable || a.Body != "no healthy upstream" {
			t.Errorf("%d %q", a.Status, a.Body)
		}
		said(t, "no healthy host")
	})
	t.Run("TRBL-009 a request that no route matches", func(t *testing.T) {
		if a := ask(t, h, request{URL: fmt.Sprintf("http://%s:%d/other", service, appPort)}); a.Status != http.StatusNotFound {
			t.Errorf("%d %q", a.Status, a.Body)
		}
		said(t, "match for url '/other'")
	})
	t.Run("TRBL-009 a port that nothing is modelled on: no matching filter chain found", func(t *testing.T) {
		ctx, cancel := m.context()
		defer cancel()
		if a, err := send(ctx, h, request{URL: fmt.Sprintf("http://%s:4444/", service)}); err == nil {
			t.Errorf("answered %d", a.Status)
		}
		said(t, "no matching filter chain found")
	})
	if m.Owner().UID == 0 {
		return // Envoy runs as the only user of this ground, who may have any port
	}
	t.Run("TRBL-005 a port that Envoy's user may not have", func(t *testing.T) {
		m.create("VirtualGateway", "low", `{"listeners": [{"portMapping": {"port": 80, "protocol": "http"}}]}`)
		low := m.sidecar(m.host("low"), stage.SidecarOptions{Resource: "mesh/troubles/virtualGateway/low", Alone: true, Early: true})
		m.until("the ledger has Envoy's words", func(ctx context.Context) bool {
			proxies, err := m.control.Proxies(ctx, m.name)
			for _, p := range proxies {
				for _, typ := range p.Types {
					if typ.Refusal != nil && strings.Contains(typ.Refusal.Message, "lds_ingress_0.0.0.0_80: cannot bind '0.0.0.0:80': Permission denied") {
						return err == nil
					}
				}
			}
			return false
		})
		m.until("it is counted", func(context.Context) bool { return m.stat(low, "listener_manager.lds.update_rejected") > 0 })
	})
}
