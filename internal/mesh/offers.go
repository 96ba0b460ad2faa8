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

// Offers are what views show otherwise than it is stored; mostly nothing.
type Offers struct {
	// Nodes are those that are on their way, by key.
	Nodes map[api.Key]Offer
	// Routes are those of routers, by the routers' keys, that wait for a node
	// (Awaits), as they were.
	Routes map[api.Key][]*api.Resource
}

// Awaits says whether one of the router's routes leads to a port of a node that its
// clients do not see yet. Without it they would find nothing there: they go on with
// the routes of before.
func (s *Snapshot) Awaits(router api.Key, nodes map[api.Key]Offer) bool {
	for _, route := range s.List(api.KindRoute, router) {
		for _, to := range weightedTargets(route.RouteSpec()) {
			key := router.In(api.KindVirtualNode, "", to.VirtualNode)
			seen, stored := nodes[key].Seen, s.Get(key)
			if seen != nil && to.Port != nil && on(listenersOf(seen), *to.Port) == nil &&
				stored.VirtualNodeSpec() != nil && on(listenersOf(stored), *to.Port) != nil {
				return true
			}
		}
	}
	return false
}

// WithOffers returns the snapshot whose views show nodes and routes as they are
// offered. Everything else of it is the receiver's; so are Get and List, but for
// those. Apply is for snapshots of what is stored.
func (s *Snapshot) WithOffers(offers Offers) *Snapshot {
	if len(offers.Nodes)+len(offers.Routes) == 0 {
		return s
	}
	out := &Snapshot{revision: s.revision, meshes: maps.Clone(s.meshes), stored: s, offers: offers.Nodes}
	shown := map[scope]*copied{}
	table := func(key api.Key, place int, c api.Change) *table {
		at := scope{key.Owner, key.Mesh}
		stored := s.meshes[at]
		if stored == nil {
			return nil
		}
		if shown[at] == nil {
			clone := *stored
			shown[at], out.meshes[at] = &copied{}, &clone
		}
		mine, t := shown[at], out.meshes[at]
		mine.changes = append(mine.changes, c)
		if !mine.kinds[place] {
			mine.kinds[place], t.kinds[place].generation = true, t.memo.generation()
		}
		return &t.kinds[place]
	}
	for key, o := range offers.Nodes {
		if o.Seen == nil {
			continue
		}
		c := api.Change{Key: key, New: o.Seen}
		if t := table(key, nodes, c); t != nil {
			t.put(c)
		}
	}
	for router, list := range offers.Routes {
		if t := table(router, routes, api.Change{Key: router.In(api.KindRoute, router.Name, "")}); t != nil {
			if out.waiting == nil {
				out.waiting = map[api.Key][]api.Key{}
			}
			out.waiting[router] = differing(t.list(router.Name), list)
			t.set(router.Name, list)
		}
	}
	for at, mine := range shown {
		now := out.meshes[at]
		now.memo.advance(s.meshes[at].stamp(), now.stamp(), mine.changes)
	}
	return out
}

// differing are the keys of what is in only one of two lists.
func differing(a, b []*api.Resource) []api.Key {
	var out []api.Key
	for _, lists := range [2][2][]*api.Resource{{a, b}, {b, a}} {
		for _, r := range lists[0] {
			if !slices.Contains(lists[1], r) && !slices.Contains(out, r.Key) {
				out = append(out, r.Key)
			}
		}
	}
	return out
}

// own is the client's node or gateway as its own proxies get it.
func (s *Snapshot) own(key api.Key) *api.Resource {
	switch o, ok := s.offers[key]; {
	case !ok:
		return s.Get(key)
	case o.Own == nil:
		return s.stored.Get(key)
	default:
		return o.Own
	}
}

// held are the nodes and routes that the view does not show as they are stored,
// sorted.
func (s *Snapshot) held(v *View) []api.Key {
	if len(s.offers)+len(s.waiting) == 0 {
		return nil
	}
	var out []api.Key
	for service := range v.services() {
		if service.Router != nil {
			out = append(out, s.waiting[service.Router.Key]...)
		}
	}
	for key, o := range s.offers {
		if (o.Own != nil && v.Node == o.Own) || (o.Seen != nil && v.shows(o.Seen)) {
			out = append(out, key)
		}
	}
	slices.SortFunc(out, func(a, b api.Key) int { return strings.Compare(a.String(), b.String()) })
	return slices.Compact(out)
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
