//go:build linux

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/evermesh/evermesh/test/stage"
)

// TestQuietControlPlane has an evermeshd that comes back with nothing new: it sends the proxy nothing, and the agent says
// that it is connected all the same.
func TestQuietControlPlane(t *testing.T) {
	t.Parallel()
	onGround(t)
	control, err := world.Control(t.Context(), stage.ControlOptions{Name: "quiet", Ports: []int{7083, 7084, 7085}})
	if err != nil {
		t.Fatal(err)
	}
	m := newMeshOn(t, control, "quiet", "DROP_ALL")
	m.app("blue")
	shop := m.service("shop", appPort, map[string]string{"r": weighted(noRetry, "blue", 1)})
	m.create("VirtualNode", "client", callerSpec(shop))
	client := m.host("client")
	s := m.sidecar(client, stage.SidecarOptions{Resource: "client", Env: []string{"ENVOY_LOG_LEVEL=info"}})
	defer func() {
		if err := s.Process.Kill(); err != nil { // it would go on beside other tests
			t.Error(err)
		}
		if err := control.Kill(); err != nil {
			t.Error(err)
		}
	}()
	url := fmt.Sprintf("http://%s:%d/", shop, appPort)
	is := func(what, connection, source string) {
		t.Helper()
		began := time.Now()
		m.until(what, func(ctx context.Context) bool {
			status, err := s.AgentStatus(ctx)
			return err == nil && status["managementServerConnectionStatus"] == connection && status["configurationSource"] == source
		})
		t.Logf("%s: after %v", what, time.Since(began).Round(time.Millisecond))
	}
	// back starts the control plane and waits until the agent is content; it may have nothing to say of that but good.
	back := func(t *testing.T) {
		t.Helper()
		logged := len(read(t, s.Process.Log()))
		if err := control.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		ready := time.Now()
		is("connected again", "CONNECTED", "CONTROL_PLANE")
		// Envoy tries again every second, the agent every 10 s at least.
		if took := time.Since(ready); took > 15*time.Second {
			t.Errorf("the agent said so %v after the control plane was ready", took)
		}
		if n, err := control.Metric(t.Context(), "evermesh_xds_responses_total"); err != nil || n != 0 {
			t.Errorf("the control plane sent %v responses, %v; it had nothing to send", n, err)
		}
		lines := strings.Split(strings.TrimSpace(read(t, s.Process.Log())[logged:]), "\n")
		connected := false
		for _, line := range lines {
			connected = connected || strings.Contains(line, " connected ")
			if connected && (strings.Contains(line, "[warning]") || strings.Contains(line, "[error]")) {
				t.Errorf("the log says %q", line)
			}
		}
		if !connected {
			t.Errorf("the log does not say that the agent is connected: %q", lines)
		}
		if a := ask(t, client, request{URL: url}); a.App != "blue" {
			t.Errorf("%d %s", a.Status, a.Body)
		}
	}
	is("connected at first", "CONNECTED", "CONTROL_PLANE")
	m.until("Envoy has had it for a while", func(ctx context.Context) bool { n, err := s.Stat(ctx, "server.uptime"); return err == nil && n >= 3 })

	t.Run("EMS-008 EMS-049 AGENT-037 it is restarted, and nothing has changed", func(t *testing.T) {
		if err := control.Kill(); err != nil {
			t.Fatal(err)
		}
		is("not connected", "NOT_CONNECTED", "")
		back(t)
		if n := m.stat(s, "control_plane.connected_state"); n != 1 {
			t.Errorf("Envoy's control_plane.connected_state is %d", n)
		}
	})
	t.Run("EMS-051 AGENT-037 the way back from the last good configuration, with nothing changed", func(t *testing.T) {
		if err := control.Kill(); err != nil {
			t.Fatal(err)
		}
		m.kill(s)
		is("Envoy runs on the last good configuration", "NOT_CONNECTED", "LAST_GOOD")
		m.until("it serves", func(ctx context.Context) bool {
			text, err := s.Admin(ctx, "/ready")
			return err == nil && strings.TrimSpace(text) == "LIVE"
		})
		back(t)
	})
	t.Run("EMS-008 a stream that ends as planned is no failure", func(t *testing.T) {
		logged := len(read(t, s.Process.Log()))
		ctx, cancel := m.context()
		defer cancel()
		if err := control.Stop(ctx); err != nil {
			t.Errorf("after SIGTERM: %v", err)
		}
		m.until("the stream has ended", func(context.Context) bool {
			return strings.Contains(read(t, s.Process.Log())[logged:], "stream ended")
		})
		for line := range strings.Lines(read(t, s.Process.Log())[logged:]) {
			if strings.Contains(line, "stream ended") && (!strings.Contains(line, "code=OK") || !strings.Contains(line, "[info]")) {
				t.Errorf("the log says %q", line)
			}
		}
		back(t)
	})
}

// TestPreflight has the program try the way to a real evermeshd, and name the step that fails.
func TestPreflight(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "preflight", "DROP_ALL")
	m.app("blue")
	m.create("VirtualNode", "client", callerSpec(m.service("shop", appPort, map[string]string{"r": weighted(noRetry, "blue", 1)})))
	s := m.sidecar(m.host("client"), stage.SidecarOptions{Resource: "client"})
	nobody := m.user("preflight-nobody")
	m.iam("", "DeleteUserPolicy", "UserName", "preflight-nobody", "PolicyName", "stream")
	host, port, _ := strings.Cut(m.control.XDSAddr, ":")
	for _, test := range []struct {
		name string
		env  []string
		says []string // nil for success
	}{
		{"the node's own variables", nil, nil},
		{"an ARN", []string{"APPMESH_RESOURCE_ARN=arn:aws:appmesh:" + m.control.Region + ":" + m.control.Account + ":mesh/preflight/virtualNode/client"}, nil},
		{"two endpoints of which one serves", []string{"APPMESH_XDS_ENDPOINT=https://" + host + ":1," + m.control.XDS}, nil},
		{"TRBL-002 a name without an address", []string{"APPMESH_XDS_ENDPOINT=https://nowhere.preflight.local:" + port}, []string{"DNS failed", "nowhere.preflight.local"}},
		{"TRBL-002 a port where nobody listens", []string{"APPMESH_XDS_ENDPOINT=https://" + host + ":1"}, []string{"TCP failed", "connection refused"}},
		{"TRBL-002 a CA that is not the server's", []string{"APPMESH_XDS_CA_FILE="}, []string{"TLS failed", "APPMESH_XDS_CA_FILE"}},
		{"plaintext where TLS is", []string{"APPMESH_XDS_ENDPOINT=http://" + m.control.XDSAddr}, []string{"xDS failed", "https://"}},
		{"TRBL-002 a key that nobody has", []string{"AWS_ACCESS_KEY_ID=AKIANOBODY", "AWS_SECRET_ACCESS_KEY=s"}, []string{"credentials failed", "code 16"}},
		{"TRBL-002 a key with another secret", []string{"AWS_SECRET_ACCESS_KEY=another"}, []string{"credentials failed", "code 16"}},
		{"TRBL-002 no credentials", []string{"AWS_ACCESS_KEY_ID=", "AWS_SECRET_ACCESS_KEY="}, []string{"credentials failed", "code 16", "not signed"}},
		{"TRBL-002 a user without the permission", nobody, []string{"permission failed", "code 7", "appmesh:StreamAggregatedResources"}},
		{"TRBL-002 no such node", []string{"APPMESH_RESOURCE_ARN=mesh/preflight/virtualNode/nobody"}, []string{"resource failed", "code 3"}},
		{"no such mesh", []string{"APPMESH_RESOURCE_ARN=mesh/nowhere/virtualNode/client"}, []string{"resource failed", "code 3"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			ctx, cancel := m.context()
			defer cancel()
			out, err := s.Run(ctx, test.env, "preflight", "--timeout", "20s")
			if (err == nil) != (test.says == nil) {
				t.Errorf("ended with %v", err)
			}
			if test.says == nil && !strings.Contains(out, m.control.XDS+": serves") {
				t.Errorf("says %q", out)
			}
			for _, word := range test.says {
				if !strings.Contains(out, word) {
					t.Errorf("says %q, and not %q", out, word)
				}
			}
		})
	}
	if n := m.stat(s, "control_plane.connected_state"); n != 1 {
		t.Error("the proxy has lost its stream")
	}
}
