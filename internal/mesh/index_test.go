package mesh_test

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
)

// TestIndexFindsEveryChangedView compares the index, over random edits, with
// resolving every client's view from a snapshot that is built anew.
func TestIndexFindsEveryChangedView(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld()
		snapshot := mesh.NewSnapshot(0, nil)
		index := mesh.NewIndex()
		before := map[mesh.Client]string{}
		views := map[mesh.Client]*mesh.View{}
		for _, c := range w.clients() {
			view, problems, reads := snapshot.View(c)
			before[c], views[c] = outline(view, problems), view
			index.Set(c, reads)
		}
		for range rapid.IntRange(1, 30).Draw(t, "edits") {
			changes := w.edit(t)
			snapshot = snapshot.Apply(w.revision, changes)
			full := mesh.NewSnapshot(w.revision, w.all())
			affected := index.Affected(changes)
			for _, c := range w.clients() {
				view, problems, _ := full.View(c)
				now := outline(view, problems)
				if now != before[c] && !contains(affected, c) {
					t.Fatalf("the view of %v changed and the index does not know:\n%s\n%s", c.Key, before[c], now)
				}
				if same := now == before[c]; view != nil && views[c] != nil && view.Equal(views[c]) != same {
					t.Fatalf("Equal is %v for views of %v that are:\n%s\n%s", !same, c.Key, before[c], now)
				}
				applied, found, reads := snapshot.View(c)
				if got := outline(applied, found); got != now {
					t.Fatalf("the applied snapshot gives %v another view than one built anew:\n%s\n%s", c.Key, got, now)
				}
				before[c], views[c] = now, view
				if contains(affected, c) {
					index.Set(c, reads)
				}
			}
		}
	})
}

// TestIndexIsExact edits one resource of a fixed mesh and names exactly the
// clients that have read it.
func TestIndexIsExact(t *testing.T) {
	w := newWorld()
	node := func(name string, backends ...string) {
		spec := &api.VirtualNodeSpec{}
		for _, b := range backends {
			spec.Backends = append(spec.Backends, api.Backend{VirtualService: &api.VirtualServiceBackend{VirtualServiceName: b}})
		}
		w.put(worldKey(api.KindVirtualNode, "", name), spec)
	}
	node("n0", "s0")
	node("n1", "s1")
	node("n2", "absent")
	node("n3")
	w.put(worldKey(api.KindVirtualService, "", "s0"), &api.VirtualServiceSpec{Provider: &api.VirtualServiceProvider{
		VirtualRouter: &api.VirtualRouterServiceProvider{VirtualRouterName: "r0"},
	}})
	w.put(worldKey(api.KindVirtualService, "", "s1"), &api.VirtualServiceSpec{Provider: &api.VirtualServiceProvider{
		VirtualNode: &api.VirtualNodeServiceProvider{VirtualNodeName: "n3"},
	}})
	w.put(worldKey(api.KindVirtualRouter, "", "r0"), &api.VirtualRouterSpec{})
	w.put(worldKey(api.KindRoute, "r0", "x0"), &api.RouteSpec{HTTPRoute: &api.HTTPRoute{Action: api.HTTPRouteAction{
		WeightedTargets: []api.WeightedTarget{{VirtualNode: "n3", Weight: 1}, {VirtualNode: "absent", Weight: 1}},
	}}})
	w.put(worldKey(api.KindVirtualGateway, "", "g0"), &api.VirtualGatewaySpec{})
	snapshot := mesh.NewSnapshot(1, w.all())
	index := mesh.NewIndex()
	for _, c := range w.clients() {
		_, _, reads := snapshot.View(c)
		index.Set(c, reads)
	}
	for _, test := range []struct {
		name string
		key  api.Key
		want []string
	}{
		{"a route's weights", worldKey(api.KindRoute, "r0", "x0"), []string{"n0"}},
		{"a new route", worldKey(api.KindRoute, "r0", "new"), []string{"n0"}},
		{"a route of a router that nobody reads", worldKey(api.KindRoute, "r1", "x0"), nil},
		{"a target", worldKey(api.KindVirtualNode, "", "n3"), []string{"n0", "n1", "n3"}},
		{"a target that does not exist", worldKey(api.KindVirtualNode, "", "absent"), []string{"n0"}},
		{"a backend that does not exist", worldKey(api.KindVirtualService, "", "absent"), []string{"n2"}},
		{"a gateway's new route", worldKey(api.KindGatewayRoute, "g0", "new"), []string{"g0"}},
		{"a gateway that does not exist yet", worldKey(api.KindVirtualGateway, "", "g1"), []string{"g1"}},
		{"the mesh", worldKey(api.KindMesh, "", ""), []string{"n0", "n1", "n2", "n3", "g0"}},
		{"a service that nobody reads", worldKey(api.KindVirtualService, "", "s3"), nil},
		{"an equal name of another account", api.Key{Owner: "999999999999", Mesh: "m", Kind: api.KindVirtualNode, Name: "n0"}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := map[string]bool{}
			for _, c := range index.Affected([]api.Change{{Key: test.key}}) {
				got[c.Key.Name] = true
			}
			for _, name := range test.want {
				if !got[name] {
					t.Errorf("%s is not affected", name)
				}
				delete(got, name)
			}
			for name := range got {
				t.Errorf("%s is affected, and reads nothing of it", name)
			}
		})
	}
	t.Run("a client that left", func(t *testing.T) {
		index.Remove(w.clients()[0])
		if got := index.Affected([]api.Change{{Key: worldKey(api.KindRoute, "r0", "x0")}}); len(got) != 0 {
			t.Errorf("still affected: %v", got)
		}
	})
}
