package mesh

import (
	"maps"
	"slices"
	"strings"

	"github.com/evermesh/evermesh/internal/api"
)

// Offer is a virtual node whose listeners are on their way to what is stored
// (D6.3): a client uses nothing that some proxy of the node does not offer yet, and
// no proxy takes away what some client still uses. nil stands for what is stored.
type Offer struct {
	Seen *api.Resource // as clients see the node
	Own  *api.Resource // as the node's own proxies get it
}

// Offers are the nodes that are on their way, by key; mostly there are none.
type Offers map[api.Key]Offer

// WithOffers returns the snapshot whose views show these nodes as they are offered.
// Everything else of it, and of them, is the receiver's: so are Get and List, but
// for nodes, which are as clients see them.
func (s *Snapshot) WithOffers(offers Offers) *Snapshot {
	if len(offers) == 0 {
		return s
	}
	seen := map[scope]*copied{}
	for key, o := range offers {
		at := scope{key.Owner, key.Mesh}
		if o.Seen == nil || s.meshes[at] == nil {
			continue
		}
		if seen[at] == nil {
			seen[at] = &copied{}
		}
		seen[at].changes = append(seen[at].changes, api.Change{Key: key, New: o.Seen})
	}
	out := &Snapshot{revision: s.revision, meshes: maps.Clone(s.meshes), offers: offers}
	for at, now := range seen {
		clone := *s.meshes[at]
		clone.kinds[nodes].generation = clone.memo.generation()
		for _, c := range now.changes {
			clone.kinds[nodes].put(c)
		}
		clone.memo.advance(s.meshes[at].stamp(), clone.stamp(), now.changes)
		out.meshes[at] = &clone
	}
	return out
}

// own is the client's node or gateway as its own proxies get it.
func (s *Snapshot) own(key api.Key) *api.Resource {
	if o := s.offers[key]; o.Own != nil {
		return o.Own
	}
	return s.Get(key)
}

// held are the nodes that the view shows otherwise than they are stored, sorted.
func (s *Snapshot) held(v *View) []api.Key {
	var out []api.Key
	for key, o := range s.offers {
		if (o.Own != nil && v.Node == o.Own) || (o.Seen != nil && v.shows(o.Seen)) {
			out = append(out, key)
		}
	}
	slices.SortFunc(out, func(a, b api.Key) int { return strings.Compare(a.String(), b.String()) })
	return out
}

// shows says whether the node is where the client's services lead.
func (v *View) shows(node *api.Resource) bool {
	for s := range v.services() {
		if s.Node == node {
			return true
		}
		if s.Router != nil && slices.ContainsFunc(s.Router.Routes, func(r Route) bool { return slices.Contains(r.Targets, node) }) {
			return true
		}
	}
	return false
}

// Leads says whether the client's services lead to the node of that key.
func (v *View) Leads(to api.Key) bool {
	is := func(node *api.Resource) bool { return node != nil && node.Key == to }
	for s := range v.services() {
		if is(s.Node) || (s.Router != nil && slices.ContainsFunc(s.Router.Routes, func(r Route) bool { return slices.ContainsFunc(r.Targets, is) })) {
			return true
		}
	}
	return false
}

// services are those of the view; one may come twice.
func (v *View) services() func(yield func(*Service) bool) {
	return Reads{backends: v.Backends, routes: v.GatewayRoutes}.services()
}
