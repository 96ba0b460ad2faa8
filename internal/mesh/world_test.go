package mesh_test

import (
	"fmt"
	"slices"
	"strings"

	"pgregory.net/rapid"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
)

const worldOwner = "123456789012"

// world is a small mesh that random edits change; references may dangle.
type world struct {
	resources map[api.Key]*api.Resource
	revision  int64
}

func newWorld() *world { return &world{resources: map[api.Key]*api.Resource{}} }

func worldKey(kind api.Kind, parent, name string) api.Key {
	k := api.Key{Owner: worldOwner, Mesh: "m", Kind: kind, Parent: parent, Name: name}
	if kind == api.KindMesh {
		k.Name = k.Mesh
	}
	return k
}

// all are the resources in no particular order.
func (w *world) all() []*api.Resource {
	out := make([]*api.Resource, 0, len(w.resources))
	for _, r := range w.resources {
		out = append(out, r)
	}
	return out
}

// clients are all nodes and gateways that may exist.
func (w *world) clients() []mesh.Client {
	var out []mesh.Client
	for i := range 4 {
		out = append(out, mesh.Client{Key: worldKey(api.KindVirtualNode, "", fmt.Sprint("n", i))})
	}
	for i := range 2 {
		out = append(out, mesh.Client{Key: worldKey(api.KindVirtualGateway, "", fmt.Sprint("g", i))})
	}
	return out
}

// put makes a change and remembers what it did.
func (w *world) put(key api.Key, spec any) api.Change {
	r := &api.Resource{Key: key, Owner: worldOwner, Spec: spec}
	w.resources[key] = r
	return api.Change{Key: key, New: r}
}

func (w *world) remove(key api.Key) api.Change {
	delete(w.resources, key)
	return api.Change{Key: key}
}

// edit makes one to four random changes, also of things that do not exist.
func (w *world) edit(t *rapid.T) []api.Change {
	w.revision++
	changes := make([]api.Change, rapid.IntRange(1, 4).Draw(t, "changes"))
	for i := range changes {
		key := drawKey(t)
		if rapid.IntRange(0, 3).Draw(t, "what") == 0 {
			changes[i] = w.remove(key)
		} else {
			changes[i] = w.put(key, drawSpec(t, key.Kind))
		}
	}
	return changes
}

func drawName(t *rapid.T, prefix string, n int) string {
	return fmt.Sprint(prefix, rapid.IntRange(0, n-1).Draw(t, prefix))
}

func drawKey(t *rapid.T) api.Key {
	kinds := []api.Kind{
		api.KindMesh, api.KindVirtualNode, api.KindVirtualRouter, api.KindRoute,
		api.KindVirtualService, api.KindVirtualGateway, api.KindGatewayRoute,
	}
	switch kind := rapid.SampledFrom(kinds).Draw(t, "kind"); kind {
	case api.KindRoute:
		return worldKey(kind, drawName(t, "r", 3), drawName(t, "x", 2))
	case api.KindGatewayRoute:
		return worldKey(kind, drawName(t, "g", 2), drawName(t, "x", 2))
	case api.KindVirtualRouter:
		return worldKey(kind, "", drawName(t, "r", 3))
	case api.KindVirtualService:
		return worldKey(kind, "", drawName(t, "s", 4))
	case api.KindVirtualGateway:
		return worldKey(kind, "", drawName(t, "g", 2))
	case api.KindVirtualNode:
		return worldKey(kind, "", drawName(t, "n", 4))
	default:
		return worldKey(kind, "", "")
	}
}

func drawSpec(t *rapid.T, kind api.Kind) any {
	switch kind {
	case api.KindVirtualNode:
		spec := &api.VirtualNodeSpec{}
		for range rapid.IntRange(0, 3).Draw(t, "backends") {
			spec.Backends = append(spec.Backends, api.Backend{VirtualService: &api.VirtualServiceBackend{VirtualServiceName: drawName(t, "s", 4)}})
		}
		return spec
	case api.KindVirtualService:
		p := &api.VirtualServiceProvider{}
		switch rapid.IntRange(0, 2).Draw(t, "provider") {
		case 0:
			return &api.VirtualServiceSpec{}
		case 1:
			p.VirtualNode = &api.VirtualNodeServiceProvider{VirtualNodeName: drawName(t, "n", 4)}
		default:
			p.VirtualRouter = &api.VirtualRouterServiceProvider{VirtualRouterName: drawName(t, "r", 3)}
		}
		return &api.VirtualServiceSpec{Provider: p}
	case api.KindVirtualRouter:
		return &api.VirtualRouterSpec{}
	case api.KindRoute:
		action := api.HTTPRouteAction{}
		for range rapid.IntRange(1, 3).Draw(t, "targets") {
			action.WeightedTargets = append(action.WeightedTargets, api.WeightedTarget{VirtualNode: drawName(t, "n", 4), Weight: 1})
		}
		return &api.RouteSpec{HTTPRoute: &api.HTTPRoute{Action: action}}
	case api.KindVirtualGateway:
		return &api.VirtualGatewaySpec{}
	case api.KindGatewayRoute:
		return &api.GatewayRouteSpec{HTTPRoute: &api.HTTPGatewayRoute{Action: api.HTTPGatewayRouteAction{
			Target: api.GatewayRouteTarget{VirtualService: api.GatewayRouteVirtualService{VirtualServiceName: drawName(t, "s", 4)}},
		}}}
	}
	return &api.MeshSpec{}
}

// outline is a view as text, with every resource by its address: what a view
// means, whatever Equal says of it.
func outline(v *mesh.View, problems []mesh.Problem) string {
	if v == nil {
		return "none"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%v %p %p %p\n", v.Client, v.Mesh, v.Node, v.Gateway)
	service := func(s *mesh.Service) {
		if s == nil {
			b.WriteString(" nothing\n")
			return
		}
		fmt.Fprintf(&b, " service %p node %p\n", s.Resource, s.Node)
		if s.Router != nil {
			fmt.Fprintf(&b, "  router %p\n", s.Router.Resource)
			for _, r := range s.Router.Routes {
				fmt.Fprintf(&b, "   route %p\n", r.Resource)
				for _, node := range r.Targets {
					fmt.Fprintf(&b, "    to %p\n", node)
				}
			}
		}
	}
	for _, x := range v.Backends {
		fmt.Fprintf(&b, "backend %s\n", x.Spec.VirtualServiceName)
		service(x.Service)
	}
	for _, x := range v.GatewayRoutes {
		fmt.Fprintf(&b, "gateway route %p\n", x.Resource)
		service(x.Service)
	}
	for _, p := range problems {
		fmt.Fprintln(&b, p)
	}
	return b.String()
}

func contains(clients []mesh.Client, c mesh.Client) bool { return slices.Contains(clients, c) }
