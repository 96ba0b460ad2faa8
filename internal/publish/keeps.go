package publish

import (
	"maps"
	"slices"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
)

// keeps is what clients go on with because what is stored in its place leads to a
// port that its node does not offer yet: the routes of routers and the providers of
// services. What these need stays with them, as far as clients see: nodes that they
// lead to, with the ports of then, and routers. It belongs to the goroutine of Run.
//
// Only a turn that is entering is waited for, and nothing that is kept holds back
// such a turn: so nobody waits in a circle, and no longer than --publish-wait.
type keeps struct {
	routes            map[api.Key][]*api.Resource // by router
	services, routers map[api.Key]*api.Resource
	// nodes are those that the above lead to, as they were shown then; seeing is what
	// is shown of those for which it is something else than their turn says.
	nodes  map[api.Key]*api.Resource
	seeing map[api.Key]seeing
}

// seeing is a node as it is shown for the sake of what is kept. It is remembered, as
// views are compared by pointer.
type seeing struct{ node, before, shown *api.Resource }

func newKeeps() keeps {
	return keeps{
		routes: map[api.Key][]*api.Resource{}, services: map[api.Key]*api.Resource{}, routers: map[api.Key]*api.Resource{},
		nodes: map[api.Key]*api.Resource{}, seeing: map[api.Key]seeing{},
	}
}

func (k *keeps) empty() bool { return len(k.routes)+len(k.services) == 0 }

// begin keeps what the changes replace by something that leads to no port yet. shown
// is what clients saw before them.
func (k *keeps) begin(shown, stored *mesh.Snapshot, nodes map[api.Key]mesh.Offer, changes []api.Change) {
	if len(nodes) == 0 {
		return // nothing is waited for
	}
	for _, c := range changes {
		switch c.Key.Kind {
		case api.KindRoute:
			if router, ok := c.Key.ParentKey(); ok && stored.Awaits(router, nodes) {
				k.keepRoutes(shown, router)
			}
		case api.KindVirtualService:
			old := shown.Get(c.Key)
			if old == nil || k.services[c.Key] != nil || providerOf(old) == providerOf(stored.Get(c.Key)) || !stored.AwaitsProvider(c.Key, nodes) {
				continue
			}
			k.services[c.Key] = old
			provider := providerOf(old)
			if provider.Kind == api.KindVirtualNode {
				k.keepNode(shown, provider)
			} else if r := shown.Get(provider); r != nil {
				k.routers[provider] = r
				k.keepRoutes(shown, provider)
			}
		}
	}
}

// keepRoutes keeps the router's routes. An empty list is one too: no route of a new
// router is shown.
func (k *keeps) keepRoutes(shown *mesh.Snapshot, router api.Key) {
	if k.routes[router] != nil {
		return
	}
	k.routes[router] = append([]*api.Resource{}, shown.List(api.KindRoute, router)...)
	for _, node := range mesh.TargetKeys(k.routes[router]) {
		k.keepNode(shown, node)
	}
}

// keepNode keeps the node as it is shown, which is with what was kept of it already.
func (k *keeps) keepNode(shown *mesh.Snapshot, node api.Key) {
	if r := shown.Get(node); r.VirtualNodeSpec() != nil {
		k.nodes[node] = r
	}
}

// end forgets what is waited for no more, and returns what is shown again as it is
// stored.
func (k *keeps) end(stored *mesh.Snapshot, nodes map[api.Key]mesh.Offer) (again []api.Change) {
	if k.empty() {
		return nil
	}
	needed := map[api.Key]bool{}
	for service, was := range k.services {
		if !stored.AwaitsProvider(service, nodes) {
			delete(k.services, service)
			again = append(again, api.Change{Key: service})
			continue
		}
		needed[providerOf(was)] = true
	}
	for router, routes := range k.routes {
		if !needed[router] && !stored.Awaits(router, nodes) {
			delete(k.routes, router)
			again = append(again, api.Change{Key: router.In(api.KindRoute, router.Name, "")})
			continue
		}
		for _, node := range mesh.TargetKeys(routes) {
			needed[node] = true
		}
	}
	unneeded := func(key api.Key, _ *api.Resource) bool { return !needed[key] }
	maps.DeleteFunc(k.routers, unneeded)
	maps.DeleteFunc(k.nodes, unneeded)
	return again
}

// offers adds to the nodes those that are shown otherwise because of what is kept,
// and returns all that views do not show as stored, and which of the nodes are others
// than before.
func (k *keeps) offers(stored *mesh.Snapshot, nodes map[api.Key]mesh.Offer) (all mesh.Offers, again []api.Change) {
	before := k.seeing
	if len(before)+len(k.nodes) > 0 {
		k.seeing = map[api.Key]seeing{}
	}
	for key, was := range k.nodes {
		o := nodes[key]
		now := seeing{node: o.Seen, before: was}
		if now.node == nil {
			now.node = stored.Get(key)
		}
		if old := before[key]; old.node == now.node && old.before == was {
			now.shown = old.shown
		} else if now.shown = mesh.Keeping(now.node, was); now.shown == now.node {
			continue
		}
		k.seeing[key], o.Seen = now, now.shown
		if nodes == nil {
			nodes = map[api.Key]mesh.Offer{}
		}
		nodes[key] = o
	}
	for _, two := range [2][2]map[api.Key]seeing{{before, k.seeing}, {k.seeing, before}} {
		for key, x := range two[0] {
			if two[1][key].shown != x.shown {
				again = append(again, api.Change{Key: key})
			}
		}
	}
	all = mesh.Offers{Nodes: nodes, Routes: k.routes}
	if len(k.services) > 0 {
		all.Providers = maps.Clone(k.services)
		for key, r := range k.routers {
			if stored.Get(key) == nil {
				all.Providers[key] = r
			}
		}
	}
	return all, again
}

// providerOf is the router or node that provides the service; the zero value is none.
func providerOf(service *api.Resource) api.Key {
	spec := service.VirtualServiceSpec()
	switch {
	case spec == nil || spec.Provider == nil:
	case spec.Provider.VirtualRouter != nil:
		return service.Key.In(api.KindVirtualRouter, "", spec.Provider.VirtualRouter.VirtualRouterName)
	case spec.Provider.VirtualNode != nil:
		return service.Key.In(api.KindVirtualNode, "", spec.Provider.VirtualNode.VirtualNodeName)
	}
	return api.Key{}
}

// offer shows what is stored as it is offered now, and returns what is shown again
// as another than before, beside the changes.
func (l *Loop) offer(stored *mesh.Snapshot, changes []api.Change) (again []api.Change) {
	nodes := l.turns.offers()
	again = l.keeps.end(stored, nodes)
	if shown := l.shown.Load(); shown != nil {
		l.keeps.begin(shown, stored, nodes, changes)
	}
	l.turns.keep(l.keeps.nodes, l.Now())
	offers, others := l.keeps.offers(stored, nodes)
	l.shown.Store(stored.WithOffers(offers))
	l.keeping.Store(!l.keeps.empty())
	return slices.Concat(again, others)
}
