package properties

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"pgregory.net/rapid"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
	"github.com/evermesh/evermesh/internal/model"
)

const (
	account  = "111122223333"
	meshName = "m"
)

// world is a mesh as it is stored, and what writes to it.
type world struct {
	author   *author
	snapshot *mesh.Snapshot
	revision int64
	// lawless says that writes keep the model alone, and not the rules between
	// resources: as of a store that was restored, or written by another release.
	lawless bool
	traits  []mesh.Traits // that proxies have

	taken, refused map[string]int // writes by verb and type
}

func newWorld(m *model.Model) *world {
	return &world{author: newAuthor(m), snapshot: mesh.NewSnapshot(0, nil), taken: map[string]int{}, refused: map[string]int{}}
}

func key(kind api.Kind, parent, name string) api.Key {
	return api.Key{Owner: account, Mesh: meshName, Kind: kind, Parent: parent, Name: name}
}

// keys are all that there may be, parents before children and what is referred to
// before what refers to it.
func keys() []api.Key {
	out := []api.Key{key(api.KindMesh, "", meshName)}
	add := func(kind api.Kind, parents []string, names []string) {
		for _, p := range parents {
			for _, n := range names {
				out = append(out, key(kind, p, n))
			}
		}
	}
	none := []string{""}
	add(api.KindVirtualNode, none, nodeNames())
	add(api.KindVirtualRouter, none, routerNames())
	add(api.KindRoute, routerNames(), routeNames())
	add(api.KindVirtualService, none, serviceNames())
	add(api.KindVirtualGateway, none, gatewayNames())
	add(api.KindGatewayRoute, gatewayNames(), routeNames())
	return out
}

// clients are all that may have proxies, each with the traits of the history.
func (w *world) clients() []mesh.Client {
	var out []mesh.Client
	for _, k := range keys() {
		if k.Kind == api.KindVirtualNode || k.Kind == api.KindVirtualGateway {
			for _, traits := range w.traits {
				out = append(out, mesh.Client{Key: k, Traits: traits})
			}
		}
	}
	return out
}

// resources are all that is stored.
func (w *world) resources() []*api.Resource {
	var out []*api.Resource
	for _, k := range keys() {
		if r := w.snapshot.Get(k); r != nil {
			out = append(out, r)
		}
	}
	return out
}

// write makes a change as the API would; ok is false where it would refuse it.
func (w *world) write(t *rapid.T, k api.Key, doc map[string]any) (change api.Change, ok bool) {
	row, _ := k.Kind.Row()
	old := w.snapshot.Get(k)
	verb := "delete"
	change = api.Change{Key: k}
	if doc != nil {
		verb = "create"
		if found := w.author.m.Check(row.Type+"Spec", doc); len(found) > 0 {
			t.Fatalf("drawn against the model: %s\n%v", model.Message(found), doc)
		}
		text, err := json.Marshal(doc)
		if err != nil {
			t.Fatal(err)
		}
		spec, err := api.DecodeSpec(k.Kind, text)
		if err != nil {
			t.Fatal(err)
		}
		made := &api.Resource{Key: k, Owner: account, Created: time.Unix(w.revision/3, 0), Version: 1}
		if old != nil {
			verb = "update"
			again := *old
			made = &again
			made.Version++
		}
		made.Document, made.Spec, made.Revision = text, spec, w.revision+1
		change.New = made
	}
	if doc == nil && old == nil {
		return change, false
	}
	if err := mesh.Check(w.snapshot, old, change.New); err != nil && !w.lawless {
		w.refused[verb+" "+row.Type]++
		return change, false
	}
	w.taken[verb+" "+row.Type]++
	w.revision++
	w.snapshot = w.snapshot.Apply(w.revision, []api.Change{change})
	return change, true
}

// fill writes most of what there may be; what is refused is written otherwise.
func (w *world) fill(t *rapid.T) {
	for _, k := range keys() {
		if k.Kind != api.KindMesh && seldom(t, "absent") {
			continue
		}
		for range 4 {
			if _, ok := w.write(t, k, w.author.spec(t, k.Kind)); ok {
				break
			}
		}
	}
}

// seldom is true one time in eight. (What rapid draws from a range is mostly what
// stands first in it.)
func seldom(t *rapid.T, what string) bool {
	all := true
	for range 3 {
		all = rapid.Bool().Draw(t, what) && all
	}
	return all
}

// edit changes or removes one resource, if the API would; now and then it removes
// before it what refers to it.
func (w *world) edit(t *rapid.T) []api.Change {
	kinds := []api.Kind{api.KindVirtualService, api.KindVirtualNode, api.KindVirtualRouter, api.KindRoute, api.KindVirtualGateway, api.KindGatewayRoute}
	if seldom(t, "the mesh") {
		kinds = []api.Kind{api.KindMesh} // which all look at: seldom, as it hides what they would miss
	}
	kind := rapid.SampledFrom(kinds).Draw(t, "kind")
	k := rapid.SampledFrom(slices.DeleteFunc(keys(), func(k api.Key) bool { return k.Kind != kind })).Draw(t, "key")
	if !rapid.Bool().Draw(t, "delete") || !rapid.Bool().Draw(t, "really") {
		if c, ok := w.write(t, k, w.author.spec(t, k.Kind)); ok {
			return []api.Change{c}
		}
		return nil
	}
	if k.Kind != api.KindMesh && rapid.Bool().Draw(t, "what refers to it first") {
		return w.clear(t, k)
	}
	if c, ok := w.write(t, k, nil); ok {
		return []api.Change{c}
	}
	return nil
}

// clear removes a resource, before it what refers to it or is under it.
func (w *world) clear(t *rapid.T, k api.Key) []api.Change {
	var out []api.Change
	name, err := json.Marshal(k.Name)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range w.resources() {
		parent, _ := r.Key.ParentKey()
		// What refers to a resource is of a later kind than it.
		refers := orderOf(r.Key.Kind) > orderOf(k.Kind) && bytes.Contains(r.Document, name)
		if w.snapshot.Get(r.Key) != nil && (parent == k || refers) {
			out = append(out, w.clear(t, r.Key)...)
		}
	}
	if c, ok := w.write(t, k, nil); ok {
		out = append(out, c)
	}
	return out
}

// orderOf is a kind's place in the table of kinds.
func orderOf(kind api.Kind) int {
	return slices.IndexFunc(api.Kinds(), func(row api.KindRow) bool { return row.Kind == kind })
}

// String is the world as a golden's resources are written.
func (w *world) String() string {
	var out strings.Builder
	for _, r := range w.resources() {
		if r.Key.Kind == api.KindMesh && string(r.Document) == "{}" {
			continue
		}
		fmt.Fprintf(&out, "- kind: %s\n", r.Key.Kind)
		if r.Key.Parent != "" {
			fmt.Fprintf(&out, "  parent: %q\n", r.Key.Parent)
		}
		fmt.Fprintf(&out, "  name: %q\n  spec: %s\n", r.Key.Name, r.Document)
	}
	return out.String()
}
