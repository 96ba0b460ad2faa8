package main

import (
	"strings"
	"testing"

	"github.com/evermesh/evermesh/internal/ads/adstest"
	"github.com/evermesh/evermesh/internal/api"
)

// A plan is of the proxies that are connected, to whichever replica: those without
// interception have other listeners.
func TestPlanKnowsTheConnectedProxies(t *testing.T) {
	t.Parallel()
	e, key := newEtcd(t).start(t), masterKey(t)
	replica := func() *plane {
		return start(t, t.TempDir(), "--auth", "off", "--etcd-endpoints", e.endpoint, "--master-key-file", key)
	}
	first, second := replica(), replica()
	call := func(operation string, in map[string]any) {
		t.Helper()
		if err := first.call(t.Context(), operation, in, nil); err != nil {
			t.Fatal(err)
		}
	}
	listener := []any{map[string]any{"portMapping": map[string]any{"port": 8080, "protocol": "http"}}}
	call("CreateMesh", map[string]any{"meshName": "shop"})
	call("CreateVirtualNode", map[string]any{"meshName": "shop", "virtualNodeName": "web", "spec": map[string]any{"listeners": listener, "serviceDiscovery": map[string]any{"dns": map[string]any{"hostname": "web.local"}}}})
	connect := func(p *plane, instance, ingress string) {
		t.Helper()
		adstest.Connect(t, adstest.Dial(t, p.xds(t)), adstest.Options{Node: "mesh/shop/virtualNode/web", Instance: instance, Delta: true, Ingress: ingress})
		first.known(t, instance)
	}
	planned := func() string {
		t.Helper()
		var out api.PlanOutput
		if err := first.call(t.Context(), "Plan", map[string]any{"changes": []any{map[string]any{"kind": "virtualNode", "input": `{"meshName": "shop", "virtualNodeName": "web",
			"spec": {"listeners": [{"portMapping": {"port": 9090, "protocol": "http"}}], "serviceDiscovery": {"dns": {"hostname": "web.local"}}}}`}}}, &out); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, p := range out.Plan.Proxies {
			line := strings.Join(p.Traits, " ") + ":"
			for _, c := range p.Configurations {
				if c.Type == api.DiscoveryTypeListener {
					line += " " + string(c.Action) + " " + c.Name
				}
			}
			got = append(got, line)
		}
		return strings.Join(got, "\n")
	}
	const redirected = ": UPDATE lds_ingress_0.0.0.0_15000"
	if got := planned(); got != redirected {
		t.Errorf("without a proxy:\n%s", got)
	}
	connect(second, "direct", "10.0.0.7")
	const direct = "interception none 10.0.0.7: DELETE lds_ingress_10.0.0.7_8080 CREATE lds_ingress_10.0.0.7_9090"
	if got := planned(); got != direct {
		t.Errorf("with one at the other replica that has no interception:\n%s", got)
	}
	connect(first, "redirected", "")
	if got := planned(); got != redirected+"\n"+direct {
		t.Errorf("with one of each:\n%s", got)
	}
}
