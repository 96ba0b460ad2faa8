package mesh

import (
	"iter"
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
	// Providers are services that wait for their provider (AwaitsProvider), and the
	// routers of before that they need, by key, as they were.
	Providers map[api.Key]*api.Resource
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

// AwaitsProvider says the same of a service: its node has a port that clients do not
// see yet, or its router awaits one.
func (s *Snapshot) AwaitsProvider(service api.Key, nodes map[api.Key]Offer) bool {
	spec := s.Get(service).VirtualServiceSpec()
	if spec == nil || spec.Provider == nil {
		return false
	}
	if to := spec.Provider.VirtualRouter; to != nil {
		return s.Awaits(service.In(api.KindVirtualRouter, "", to.VirtualRouterName), nodes)
	}
	if spec.Provider.VirtualNode == nil {
		return false
	}
	key := service.In(api.KindVirtualNode, "", spec.Provider.VirtualNode.VirtualNodeName)
	seen, stored := nodes[key].Seen, s.Get(key)
	return seen != nil && stored.VirtualNodeSpec() != nil && slices.ContainsFunc(listenersOf(stored), func(l api.Listener) bool {
		return on(listenersOf(seen), l.PortMapping.Port) == nil
	})
}

// Keeping is the node as those see it who go on with what led to it before: with the
// ports beside that it had then. node is nil when it is gone.
func Keeping(node, before *api.Resource) *api.Resource {
	if node.VirtualNodeSpec() == nil {
		return before
	}
	now := listenersOf(node)
	list := slices.Clip(now)
	for _, l := range listenersOf(before) {
		if on(now, l.PortMapping.Port) == nil {
			list = append(list, l)
		}
	}
	if len(list) == len(now) {
		return node
	}
	return withListeners(node, list)
}

// TargetKeys are the nodes that the routes lead to, by key; one may come twice, and
// need not exist.
func TargetKeys(routes []*api.Resource) []api.Key {
	var out []api.Key
	for _, route := range routes {
		for _, to := range weightedTargets(route.RouteSpec()) {
			out = append(out, route.Key.In(api.KindVirtualNode, "", to.VirtualNode))
		}
	}
	return out
}

// WithOffers returns the snapshot whose views show nodes, routes and services as they
// are offered. Everything else of it is the receiver's; so are Get and List, but for
// those. Apply is for snapshots of what is stored.
func (s *Snapshot) WithOffers(offers Offers) *Snapshot {
	if len(offers.Nodes)+len(offers.Routes)+len(offers.Providers) == 0 {
		return s
	}
	out := &Snapshot{revision: s.revision, meshes: maps.Clone(s.meshes), stored: s, offers: offers.Nodes, providers: offers.Providers}
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
	for key, r := range offers.Providers {
		c := api.Change{Key: key, New: r}
		if i, ok := place(key.Kind); ok {
			if t := table(key, i, c); t != nil {
				t.put(c)
			}
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

// held are the nodes, routes and services that the view does not show as they are
// stored, sorted.
func (s *Snapshot) held(v *View) []api.Key {
	if len(s.offers)+len(s.waiting)+len(s.providers) == 0 {
		return nil
	}
	var out []api.Key
	for service := range v.services() {
		if s.providers[service.Key] != nil {
			out = append(out, service.Key)
		}
		if service.Router != nil {
			out = append(out, s.waiting[service.Router.Key]...)
		}
	}
	for node := range v.Targets() {
		if s.offers[node.Key].Seen == node {
			out = append(out, node.Key)
		}
	}
	if v.Node != nil && s.offers[v.Node.Key].Own == v.Node {
		out = append(out, v.Node.Key)
	}
	slices.SortFunc(out, func(a, b api.Key) int { return strings.Compare(a.String(), b.String()) })
	return slices.Compact(out)
}

// Targets are the nodes that the client's services lead to; one may come twice.
func (v *View) Targets() iter.Seq[*api.Resource] {
	return func(yield func(*api.Resource) bool) {
		for s := range v.services() {
			if s.Node != nil && !yield(s.Node) {
				return
			}
			if s.Router == nil {
				continue
			}
			for _, r := range s.Router.Routes {
				for _, node := range r.Targets {
					if node != nil && !yield(node) {
						return
					}
				}
			}
		}
	}
}

// services are those of the view; one may come twice.
func (v *View) services() iter.Seq[*Service] {
	return Reads{backends: v.Backends, routes: v.GatewayRoutes}.services()
}
