package plan_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/envoy"
	"github.com/evermesh/evermesh/internal/loopback"
	"github.com/evermesh/evermesh/internal/mesh"
	"github.com/evermesh/evermesh/internal/plan"
)

// A plan tells what the connected proxies would get, each kind of them for itself.
func TestAPlanIsOfTheConnectedProxies(t *testing.T) {
	t.Parallel()
	const listener = `"listeners":[{"portMapping":{"port":8080,"protocol":"http"}}]`
	found := func(host string) string { return `,"serviceDiscovery":{"dns":{"hostname":"` + host + `"}}` }
	s := mesh.NewSnapshot(1, []*api.Resource{
		made(t, api.KindMesh, "", "m", `{}`),
		made(t, api.KindVirtualNode, "", "web", `{`+listener+found("web.local")+`}`),
		made(t, api.KindVirtualNode, "", "idle", `{`+listener+found("idle.local")+`}`),
		made(t, api.KindVirtualNode, "", "orders", `{`+listener+found("orders.local")+`}`),
		made(t, api.KindVirtualService, "", "orders.local", `{"provider":{"virtualNode":{"virtualNodeName":"orders"}}}`),
	})
	calls := `{` + listener + `,"backends":[{"virtualService":{"virtualServiceName":"orders.local"}}]`
	var changes []plan.Change
	for _, name := range []string{"web", "idle"} {
		now := made(t, api.KindVirtualNode, "", name, calls+found(name+".local")+`}`)
		changes = append(changes, plan.Change{Key: now.Key, Now: now})
	}
	web := changes[0].Key
	elsewhere := web
	elsewhere.Mesh = "other"
	var connected []mesh.Client
	for _, d := range []mesh.Direct{"none 10.0.0.9", "none 10.0.0.7", "none 10.0.0.8", "", "", "none 8080:18080"} {
		connected = append(connected, mesh.Client{Key: web, Traits: mesh.Traits{Direct: d, NoSDS: true}}, mesh.Client{Key: elsewhere, Traits: mesh.Traits{Direct: d}})
	}
	r, err := plan.On(t.Context(), s, mesh.Quotas{}, changes, connected...)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range r.Proxies {
		out := fmt.Sprintf("%d %s %q:", p.Connected, p.Client.Key.Name, p.Client.Traits.Direct)
		for _, c := range p.Configurations {
			if c.Type == api.DiscoveryTypeListener {
				out += " " + string(c.Action) + " " + c.Name()
			}
		}
		got = append(got, out)
	}
	at := loopback.Address("orders.local").String() + "_8080"
	if diff := cmp.Diff([]string{
		`0 idle "": UPDATE lds_egress_0.0.0.0_15001`,
		`2 web "": UPDATE lds_egress_0.0.0.0_15001`,
		`3 web "none 10.0.0.7": CREATE lds_egress_` + at,
		`1 web "none 8080:18080": CREATE lds_egress_` + at,
	}, got); diff != "" {
		t.Error(diff)
	}
	// What is told is what these proxies are sent.
	after := s
	for _, c := range changes {
		next := *s.Get(c.Key)
		next.Version++
		next.Document, next.Spec = c.Now.Document, c.Now.Spec
		after = after.Apply(2, []api.Change{{Key: c.Key, New: &next}})
	}
	for _, p := range r.Proxies {
		view, _, _ := after.View(p.Client)
		bundle, _ := new(envoy.Builder).Build(view, nil)
		for _, c := range p.Configurations {
			of := map[api.DiscoveryType]envoy.Type{api.DiscoveryTypeListener: envoy.Listener, api.DiscoveryTypeRoute: envoy.Route, api.DiscoveryTypeCluster: envoy.Cluster}[c.Type]
			if c.After == nil || !slices.ContainsFunc(bundle.List(of).Resources, func(x *envoy.Resource) bool { return x.Name == c.Name() && x.Hash == c.After.Hash }) {
				t.Errorf("%s, %q: it is sent no such %s %s", p.Client.Key.Name, p.Client.Traits.Direct, c.Type, c.Name())
			}
		}
	}
}
