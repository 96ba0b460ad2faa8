package envoy_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/envoy"
	"github.com/evermesh/evermesh/internal/mesh"
)

// changing is a client whose bundle is built again after every change.
type changing struct {
	t        *testing.T
	builder  envoy.Builder
	client   mesh.Client
	snapshot *mesh.Snapshot
	bundle   *envoy.Bundle
}

func newChanging(t *testing.T, backends int) *changing {
	resources, client, _ := shop(backends)
	c := &changing{t: t, client: client, snapshot: mesh.NewSnapshot(1, resources)}
	c.put()
	return c
}

// put applies changes and builds.
func (c *changing) put(resources ...*api.Resource) {
	c.t.Helper()
	changes := make([]api.Change, len(resources))
	for i, r := range resources {
		changes[i] = api.Change{Key: r.Key, New: r}
	}
	c.snapshot = c.snapshot.Apply(c.snapshot.Revision()+1, changes)
	view, _, _ := c.snapshot.View(c.client)
	c.bundle, _ = c.builder.Build(view, c.bundle)
}

// targets are the clusters that a service's requests go to.
func (c *changing) targets(service string) []string {
	for _, r := range c.bundle.List(envoy.Route).Resources {
		for _, h := range r.Hosts {
			if h.Name == service {
				return h.Clusters
			}
		}
	}
	return nil
}

func provided(service string, p *api.VirtualServiceProvider) *api.Resource {
	return &api.Resource{Key: keyOf(api.KindVirtualService, "", service), Owner: account, Spec: &api.VirtualServiceSpec{Provider: p}}
}

func TestProvidersChange(t *testing.T) {
	byNode := &api.VirtualServiceProvider{VirtualNode: &api.VirtualNodeServiceProvider{VirtualNodeName: "s1-v1"}}
	byRouter := &api.VirtualServiceProvider{VirtualRouter: &api.VirtualRouterServiceProvider{VirtualRouterName: "s0"}}
	c := newChanging(t, 2)
	routed := []string{"cds_egress_colors_s0-v1_http_80", "cds_egress_colors_s0-v2_http_80"}
	for _, step := range []struct {
		name     string
		provider *api.VirtualServiceProvider
		want     []string
	}{
		{"VS-004 router to node", byNode, []string{"cds_egress_colors_s1-v1_http_80"}},
		{"VS-004 node to router", byRouter, routed},
		{"VS-004 router to none", nil, nil},
		{"VS-003 none to router", byRouter, routed},
	} {
		t.Run(step.name, func(t *testing.T) {
			c.put(provided("s0", step.provider))
			if got := c.targets("s0"); !slices.Equal(got, step.want) {
				t.Errorf("requests go to %v, want %v", got, step.want)
			}
			for _, name := range step.want {
				if c.bundle.List(envoy.Cluster).Get(name) == nil {
					t.Errorf("cluster %s is missing", name)
				}
			}
		})
	}
}

func TestVN_031_DiscoveryNameChanges(t *testing.T) {
	c := newChanging(t, 1)
	const name = "cds_egress_colors_s0-v1_http_80"
	routes := c.bundle.List(envoy.Route)
	host := func() string { return hostOf(cluster(t, c.bundle, name)) }
	if host() != "s0-v1.local" {
		t.Fatalf("resolves %s", host())
	}
	node := c.snapshot.Get(keyOf(api.KindVirtualNode, "", "s0-v1")).VirtualNodeSpec()
	c.put(&api.Resource{Key: keyOf(api.KindVirtualNode, "", "s0-v1"), Owner: account, Spec: &api.VirtualNodeSpec{
		Listeners: node.Listeners, ServiceDiscovery: &api.ServiceDiscovery{DNS: &api.DNSServiceDiscovery{Hostname: "moved.example.com"}},
	}})
	if host() != "moved.example.com" {
		t.Errorf("resolves %s after the change", host())
	}
	if c.bundle.List(envoy.Route).Hash != routes.Hash {
		t.Error("the routes changed with the name")
	}
}

func TestMESH_005_EgressFilterChanges(t *testing.T) {
	c := newChanging(t, 1)
	passes := func() bool {
		return c.bundle.List(envoy.Cluster).Get("cds_egress_colors_mesh-allow-all") != nil
	}
	if passes() {
		t.Fatal("passes other traffic on without a filter")
	}
	filter := func(f api.EgressFilterType) *api.Resource {
		return &api.Resource{Key: keyOf(api.KindMesh, "", ""), Owner: account, Spec: &api.MeshSpec{EgressFilter: &api.EgressFilter{Type: f}}}
	}
	c.put(filter(api.EgressFilterTypeAllowAll))
	if !passes() {
		t.Error("does not pass other traffic on under ALLOW_ALL")
	}
	c.put(filter(api.EgressFilterTypeDropAll))
	if passes() {
		t.Error("passes other traffic on under DROP_ALL")
	}
}

// TestMESH_001_MeshesAreApart puts a second mesh with equal names beside the
// first: the client gets nothing of it.
func TestMESH_001_MeshesAreApart(t *testing.T) {
	c := newChanging(t, 1)
	before := content(c.bundle, nil)
	resources, _, _ := shop(1)
	for _, r := range resources {
		other := *r
		other.Key.Mesh = "other"
		if other.Key.Kind == api.KindMesh {
			other.Key.Name = "other"
		}
		other.Spec, _ = api.DecodeSpec(r.Key.Kind, []byte("{}"))
		c.put(&other)
	}
	if after := content(c.bundle, nil); !slices.Equal(before, after) {
		t.Errorf("the other mesh changed the client's configuration:\n%s", strings.Join(after, "\n"))
	}
}

// TestVG_024_GatewaysGetWhatTheirRoutesLeadTo adds and removes a gateway route.
func TestVG_024_GatewaysGetWhatTheirRoutesLeadTo(t *testing.T) {
	c := newChanging(t, 2)
	c.client, c.bundle = mesh.Client{Key: keyOf(api.KindVirtualGateway, "", "g")}, nil
	prefix := "/"
	route := &api.Resource{Key: keyOf(api.KindGatewayRoute, "g", "x"), Owner: account, Spec: &api.GatewayRouteSpec{HTTPRoute: &api.HTTPGatewayRoute{
		Match:  api.HTTPGatewayRouteMatch{Prefix: &prefix},
		Action: api.HTTPGatewayRouteAction{Target: api.GatewayRouteTarget{VirtualService: api.GatewayRouteVirtualService{VirtualServiceName: "s0"}}},
	}}}
	names := func() (out []string) {
		for _, r := range c.bundle.List(envoy.Cluster).Resources {
			out = append(out, r.Name)
		}
		return out
	}
	alone := []string{"cds_ingress_colors_g_self_redirect_http_15001"}
	c.put(&api.Resource{Key: c.client.Key, Owner: account, Spec: &api.VirtualGatewaySpec{Listeners: []api.VirtualGatewayListener{
		{PortMapping: api.VirtualGatewayPortMapping{Port: 8080, Protocol: api.VirtualGatewayPortProtocolHTTP}},
	}}})
	if got := names(); !slices.Equal(got, alone) {
		t.Errorf("without routes the clusters are %v", got)
	}
	c.put(route)
	if got := names(); !slices.Equal(got, append([]string{"cds_egress_colors_s0-v1_http_80", "cds_egress_colors_s0-v2_http_80"}, alone...)) {
		t.Errorf("with a route to s0 the clusters are %v", got)
	}
	if got := c.targets("s0"); len(got) != 2 {
		t.Errorf("requests go to %v", got)
	}
	c.snapshot = c.snapshot.Apply(c.snapshot.Revision()+1, []api.Change{{Key: route.Key}})
	c.put()
	if got := names(); !slices.Equal(got, alone) {
		t.Errorf("after the route has gone the clusters are %v", got)
	}
}

// Two tcp services want a port; the second gets it when the first is deleted, and
// what is counted bears its name.
func TestThePortGoesToAnotherService(t *testing.T) {
	t.Parallel()
	var resources []*api.Resource
	add := func(kind api.Kind, parent, name string, spec any) *api.Resource {
		r := &api.Resource{Key: keyOf(kind, parent, name), Owner: account, Spec: spec}
		resources = append(resources, r)
		return r
	}
	add(api.KindMesh, "", "", &api.MeshSpec{})
	tcp := api.PortMapping{Port: 3306, Protocol: api.PortProtocolTCP}
	add(api.KindVirtualNode, "", "db", &api.VirtualNodeSpec{
		Listeners: []api.Listener{{PortMapping: tcp}}, ServiceDiscovery: &api.ServiceDiscovery{DNS: &api.DNSServiceDiscovery{Hostname: "db.local"}},
	})
	front := &api.VirtualNodeSpec{}
	for _, n := range []string{"a.local", "b.local"} {
		front.Backends = append(front.Backends, api.Backend{VirtualService: &api.VirtualServiceBackend{VirtualServiceName: n}})
		add(api.KindVirtualService, "", n, &api.VirtualServiceSpec{Provider: &api.VirtualServiceProvider{VirtualNode: &api.VirtualNodeServiceProvider{VirtualNodeName: "db"}}})
	}
	add(api.KindVirtualNode, "", "front", front)
	s := mesh.NewSnapshot(1, resources)
	client := mesh.Client{Key: keyOf(api.KindVirtualNode, "", "front"), Traits: mesh.Traits{Metrics: true}}
	b := &envoy.Builder{}
	v, _, _ := s.View(client)
	first, _ := b.Build(v, nil)
	s = s.Apply(2, []api.Change{{Key: keyOf(api.KindVirtualService, "", "a.local")}})
	v, _, _ = s.View(client)
	second, p := b.Build(v, first)
	fresh, q := new(envoy.Builder).Build(v, nil)
	if diff := cmp.Diff(content(fresh, q), content(second, p)); diff != "" {
		t.Errorf("-fresh +incremental\n%s", diff)
	}
}
