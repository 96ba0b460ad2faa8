//go:build linux

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/test/stage"
)

// TestDefaultRetrySwitch turns App Mesh's default retry policy off and on again.
func TestDefaultRetrySwitch(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "switch", "DROP_ALL")
	m.app("blue")
	service := m.service("shop", appPort, map[string]string{"rest": to("blue", `{"prefix": "/"}`)})
	m.create("VirtualNode", "client", callerSpec(service))
	client := m.host("client")
	m.sidecar(client, stage.SidecarOptions{Resource: "client"})
	failsOnce := func(id string) int {
		return ask(t, client, request{URL: fmt.Sprintf("http://%s:%d/", service, appPort), Header: map[string]string{"X-Fail": id + ",1"}}).Status
	}
	set := func(to string) {
		ctx, cancel := m.context()
		defer cancel()
		if err := m.control.Evermesh.Call(ctx, "UpdateMeshSettings", map[string]any{"meshName": m.name, "defaultRetry": to}, nil); err != nil {
			t.Fatal(err)
		}
		arn := fmt.Sprintf("arn:aws:appmesh:%s:%s:mesh/%s", m.control.Region, m.control.Account, m.name)
		m.settle(arn)
	}
	for n, step := range []struct {
		name, set string
		want      int
	}{
		{"EMS-040 it is on by default", "", http.StatusOK},
		{"EMS-040 a mesh may do without", "OFF", http.StatusServiceUnavailable},
		{"EMS-040 and have it again", "ON", http.StatusOK},
	} {
		t.Run(step.name, func(t *testing.T) {
			if step.set != "" {
				set(step.set)
			}
			if got := failsOnce(fmt.Sprint(n)); got != step.want {
				t.Errorf("a request that fails once is answered %d, want %d", got, step.want)
			}
		})
	}
}

// TestRenamedStatistics gives a node a second listener, after asking what that does.
func TestRenamedStatistics(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "renamed", "DROP_ALL")
	h := m.program("server")
	m.create("VirtualNode", "server", m.nodeSpec("server"))
	s := m.sidecar(h, stage.SidecarOptions{Resource: "server", AppPorts: fmt.Sprint(appPort)})
	visitor := m.host("visitor")
	two := strings.Replace(m.nodeSpec("server"), `"listeners": [`, `"listeners": [{"portMapping": {"port": 9999, "protocol": "http"}}, `, 1)
	use := func() {
		ask(t, visitor, request{URL: fmt.Sprintf("http://%s:%d/", m.hostname("server"), appPort)})
	}
	use()
	was, is := "http.ingress.downstream_rq_2xx", fmt.Sprintf("http.ingress.http.%d.downstream_rq_2xx", appPort)
	if m.stat(s, was) == 0 || m.stat(s, is) > 0 {
		t.Fatalf("with one listener %s is %d and %s is %d", was, m.stat(s, was), is, m.stat(s, is))
	}
	t.Run("EMS-030 a plan says which statistics are renamed", func(t *testing.T) {
		ctx, cancel := m.context()
		defer cancel()
		var out api.PlanOutput
		input := fmt.Sprintf(`{"meshName": %q, "virtualNodeName": "server", "spec": %s}`, m.name, two)
		if err := m.control.Evermesh.Call(ctx, "Plan", map[string]any{"changes": []any{map[string]any{"kind": "virtualNode", "input": input}}}, &out); err != nil {
			t.Fatal(err)
		}
		var effects []string
		for _, p := range out.Plan.Proxies {
			for _, c := range p.Configurations {
				effects = append(effects, c.Effects...)
			}
		}
		if want := fmt.Sprintf("statistics are renamed: http.ingress becomes http.ingress.http.%d", appPort); !slices.Contains(effects, want) {
			t.Errorf("the plan says %q, want %q", effects, want)
		}
	})
	t.Run("EMS-030 OBS-022 and so they are", func(t *testing.T) {
		m.settle(m.update("VirtualNode", "server", two))
		before := m.stat(s, was)
		use()
		if m.stat(s, is) == 0 || m.stat(s, was) != before {
			t.Errorf("%s is %d and %s is %d, and was %d", is, m.stat(s, is), was, m.stat(s, was), before)
		}
	})
}

// TestGatewayRouteSamples has what the guide's samples of gateway routes get wrong.
func TestGatewayRouteSamples(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "samples", "DROP_ALL")
	m.app("blue")
	service := m.service("shop", appPort, map[string]string{"rest": to("blue", `{"prefix": "/"}`)})
	m.create("VirtualGateway", "gatewayName", `{"listeners": [{"portMapping": {"port": 8088, "protocol": "http"}}]}`)
	gate, outside := m.host("gate"), m.host("outside")
	m.sidecar(gate, stage.SidecarOptions{Resource: "mesh/samples/virtualGateway/gatewayName", Alone: true})
	status := func() string { return reach(t, outside, fmt.Sprintf("http://%s:8088/", m.hostname("gate")), "") }
	if got := status(); got != "404" {
		t.Fatalf("without a gateway route: %s", got)
	}
	spec := toService(service, `{"prefix": "/"}`, "")
	ctx, cancel := m.context()
	defer cancel()
	var out api.CreateGatewayRouteOutput
	err := m.control.Evermesh.Call(ctx, "CreateGatewayRoute", map[string]any{
		"meshName": m.name, "virtualGatewayName": "gatewayName", "gatewayRouteName": "rest", "spec": raw(t, spec),
	}, &out)
	if err != nil {
		t.Fatal(err)
	}
	made := out.GatewayRoute
	m.settle(made.Metadata.ARN)
	t.Run("GR-003 create-gateway-route makes a gateway route, by which Envoy serves", func(t *testing.T) {
		if got := status(); got != "blue" {
			t.Errorf("%s, want blue", got)
		}
	})
	t.Run("GR-004 it is of the gateway that was given", func(t *testing.T) {
		if made.VirtualGatewayName != "gatewayName" || made.GatewayRouteName != "rest" {
			t.Errorf("it is %s of %s", made.GatewayRouteName, made.VirtualGatewayName)
		}
	})
	t.Run("GR-020 its owner is the mesh's", func(t *testing.T) {
		if made.Metadata.MeshOwner != m.control.Account || made.Metadata.ResourceOwner != m.control.Account {
			t.Errorf("mesh of %s, resource of %s", made.Metadata.MeshOwner, made.Metadata.ResourceOwner)
		}
	})
}

// raw is a JSON document as the client takes it.
func raw(t *testing.T, text string) map[string]any {
	t.Helper()
	var out map[string]any
	if err := json.Unmarshal([]byte(text), &out); err != nil {
		t.Fatal(err)
	}
	return out
}
