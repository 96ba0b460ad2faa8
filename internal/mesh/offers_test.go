package mesh_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
)

// Views show nodes as they are offered, and name those that are not as stored.
func TestViewsShowOffers(t *testing.T) {
	n := listening("n", "9090 http")
	resources := []*api.Resource{
		made(api.KindMesh, "", "", &api.MeshSpec{}), n, calling("front", "web"), calling("bystander"),
		made(api.KindVirtualService, "", "web", &api.VirtualServiceSpec{Provider: &api.VirtualServiceProvider{VirtualRouter: &api.VirtualRouterServiceProvider{VirtualRouterName: "r"}}}),
		made(api.KindVirtualRouter, "", "r", &api.VirtualRouterSpec{}),
		made(api.KindRoute, "r", "all", &api.RouteSpec{HTTPRoute: &api.HTTPRoute{Action: api.HTTPRouteAction{WeightedTargets: []api.WeightedTarget{{VirtualNode: "n", Weight: 1}}}}}),
	}
	stored := mesh.NewSnapshot(1, resources)
	turn := mesh.Turn{Goal: listening("n", "8080 http")}.To(n)
	view := func(s *mesh.Snapshot, name string) *mesh.View {
		v, _, _ := s.View(mesh.Client{Key: worldKey(api.KindVirtualNode, "", name)})
		return v
	}
	target := func(s *mesh.Snapshot) *api.Resource {
		return view(s, "front").Backends[0].Service.Router.Routes[0].Targets[0]
	}
	before := view(stored, "front")
	for _, step := range []struct {
		name              string
		offers            map[api.Key]mesh.Offer
		seen, own         *api.Resource
		heldFront, heldIt bool
	}{
		{"entering", map[api.Key]mesh.Offer{n.Key: turn.Offer}, turn.Seen, turn.Own, true, true},
		{"entering, and nothing leaves", map[api.Key]mesh.Offer{n.Key: {Seen: turn.Seen}}, turn.Seen, n, true, false},
		{"leaving", map[api.Key]mesh.Offer{n.Key: turn.Next().Offer}, n, turn.Own, false, true},
		{"at rest", nil, n, n, false, false},
	} {
		s := stored.WithOffers(mesh.Offers{Nodes: step.offers})
		if got := target(s); got != step.seen {
			t.Errorf("%s: a client sees %q, want %q", step.name, heard(got), heard(step.seen))
		}
		if got := view(s, "n").Node; got != step.own {
			t.Errorf("%s: its proxies get %q, want %q", step.name, heard(got), heard(step.own))
		}
		if got := view(s, "n").Listeners(); got != 1 {
			t.Errorf("%s: it counts as a node of %d listeners, want as stored", step.name, got)
		}
		for name, want := range map[string]bool{"front": step.heldFront, "n": step.heldIt, "bystander": false} {
			if held := view(s, name).Held; slices.Contains(held, n.Key) != want || len(held) > 1 {
				t.Errorf("%s: the view of %s holds %v", step.name, name, held)
			}
		}
		if equal := view(s, "front").Equal(before); equal != (step.seen == n) {
			t.Errorf("%s: the view is equal to that of what is stored: %v", step.name, equal)
		}
		for name, want := range map[string][]*api.Resource{"front": {step.seen}, "n": nil, "bystander": nil} {
			if got := slices.Collect(view(s, name).Targets()); !slices.Equal(got, want) {
				t.Errorf("%s: the view of %s leads to %d nodes, want %d", step.name, name, len(got), len(want))
			}
		}
	}
	if got := target(stored); got != n {
		t.Error("the snapshot itself shows something else now")
	}
	if next := stored.Apply(2, []api.Change{{Key: n.Key, New: listening("n", "7070 http")}}).WithOffers(mesh.Offers{Nodes: map[api.Key]mesh.Offer{n.Key: turn.Offer}}); target(next) != turn.Seen {
		t.Error("a later snapshot does not show the offer")
	}
}

// A router's routes stay as they were while one of them leads to a port that its
// node has not offered yet.
func TestRoutesWait(t *testing.T) {
	router := worldKey(api.KindVirtualRouter, "", "r")
	to := func(name string, port int64) *api.Resource {
		target := api.WeightedTarget{VirtualNode: "n", Weight: 1}
		if port > 0 {
			target.Port = &port
		}
		return made(api.KindRoute, "r", name, &api.RouteSpec{HTTPRoute: &api.HTTPRoute{Action: api.HTTPRouteAction{WeightedTargets: []api.WeightedTarget{target}}}})
	}
	n := listening("n", "8080 http", "9090 http")
	nodes := map[api.Key]mesh.Offer{n.Key: mesh.Turn{Goal: listening("n", "8080 http")}.To(n).Offer}
	for port, want := range map[int64]bool{0: false, 8080: false, 9090: true, 7070: false} {
		s := mesh.NewSnapshot(1, []*api.Resource{n, to("a", 8080), to("b", port)})
		if got := s.Awaits(router, nodes); got != want {
			t.Errorf("a route to port %d awaits it: %v", port, got)
		}
		if s.Awaits(router, nil) || s.Awaits(worldKey(api.KindVirtualRouter, "", "other"), nodes) {
			t.Errorf("a route to port %d awaits somebody else", port)
		}
	}
	if gone := mesh.NewSnapshot(1, []*api.Resource{to("b", 9090)}); gone.Awaits(router, nodes) {
		t.Error("a route awaits a node that is gone")
	}

	was, is, same, more := to("a", 8080), to("a", 9090), to("same", 0), to("more", 8080)
	stored := mesh.NewSnapshot(1, []*api.Resource{
		made(api.KindMesh, "", "", &api.MeshSpec{}), n, calling("front", "web"), calling("bystander"),
		made(api.KindVirtualService, "", "web", &api.VirtualServiceSpec{Provider: &api.VirtualServiceProvider{VirtualRouter: &api.VirtualRouterServiceProvider{VirtualRouterName: "r"}}}),
		made(api.KindVirtualRouter, "", "r", &api.VirtualRouterSpec{}), is, same, more,
	})
	shown := stored.WithOffers(mesh.Offers{Nodes: nodes, Routes: map[api.Key][]*api.Resource{router: {was, same}}})
	view, _, _ := shown.View(mesh.Client{Key: worldKey(api.KindVirtualNode, "", "front")})
	var got []*api.Resource
	for _, r := range view.Backends[0].Service.Router.Routes {
		got = append(got, r.Resource)
	}
	if !slices.Equal(got, []*api.Resource{was, same}) {
		t.Errorf("%d routes are shown, want the two of before", len(got))
	}
	if want := []api.Key{is.Key, more.Key, n.Key}; !slices.Equal(view.Held, want) {
		t.Errorf("the view holds %v, want %v", view.Held, want)
	}
	if view, _, _ := shown.View(mesh.Client{Key: worldKey(api.KindVirtualNode, "", "bystander")}); len(view.Held) != 0 {
		t.Errorf("the view of a bystander holds %v", view.Held)
	}
	if view, _, _ := stored.View(mesh.Client{Key: worldKey(api.KindVirtualNode, "", "front")}); len(view.Backends[0].Service.Router.Routes) != 3 {
		t.Error("the snapshot itself shows something else now")
	}
}

// A service waits for all ports of its provider, and for what its router waits for.
func TestServicesWait(t *testing.T) {
	n := listening("n", "8080 http", "9090 http")
	port := int64(9090)
	route := made(api.KindRoute, "r", "all", &api.RouteSpec{HTTPRoute: &api.HTTPRoute{Action: api.HTTPRouteAction{WeightedTargets: []api.WeightedTarget{{VirtualNode: "n", Weight: 1, Port: &port}}}}})
	service := func(name string, p *api.VirtualServiceProvider) *api.Resource {
		return made(api.KindVirtualService, "", name, &api.VirtualServiceSpec{Provider: p})
	}
	node := &api.VirtualServiceProvider{VirtualNode: &api.VirtualNodeServiceProvider{VirtualNodeName: "n"}}
	router := &api.VirtualServiceProvider{VirtualRouter: &api.VirtualRouterServiceProvider{VirtualRouterName: "r"}}
	other := &api.VirtualServiceProvider{VirtualNode: &api.VirtualNodeServiceProvider{VirtualNodeName: "other"}}
	s := mesh.NewSnapshot(1, []*api.Resource{n, route, service("node", node), service("router", router), service("other", other), service("nobody", nil)})
	for _, from := range []string{"8080 http", "9090 http", "9090 http, 8080 http STRICT"} {
		nodes := map[api.Key]mesh.Offer{n.Key: mesh.Turn{Goal: listening("n", strings.Split(from, ", ")...)}.To(n).Offer}
		for name, want := range map[string]bool{"node": !strings.Contains(from, ","), "router": from == "8080 http", "other": false, "nobody": false, "none": false} {
			if got := s.AwaitsProvider(worldKey(api.KindVirtualService, "", name), nodes); got != want {
				t.Errorf("from %s, service %s awaits its provider: %v", from, name, got)
			}
		}
	}
	if s.AwaitsProvider(worldKey(api.KindVirtualService, "", "node"), nil) {
		t.Error("a service awaits a node at rest")
	}
}

// A node is kept with the ports of before, and as a whole when it is gone.
func TestKeeping(t *testing.T) {
	before := listening("n", "8080 http", "9090 http")
	for _, test := range []struct{ now, want string }{
		{"9191 http", "9191 http, 8080 http, 9090 http"},
		{"9090 http STRICT", "9090 http STRICT, 8080 http"},
	} {
		now := listening("n", test.now)
		if got := heard(mesh.Keeping(now, before)); got != test.want || heard(now) != test.now {
			t.Errorf("%s is kept as %q, want %q", test.now, got, test.want)
		}
	}
	if more := listening("n", "9090 tcp", "8080 http", "1 http"); mesh.Keeping(more, before) != more {
		t.Error("a node that has all its ports is another")
	}
	if mesh.Keeping(nil, before) != before {
		t.Error("a node that is gone is not kept")
	}
}

// What is offered is what a snapshot of just that would show, whoever has looked at
// which snapshot before: what is remembered of services holds for both.
func TestOffersAreWhatASnapshotOfThemWouldShow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld()
		stored := mesh.NewSnapshot(0, nil)
		for range rapid.IntRange(1, 12).Draw(t, "batches") {
			stored = stored.Apply(w.revision, w.edit(t))
			offers := mesh.Offers{Nodes: map[api.Key]mesh.Offer{}, Routes: map[api.Key][]*api.Resource{}, Providers: map[api.Key]*api.Resource{}}
			shown := maps.Clone(w.resources)
			for i := range 4 {
				key := worldKey(api.KindVirtualNode, "", fmt.Sprint("n", i))
				if rapid.IntRange(0, 3).Draw(t, "offered") > 0 {
					continue
				}
				seen := &api.Resource{Key: key, Spec: &api.VirtualNodeSpec{}} // it is gone
				if r := w.resources[key]; r != nil {
					*seen = *r
				}
				offers.Nodes[key], shown[key] = mesh.Offer{Seen: seen}, seen
			}
			for _, key := range []api.Key{worldKey(api.KindVirtualService, "", drawName(t, "s", 4)), worldKey(api.KindVirtualRouter, "", drawName(t, "r", 3))} {
				if rapid.Bool().Draw(t, "kept") {
					was := &api.Resource{Key: key, Spec: drawSpec(t, key.Kind)}
					offers.Providers[key], shown[key] = was, was
				}
			}
			for i := range 3 {
				router := worldKey(api.KindVirtualRouter, "", fmt.Sprint("r", i))
				if rapid.IntRange(0, 3).Draw(t, "waits") > 0 {
					continue
				}
				for _, r := range stored.List(api.KindRoute, router) {
					delete(shown, r.Key)
				}
				var list []*api.Resource
				if rapid.Bool().Draw(t, "has a route") {
					key := worldKey(api.KindRoute, router.Name, "x0")
					list = append(list, &api.Resource{Key: key, Spec: drawSpec(t, api.KindRoute)})
					shown[key] = list[0]
				}
				offers.Routes[router] = list
			}
			offered := stored.WithOffers(offers)
			world := &world{resources: shown}
			alone := mesh.NewSnapshot(0, world.all())
			for _, c := range w.clients() {
				if rapid.Bool().Draw(t, "look at what is stored") {
					stored.View(c)
				}
				view, problems, _ := offered.View(c)
				if c.Key.Kind == api.KindVirtualNode && w.resources[c.Key] == nil {
					if view != nil {
						t.Fatalf("%v is gone and gets something", c)
					}
					continue
				}
				want, wantProblems, _ := alone.View(c)
				if view != nil && view.Node != nil {
					// Its own proxies get what is stored; the rest is others'.
					if view.Node != w.resources[c.Key] {
						t.Fatalf("%v gets what clients see of it", c)
					}
					own, of := *want, *view
					own.Node, of.Node = nil, nil // outlines need no more
					want, view = &own, &of
				}
				if got, want := outline(view, problems), outline(want, wantProblems); got != want {
					t.Fatalf("%v sees\n%swant\n%s", c, got, want)
				}
			}
		}
	})
}
