package main

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/evermesh/evermesh/internal/agent/agenttest"
	"github.com/evermesh/evermesh/internal/testenv"
	"github.com/evermesh/evermesh/test/ground"
)

// An agent whose own traffic is captured by interception, as it runs as a user that is not left out, says so; one that
// is left out needs nothing more.
func TestCapturedControlPlane(t *testing.T) {
	g := newGround(t)
	h, err := g.Host("captured")
	if err != nil {
		t.Fatal(err)
	}
	inNamespace(t, h, nil, append([]string{"APPMESH_START_ENABLED=1", "APPMESH_ENVOY_EGRESS_PORT=15001"}, g.Owner().Env()...), strings.NewReader(""))
	control := agenttest.NewControlPlane(t, net.JoinHostPort(g.Home().Addr().String(), "0"))
	start := func(name string, owner ground.Owner) *ground.Process {
		dir := filepath.Join(g.Dir(), name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(dir, int(owner.UID), int(owner.UID)); err != nil {
			t.Fatal(err)
		}
		env := []string{
			part + "=agent", "TMPDIR=" + dir, "HOME=" + dir, "ENVOY_PATH=" + tool(t, g, testenv.Envoy(t)), "APPMESH_RESOURCE_ARN=mesh/m/virtualNode/n", "AWS_REGION=us-east-1",
			"AWS_EC2_METADATA_DISABLED=true", "APPMESH_XDS_ENDPOINT=http://" + control.Addr, "ENVOY_CONCURRENCY=1",
			"ENVOY_ADMIN_MODE=tcp", "ENVOY_ADMIN_ACCESS_LOG_FILE=/dev/null", "ENVOY_OUTLIER_DETECTION_EVENT_LOG_PATH=/dev/null",
		}
		if owner.Mark != 0 {
			env = append(env, owner.Env()...)
		}
		p, err := h.Start(ground.Command{Name: name, Path: tool(t, g, "/proc/self/exe"), Env: env, UID: owner.UID})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	said := func(t *testing.T, p *ground.Process, words ...string) {
		t.Helper()
		testenv.Eventually(t, "the agent's log has a line with "+strings.Join(words, ", "), func() bool {
			text, err := os.ReadFile(p.Log())
			if err != nil {
				t.Fatal(err)
			}
		lines:
			for line := range strings.Lines(string(text)) {
				for _, w := range words {
					if !strings.Contains(line, w) {
						continue lines
					}
				}
				return true
			}
			return false
		})
	}
	t.Run("TRBL-002 captured, and nobody listens yet", func(t *testing.T) {
		p := start("root", ground.Owner{})
		said(t, p, "control plane does not answer", "step=TCP", "redirects the agent's own connection to a port where nobody listens yet", "the agent runs as uid 0", "1337")
		t.Run("captured by a listener", func(t *testing.T) {
			tell(t, h, ":15001", "not a control plane")
			said(t, p, "control plane does not answer", "step=TCP", "redirects the agent's own connection to port 15001", "the agent runs as uid 0")
		})
		if control.Count() != 0 {
			t.Error("the control plane was reached")
		}
		if err := p.Kill(); err != nil {
			t.Error(err)
		}
	})
	t.Run("left out by its user or mark", func(t *testing.T) {
		p := start("owner", g.Owner())
		said(t, p, "control plane connected", "endpoint=http://"+control.Addr)
		if control.Count() == 0 {
			t.Error("the control plane was not reached")
		}
	})
}
