package mesh_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
)

// TestSharedServicesAreThoseResolvedAnew resolves every view over random edits,
// in which things appear, go, and change what provides them: what snapshots that
// came from one another share is what each would resolve alone. Old snapshots
// are asked in between, also such as nobody followed.
func TestSharedServicesAreThoseResolvedAnew(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld()
		type moment struct {
			snapshot  *mesh.Snapshot
			resources []*api.Resource
		}
		moments := []moment{{mesh.NewSnapshot(0, nil), nil}}
		for range rapid.IntRange(1, 20).Draw(t, "rounds") {
			newest := moments[len(moments)-1]
			if rapid.IntRange(0, 4).Draw(t, "aside") == 0 {
				// A change that never was, as of a plan.
				key := drawKey(t)
				from := newest.snapshot
				if rapid.Bool().Draw(t, "apart") {
					from = from.Apart()
				}
				aside := from.Apply(99, []api.Change{{Key: key, New: &api.Resource{Key: key, Spec: drawSpec(t, key.Kind)}}})
				for _, c := range w.clients() {
					aside.View(c)
				}
			}
			changes := w.edit(t)
			if rapid.IntRange(0, 9).Draw(t, "all") == 0 {
				for _, key := range slices.Collect(maps.Keys(w.resources)) {
					changes = append(changes, w.remove(key))
				}
			}
			moments = append(moments, moment{newest.snapshot.Apply(w.revision, changes), w.all()})
			for _, m := range []moment{moments[len(moments)-1], rapid.SampledFrom(moments).Draw(t, "moment")} {
				anew := mesh.NewSnapshot(m.snapshot.Revision(), m.resources)
				for _, c := range w.clients() {
					if rapid.IntRange(0, 3).Draw(t, "skip") == 0 {
						continue // so that services are remembered from several revisions
					}
					view, problems, _ := m.snapshot.View(c)
					wanted, problemsWanted, _ := anew.View(c)
					if diff := cmp.Diff(outline(wanted, problemsWanted), outline(view, problems)); diff != "" {
						t.Fatalf("%v at revision %d: resolved anew (-) and with what is shared (+):\n%s", c.Key, m.snapshot.Revision(), diff)
					}
				}
			}
		}
	})
}

// TestIndexIsThatBuiltAnew keeps an index over random edits and compares what it
// says of every key with an index that never saw anything else.
func TestIndexIsThatBuiltAnew(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld()
		snapshot := mesh.NewSnapshot(0, nil)
		index := mesh.NewIndex()
		connected := map[mesh.Client]bool{}
		set := func(c mesh.Client) {
			_, _, reads := snapshot.View(c)
			index.Set(c, reads)
		}
		for range rapid.IntRange(1, 20).Draw(t, "rounds") {
			changes := w.edit(t)
			snapshot = snapshot.Apply(w.revision, changes)
			for _, c := range index.Affected(changes) {
				set(c)
			}
			c := rapid.SampledFrom(w.clients()).Draw(t, "client")
			if connected[c] = !connected[c]; connected[c] {
				set(c)
			} else {
				index.Remove(c)
			}
			anew := mesh.NewIndex()
			for c, is := range connected {
				if is {
					_, _, reads := mesh.NewSnapshot(0, w.all()).View(c)
					anew.Set(c, reads)
				}
			}
			for _, key := range everyKey() {
				if diff := cmp.Diff(affected(anew, key), affected(index, key)); diff != "" {
					t.Fatalf("who is affected by %s: built anew (-) and kept (+):\n%s", key, diff)
				}
			}
		}
	})
}

func affected(x *mesh.Index, key api.Key) string {
	var names []string
	for _, c := range x.Affected([]api.Change{{Key: key}}) {
		names = append(names, c.Key.String())
	}
	slices.Sort(names)
	return strings.Join(names, "\n")
}

// everyKey are all that drawKey may draw.
func everyKey() []api.Key {
	out := []api.Key{worldKey(api.KindMesh, "", "")}
	for i := range 4 {
		out = append(out, worldKey(api.KindVirtualNode, "", fmt.Sprint("n", i)), worldKey(api.KindVirtualService, "", fmt.Sprint("s", i)))
	}
	for i := range 3 {
		out = append(out, worldKey(api.KindVirtualRouter, "", fmt.Sprint("r", i)))
		for j := range 2 {
			out = append(out, worldKey(api.KindRoute, fmt.Sprint("r", i), fmt.Sprint("x", j)))
		}
	}
	for i := range 2 {
		out = append(out, worldKey(api.KindVirtualGateway, "", fmt.Sprint("g", i)))
		for j := range 2 {
			out = append(out, worldKey(api.KindGatewayRoute, fmt.Sprint("g", i), fmt.Sprint("x", j)))
		}
	}
	return out
}

// TestServicesAreResolvedOnce looks at which services two clients share, before
// and after a change of one of them.
func TestServicesAreResolvedOnce(t *testing.T) {
	resources, clients, route := town(10, 3)
	snapshot := mesh.NewSnapshot(1, resources)
	services := func() map[*mesh.Service]bool {
		out := map[*mesh.Service]bool{}
		for _, c := range clients {
			view, _, _ := snapshot.View(c)
			for _, b := range view.Backends {
				out[b.Service] = true
			}
		}
		return out
	}
	before := services()
	if len(before) != len(clients) {
		t.Errorf("%d services were resolved for %d", len(before), len(clients))
	}
	for _, change := range []struct {
		name string
		key  api.Key
		spec any
		anew int
	}{
		{"a route", route, weights("s0", "s1", 7), 1},
		{"a node that two services lead to", worldKey(api.KindVirtualNode, "", "s3"), &api.VirtualNodeSpec{}, 2},
		{"something that no service reads", worldKey(api.KindVirtualNode, "", "other"), &api.VirtualNodeSpec{}, 0},
		{"the mesh", worldKey(api.KindMesh, "", ""), &api.MeshSpec{}, 0},
	} {
		snapshot = snapshot.Apply(snapshot.Revision()+1, []api.Change{{Key: change.key, New: &api.Resource{Key: change.key, Spec: change.spec}}})
		after, anew := services(), 0
		for s := range after {
			if !before[s] {
				anew++
			}
		}
		if anew != change.anew || len(after) > len(clients) {
			t.Errorf("%s: %d services were resolved anew, want %d; there are %d", change.name, anew, change.anew, len(after))
		}
		before = after
	}
}

// TestAChangeLeavesOtherServicesAlone counts the services that nobody has to
// look at again after a change, and those that are forgotten.
func TestAChangeLeavesOtherServicesAlone(t *testing.T) {
	resources, clients, route := town(10, 3)
	snapshot := mesh.NewSnapshot(1, resources)
	look := func(s *mesh.Snapshot) {
		for _, c := range clients {
			s.View(c)
		}
	}
	look(snapshot)
	apply := func(changes ...api.Change) *mesh.Snapshot {
		return snapshot.Apply(snapshot.Revision()+1, changes)
	}
	change := func(key api.Key, spec any) api.Change {
		return api.Change{Key: key, New: &api.Resource{Key: key, Spec: spec}}
	}
	service, router := worldKey(api.KindVirtualService, "", "s3"), worldKey(api.KindVirtualRouter, "", "s4")
	for _, step := range []struct {
		name              string
		changes           []api.Change
		services, holding int
	}{
		{"a route", []api.Change{change(route, weights("s0", "s1", 7))}, 10, 9},
		{"a route and a node of two services", []api.Change{change(route, weights("s0", "s1", 8)), change(worldKey(api.KindVirtualNode, "", "s5"), &api.VirtualNodeSpec{})}, 10, 7},
		{"a router goes", []api.Change{{Key: router}}, 10, 9},
		{"a router comes back", []api.Change{change(router, &api.VirtualRouterSpec{})}, 10, 9},
		{"a new route of it", []api.Change{change(worldKey(api.KindRoute, "s4", "more"), weights("s0", "none", 1))}, 10, 9},
		{"the node that it named in vain", []api.Change{change(worldKey(api.KindVirtualNode, "", "none"), &api.VirtualNodeSpec{})}, 10, 9},
		{"nothing that was read", []api.Change{change(worldKey(api.KindVirtualNode, "", "other"), &api.VirtualNodeSpec{})}, 10, 10},
		{"a service goes", []api.Change{{Key: service}}, 9, 9},
	} {
		snapshot = apply(step.changes...)
		if services, holding := snapshot.Remembered(); services != step.services || holding != step.holding {
			t.Errorf("%s: %d services are remembered, %d hold; want %d, %d", step.name, services, holding, step.services, step.holding)
		}
		look(snapshot)
		if services, holding := snapshot.Remembered(); holding != services {
			t.Errorf("%s: looked at again, %d of %d services hold", step.name, holding, services)
		}
	}

	// What never was, as of a plan, costs the next look and no more.
	look(apply(api.Change{Key: route}))
	look(snapshot)
	snapshot = apply(change(route, weights("s0", "s1", 9)))
	look(snapshot)
	snapshot = apply(change(route, weights("s0", "s1", 10)))
	if services, holding := snapshot.Remembered(); holding != services-1 {
		t.Errorf("after a plan and two changes %d of %d services hold", holding, services)
	}

	var all []api.Change
	for _, r := range resources {
		if r.Key.Kind != api.KindMesh {
			all = append(all, api.Change{Key: r.Key})
		}
	}
	snapshot = apply(all...)
	if services, _ := snapshot.Remembered(); services != 0 || snapshot.Sources() != 0 {
		t.Errorf("of an empty mesh %d services from %d sources are remembered", services, snapshot.Sources())
	}
}

// TestWhatIsApartLeavesNothing looks at services that exist only apart: nothing of
// them is remembered with what is, and no service has to be looked at again.
func TestWhatIsApartLeavesNothing(t *testing.T) {
	resources, clients, route := town(10, 3)
	snapshot := mesh.NewSnapshot(1, resources)
	look := func(s *mesh.Snapshot) {
		for _, c := range clients {
			s.View(c)
		}
	}
	look(snapshot)
	services, sources := 10, snapshot.Sources()
	client := clients[0].Key
	for i := range 1000 {
		name := fmt.Sprint("thrown-away-", i)
		service := worldKey(api.KindVirtualService, "", name)
		aside := snapshot.Apart().Apply(1, []api.Change{
			{Key: service, New: &api.Resource{Key: service, Spec: &api.VirtualServiceSpec{Provider: &api.VirtualServiceProvider{
				VirtualNode: &api.VirtualNodeServiceProvider{VirtualNodeName: name},
			}}}},
			{Key: client, New: &api.Resource{Key: client, Spec: &api.VirtualNodeSpec{Backends: []api.Backend{
				{VirtualService: &api.VirtualServiceBackend{VirtualServiceName: name}},
			}}}},
		})
		if view, _, _ := aside.View(clients[0]); len(view.Backends) != 1 || view.Backends[0].Service.Key != service {
			t.Fatalf("%s is not seen apart", name)
		}
	}
	if got, holding := snapshot.Remembered(); got != services || holding != services || snapshot.Sources() != sources {
		t.Errorf("%d services from %d sources are remembered, %d hold; want %d, %d, all", got, snapshot.Sources(), holding, services, sources)
	}
	next := snapshot.Apply(2, []api.Change{{Key: route, New: &api.Resource{Key: route, Spec: weights("s0", "s1", 7)}}})
	if got, holding := next.Remembered(); got != services || holding != services-1 {
		t.Errorf("after the next change %d services are remembered, %d hold; want %d, %d", got, holding, services, services-1)
	}
}

// TestViewsInParallel resolves all views of an old and a new snapshot at once.
func TestViewsInParallel(t *testing.T) {
	resources, clients, route := town(20, 5)
	old := mesh.NewSnapshot(1, resources)
	change := &api.Resource{Key: route, Owner: worldOwner, Spec: weights("s0", "s1", 1)}
	now := old.Apply(2, []api.Change{{Key: route, New: change}})
	var all sync.WaitGroup
	for _, s := range []*mesh.Snapshot{old, now, old, now} {
		all.Go(func() {
			for _, c := range clients {
				view, _, _ := s.View(c)
				if got := view.Backends[0].Service.Router.Routes[0].Resource == change; got != (s == now) {
					t.Errorf("%v at revision %d has the change: %v", c.Key, s.Revision(), got)
				}
			}
		})
	}
	all.Wait()
}

// TestIndexOfManyClients lets more clients come and go than a small set holds.
func TestIndexOfManyClients(t *testing.T) {
	resources, clients, route := town(40, 3)
	snapshot := mesh.NewSnapshot(1, resources)
	rapid.Check(t, func(t *rapid.T) {
		index := mesh.NewIndex()
		here := map[mesh.Client]bool{}
		for range rapid.IntRange(1, 100).Draw(t, "steps") {
			c := rapid.SampledFrom(clients).Draw(t, "client")
			if rapid.IntRange(0, 3).Draw(t, "leaves") == 0 {
				index.Remove(c)
				delete(here, c)
			} else {
				_, _, reads := snapshot.View(c)
				index.Set(c, reads)
				here[c] = true
			}
			for _, key := range []api.Key{route, worldKey(api.KindMesh, "", "")} {
				got := index.Affected([]api.Change{{Key: key}})
				for _, c := range got {
					if !here[c] {
						t.Fatalf("%v is affected by %s and has left", c.Key, key)
					}
				}
				if len(got) != len(here) {
					t.Fatalf("%d clients are affected by %s, want %d", len(got), key, len(here))
				}
			}
		}
	})
}
