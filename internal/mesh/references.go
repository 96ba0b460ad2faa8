package mesh

import (
	"slices"

	"github.com/evermesh/evermesh/internal/api"
)

// References are the keys that a resource names in its spec, each once: a route its
// target nodes, a gateway route its virtual service, a node its backends, a virtual
// service its provider. Some may not exist (VN-025).
func References(r *api.Resource) []api.Key {
	var out []api.Key
	add := func(k api.Key) {
		if !slices.Contains(out, k) {
			out = append(out, k)
		}
	}
	switch r.Key.Kind {
	case api.KindRoute:
		for _, t := range weightedTargets(r.RouteSpec()) {
			add(r.Key.In(api.KindVirtualNode, "", t.VirtualNode))
		}
	case api.KindGatewayRoute:
		if t := target(r.GatewayRouteSpec()); t != nil {
			add(r.Key.In(api.KindVirtualService, "", t.VirtualService.VirtualServiceName))
		}
	case api.KindVirtualNode:
		for _, b := range r.VirtualNodeSpec().Backends {
			if b.VirtualService != nil {
				add(r.Key.In(api.KindVirtualService, "", b.VirtualService.VirtualServiceName))
			}
		}
	case api.KindVirtualService:
		if provider, ok := providerOf(r); ok {
			add(provider)
		}
	}
	return out
}
