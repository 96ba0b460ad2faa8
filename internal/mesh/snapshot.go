package mesh

import (
	"iter"
	"maps"
	"slices"
	"strings"

	"github.com/evermesh/evermesh/internal/api"
)

// Snapshot is every resource at one revision. It is immutable: Apply makes
// another one that shares with this one all that did not change.
type Snapshot struct {
	revision int64
	meshes   map[scope]*tables

	// Of WithOffers; nil of what Apply makes.
	stored  *Snapshot // which is shown
	offers  map[api.Key]Offer
	waiting map[api.Key][]api.Key // of routers: the routes that are not as stored
	// providers are the services and routers that are not as stored.
	providers map[api.Key]*api.Resource
}

// scope is one mesh of one account.
type scope struct{ owner, mesh string }

// tables holds a mesh, each kind in a table of its own. A change copies the
// tables that it touches.
type tables struct {
	mesh  *api.Resource
	kinds [nested + 1]table
	memo  *memo // of the mesh's services; shared with the snapshots before and after
}

// table holds the resources of a kind: per parent's name, sorted by name. A
// change copies one of those short lists and the shelf that it is on, so that
// its work does not grow with the mesh.
type table struct {
	generation uint64 // another one with every change
	shelves    *[shelves]shelf
}

// shelf are the lists of those parents whose names come to its number.
type shelf map[string][]*api.Resource

const shelves = 64

// shelved is the number of a parent's shelf: FNV-1a's.
func shelved(parent string) uint32 {
	n := uint32(2166136261)
	for i := range len(parent) {
		n = (n ^ uint32(parent[i])) * 16777619
	}
	return n % shelves
}

// list is what is under a parent.
func (t *table) list(parent string) []*api.Resource {
	if t.shelves == nil {
		return nil
	}
	return t.shelves[shelved(parent)][parent]
}

// each gives all resources of the table, in no order; false when nobody wants more.
func (t *table) each(yield func(*api.Resource) bool) bool {
	if t.shelves == nil {
		return true
	}
	for _, on := range t.shelves {
		for _, list := range on {
			for _, r := range list {
				if !yield(r) {
					return false
				}
			}
		}
	}
	return true
}

func (t *table) empty() bool {
	return t.shelves == nil || !slices.ContainsFunc(t.shelves[:], func(s shelf) bool { return len(s) > 0 })
}

// The places of the kinds in tables.
const (
	nodes = iota
	services
	routers
	routes
	gateways
	nested
)

// place is where resources of a kind are in tables; ok is false for a mesh.
func place(kind api.Kind) (i int, ok bool) {
	switch kind {
	case api.KindVirtualNode:
		return nodes, true
	case api.KindVirtualService:
		return services, true
	case api.KindVirtualRouter:
		return routers, true
	case api.KindRoute:
		return routes, true
	case api.KindVirtualGateway:
		return gateways, true
	case api.KindGatewayRoute:
		return nested, true
	}
	return 0, false
}

func newTables() *tables { return &tables{memo: newMemo()} }

func (t *tables) empty() bool {
	return t.mesh == nil && !slices.ContainsFunc(t.kinds[:], func(k table) bool { return !k.empty() })
}

// NewSnapshot makes the snapshot of a store that holds these resources at the
// revision. Of several resources with one key the last counts.
func NewSnapshot(revision int64, resources []*api.Resource) *Snapshot {
	s := &Snapshot{revision: revision, meshes: map[scope]*tables{}}
	for _, r := range resources {
		at := scope{r.Key.Owner, r.Key.Mesh}
		t := s.meshes[at]
		if t == nil {
			t = newTables()
			s.meshes[at] = t
		}
		if r.Key.Kind == api.KindMesh {
			t.mesh = r
			continue
		}
		if i, ok := place(r.Key.Kind); ok {
			k := &t.kinds[i]
			if k.shelves == nil {
				k.shelves, k.generation = &[shelves]shelf{}, t.memo.generation()
			}
			on := &k.shelves[shelved(r.Key.Parent)]
			if *on == nil {
				*on = shelf{}
			}
			(*on)[r.Key.Parent] = append((*on)[r.Key.Parent], r)
		}
	}
	for _, t := range s.meshes {
		for _, k := range t.kinds {
			if k.shelves == nil {
				continue
			}
			for _, on := range k.shelves {
				for name, list := range on {
					on[name] = sorted(list)
				}
			}
		}
		t.identify()
	}
	return s
}

// sorted sorts by name and keeps the last of equal names.
func sorted(list []*api.Resource) []*api.Resource {
	slices.SortStableFunc(list, byName)
	out := list[:0]
	for i, r := range list {
		if i+1 < len(list) && list[i+1].Key.Name == r.Key.Name {
			continue
		}
		out = append(out, r)
	}
	return slices.Clip(out)
}

func byName(a, b *api.Resource) int { return strings.Compare(a.Key.Name, b.Key.Name) }

// Apply returns the snapshot at a later revision in which the changes have
// happened, in their order. The receiver stays as it is.
func (s *Snapshot) Apply(revision int64, changes []api.Change) *Snapshot {
	if len(changes) == 0 {
		return &Snapshot{revision: revision, meshes: s.meshes}
	}
	next := &Snapshot{revision: revision, meshes: maps.Clone(s.meshes)}
	mine := map[scope]*copied{}
	for _, c := range changes {
		at := scope{c.Key.Owner, c.Key.Mesh}
		t := next.meshes[at]
		switch {
		case t == nil && c.New == nil:
			continue
		case t == nil:
			t = newTables()
			mine[at] = &copied{}
		case mine[at] == nil:
			clone := *t
			t = &clone
			mine[at] = &copied{}
		}
		mine[at].changes = append(mine[at].changes, c)
		next.meshes[at] = t
		if i, ok := place(c.Key.Kind); !ok {
			before := identityMode(t.mesh)
			if t.mesh = c.New; identityMode(t.mesh) != before {
				if more := t.identify(); len(more) > 0 {
					mine[at].kinds[nodes], t.kinds[nodes].generation = true, t.memo.generation()
					mine[at].changes = append(mine[at].changes, more...)
				}
			}
		} else {
			k := &t.kinds[i]
			if i == nodes && c.New != nil {
				c.New = acting(c.New, identityMode(t.mesh))
			}
			if !mine[at].kinds[i] {
				mine[at].kinds[i] = true
				k.generation = t.memo.generation()
			}
			k.put(c)
		}
		if t.empty() {
			delete(next.meshes, at)
		}
	}
	for at, copied := range mine {
		if then, now := s.meshes[at], next.meshes[at]; then != nil && now != nil && then.memo == now.memo {
			now.memo.advance(then.stamp(), now.stamp(), copied.changes)
		}
	}
	return next
}

// Apart returns a snapshot of the same resources that remembers for itself what
// services resolve to. It is for snapshots of what never was, as of a plan: what
// is applied to it and looked at in it goes with it, and does not stay in what the
// snapshots share that follow the receiver.
func (s *Snapshot) Apart() *Snapshot {
	out := &Snapshot{revision: s.revision, meshes: make(map[scope]*tables, len(s.meshes))}
	for at, t := range s.meshes {
		clone := *t
		clone.memo = t.memo.apart()
		out.meshes[at] = &clone
	}
	return out
}

// copied is which tables of a mesh an Apply has copied already, and the changes
// that it made in them.
type copied struct {
	kinds   [nested + 1]bool
	changes []api.Change
}

// set replaces one short list by another; the shelves of other snapshots stay as
// they are.
func (t *table) set(parent string, list []*api.Resource) {
	var now [shelves]shelf
	if t.shelves != nil {
		now = *t.shelves
	}
	at := shelved(parent)
	on := maps.Clone(now[at])
	if on == nil {
		on = shelf{}
	}
	now[at], t.shelves = on, &now
	if on[parent] = list; len(list) == 0 {
		delete(on, parent)
	}
}

// put makes a change in one short list.
func (t *table) put(c api.Change) {
	list := t.list(c.Key.Parent)
	i, found := find(list, c.Key.Name)
	switch {
	case c.New == nil && !found:
	case c.New == nil:
		list = slices.Concat(list[:i], list[i+1:])
	case found:
		list = slices.Clone(list)
		list[i] = c.New
	default:
		list = slices.Concat(list[:i], []*api.Resource{c.New}, list[i:])
	}
	t.set(c.Key.Parent, list)
}

func find(list []*api.Resource, name string) (int, bool) {
	return slices.BinarySearchFunc(list, name, func(r *api.Resource, name string) int { return strings.Compare(r.Key.Name, name) })
}

// Revision is the store's revision that the snapshot shows.
func (s *Snapshot) Revision() int64 { return s.revision }

// Get returns the resource with that key, or nil.
func (s *Snapshot) Get(key api.Key) *api.Resource {
	t := s.meshes[scope{key.Owner, key.Mesh}]
	switch {
	case t == nil:
		return nil
	case key.Kind == api.KindMesh:
		return t.mesh
	}
	if i, ok := place(key.Kind); ok {
		return t.get(i, key.Parent, key.Name)
	}
	return nil
}

func (t *tables) get(place int, parent, name string) *api.Resource {
	list := t.kinds[place].list(parent)
	if i, ok := find(list, name); ok {
		return list[i]
	}
	return nil
}

// List returns the resources of a kind under a parent, sorted by name: under a
// mesh's key, or under a router's or gateway's. Meshes are listed under a key
// that names their owner. Callers do not change what they get.
func (s *Snapshot) List(kind api.Kind, parent api.Key) []*api.Resource {
	if kind == api.KindMesh {
		var out []*api.Resource
		for at, t := range s.meshes {
			if at.owner == parent.Owner && t.mesh != nil {
				out = append(out, t.mesh)
			}
		}
		slices.SortFunc(out, byName)
		return out
	}
	t := s.meshes[scope{parent.Owner, parent.Mesh}]
	if t == nil {
		return nil
	}
	name := ""
	if row, _ := kind.Row(); row.Nested() {
		name = parent.Name
	}
	if i, ok := place(kind); ok {
		return t.kinds[i].list(name)
	}
	return nil
}

// All are all resources, of all meshes, in no order. Callers do not change what they
// get.
func (s *Snapshot) All() iter.Seq[*api.Resource] {
	return func(yield func(*api.Resource) bool) {
		for _, t := range s.meshes {
			if t.mesh != nil && !yield(t.mesh) {
				return
			}
			for _, k := range t.kinds {
				if !k.each(yield) {
					return
				}
			}
		}
	}
}

// ServiceNames are the names of all virtual services, of all meshes, in no order; one
// may come more than once.
func (s *Snapshot) ServiceNames() iter.Seq[string] {
	return func(yield func(string) bool) {
		at, _ := place(api.KindVirtualService)
		for _, t := range s.meshes {
			for _, r := range t.kinds[at].list("") {
				if !yield(r.Key.Name) {
					return
				}
			}
		}
	}
}

// Find returns the key of the node or gateway that a proxy's node id means
// (D1). account is that of the proxy's principal: a short form without owner
// means a mesh of that account. An ARN without owner means the mesh of the
// ARN's account, or else the shared mesh in which that account owns a resource
// of that name.
func (s *Snapshot) Find(arn api.ARN, account string) (api.Key, bool) {
	if arn.Kind != api.KindVirtualNode && arn.Kind != api.KindVirtualGateway {
		return api.Key{}, false
	}
	key := arn.Key(account)
	if s.Get(key) != nil {
		return key, true
	}
	if arn.MeshOwner != "" || arn.Account == "" {
		return api.Key{}, false
	}
	var found []api.Key
	for at := range s.meshes {
		if at.mesh != arn.Mesh {
			continue
		}
		key.Owner = at.owner
		if r := s.Get(key); r != nil && r.Owner == arn.Account {
			found = append(found, key)
		}
	}
	if len(found) == 0 {
		return api.Key{}, false
	}
	// Two shared meshes of one name: the choice is at least always the same.
	return slices.MinFunc(found, func(a, b api.Key) int { return strings.Compare(a.Owner, b.Owner) }), true
}
