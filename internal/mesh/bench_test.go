package mesh_test

import (
	"fmt"
	"testing"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
)

// town is n nodes with a routed service each; every node calls k of them, and
// all call the first.
func town(n, k int) (resources []*api.Resource, clients []mesh.Client, route api.Key) {
	listener := api.PortMapping{Port: 80, Protocol: api.PortProtocolHTTP}
	add := func(kind api.Kind, parent, name string, spec any) {
		resources = append(resources, &api.Resource{Key: worldKey(kind, parent, name), Owner: worldOwner, Spec: spec})
	}
	add(api.KindMesh, "", "", &api.MeshSpec{})
	for i := range n {
		name := fmt.Sprint("s", i)
		spec := &api.VirtualNodeSpec{Listeners: []api.Listener{{PortMapping: listener}}}
		for j := range k {
			to := "s0"
			if j > 0 {
				to = fmt.Sprint("s", (i+7*j)%n)
			}
			spec.Backends = append(spec.Backends, api.Backend{VirtualService: &api.VirtualServiceBackend{VirtualServiceName: to}})
		}
		add(api.KindVirtualNode, "", name, spec)
		add(api.KindVirtualService, "", name, &api.VirtualServiceSpec{Provider: &api.VirtualServiceProvider{VirtualRouter: &api.VirtualRouterServiceProvider{VirtualRouterName: name}}})
		add(api.KindVirtualRouter, "", name, &api.VirtualRouterSpec{Listeners: []api.VirtualRouterListener{{PortMapping: listener}}})
		add(api.KindRoute, name, "main", weights(name, fmt.Sprint("s", (i+1)%n), 50))
		clients = append(clients, mesh.Client{Key: worldKey(api.KindVirtualNode, "", name)})
	}
	return resources, clients, worldKey(api.KindRoute, "s0", "main")
}

func weights(first, second string, weight int64) *api.RouteSpec {
	prefix := "/"
	return &api.RouteSpec{HTTPRoute: &api.HTTPRoute{
		Match: api.HTTPRouteMatch{Prefix: &prefix},
		Action: api.HTTPRouteAction{WeightedTargets: []api.WeightedTarget{
			{VirtualNode: first, Weight: weight}, {VirtualNode: second, Weight: 100 - weight},
		}},
	}}
}

// BenchmarkWideChange changes a route that 1,000 clients of 20 backends read:
// Apply, Affected, and View and Index.Set of each.
func BenchmarkWideChange(b *testing.B) {
	resources, clients, route := town(1000, 20)
	snapshot := mesh.NewSnapshot(1, resources)
	index := mesh.NewIndex()
	views := make(map[mesh.Client]*mesh.View, len(clients))
	for _, c := range clients {
		view, _, reads := snapshot.View(c)
		index.Set(c, reads)
		views[c] = view
	}
	weight := int64(0)
	b.ReportAllocs()
	for b.Loop() {
		weight = (weight + 1) % 100
		change := api.Change{Key: route, New: &api.Resource{Key: route, Owner: worldOwner, Spec: weights("s0", "s1", weight)}}
		snapshot = snapshot.Apply(snapshot.Revision()+1, []api.Change{change})
		affected := index.Affected([]api.Change{change})
		if len(affected) != len(clients) {
			b.Fatalf("%d clients are affected", len(affected))
		}
		for _, c := range affected {
			view, _, reads := snapshot.View(c)
			if view.Equal(views[c]) {
				b.Fatal("a view did not change")
			}
			views[c] = view
			index.Set(c, reads)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(clients)), "ns/client")
}

// BenchmarkView is the view of a client of 20 backends, none of which changed.
func BenchmarkView(b *testing.B) {
	resources, clients, _ := town(1000, 20)
	snapshot := mesh.NewSnapshot(1, resources)
	i := 0
	b.ReportAllocs()
	for b.Loop() {
		snapshot.View(clients[i%len(clients)])
		i++
	}
}

// BenchmarkNarrowChange changes a route that one client of 20 backends reads,
// among 1,000: Apply, Affected, and the view and Index.Set of that one and of 19
// others.
func BenchmarkNarrowChange(b *testing.B) {
	resources, clients, _ := town(1000, 20)
	snapshot := mesh.NewSnapshot(1, resources)
	for _, c := range clients {
		snapshot.View(c)
	}
	route := worldKey(api.KindRoute, "s999", "main")
	weight := int64(0)
	b.ReportAllocs()
	for b.Loop() {
		weight = (weight + 1) % 100
		change := api.Change{Key: route, New: &api.Resource{Key: route, Owner: worldOwner, Spec: weights("s0", "s1", weight)}}
		snapshot = snapshot.Apply(snapshot.Revision()+1, []api.Change{change})
		for i := range 20 {
			snapshot.View(clients[(int(weight)*31+i*37)%len(clients)])
		}
	}
}
