package mesh

import (
	"slices"
	"strings"

	"github.com/evermesh/evermesh/internal/api"
)

// The rules of deletion: what something refers to stays. A backend is no such
// reference, it may name what does not exist (VS-013).

// meshIsEmpty: a mesh goes last (MESH-008, MESH-009).
func meshIsEmpty(r Reader, old, _ *api.Resource) error {
	for _, kind := range []api.Kind{api.KindVirtualService, api.KindVirtualRouter, api.KindVirtualNode, api.KindVirtualGateway} {
		if len(r.List(kind, old.Key)) > 0 {
			row, _ := kind.Row()
			return inUse("Mesh %s for account %s has active %s, please delete %s before deleting the Mesh", old.Key.Name, old.Key.Owner, row.Plural, row.Plural)
		}
	}
	return nil
}

// nodeIsNoTarget: a node that routes send to stays (VN-032).
func nodeIsNoTarget(r Reader, old, _ *api.Resource) error {
	var users []string
	for _, router := range r.List(api.KindVirtualRouter, old.Key.MeshKey()) {
		for _, route := range r.List(api.KindRoute, router.Key) {
			sends := func(t api.WeightedTarget) bool { return t.VirtualNode == old.Key.Name }
			if slices.ContainsFunc(weightedTargets(route.RouteSpec()), sends) {
				users = append(users, router.Key.Name+"/"+route.Key.Name)
			}
		}
	}
	if users == nil {
		return nil
	}
	return inUse("VirtualNode %s is being referenced in the following: ROUTE: [%s]", old.Key.Name, few(users))
}

// isNoProvider: a node or router that virtual services are provided by stays
// (VN-032, VR-007).
func isNoProvider(r Reader, old, _ *api.Resource) error {
	for _, service := range r.List(api.KindVirtualService, old.Key.MeshKey()) {
		if provider, ok := providerOf(service); ok && provider == old.Key {
			row, _ := old.Key.Kind.Row()
			return inUse("%s with name %s cannot be deleted because it is a VirtualService provider", row.Type, old.Key.Name)
		}
	}
	return nil
}

// routerHasNoRoutes: a router outlives its routes (VR-007).
func routerHasNoRoutes(r Reader, old, _ *api.Resource) error {
	if len(r.List(api.KindRoute, old.Key)) == 0 {
		return nil
	}
	return inUse("VirtualRouter you're trying to delete %s has active routes", old.Key.Name)
}

// gatewayHasNoRoutes: a gateway outlives its gateway routes (VG-016).
func gatewayHasNoRoutes(r Reader, old, _ *api.Resource) error {
	if len(r.List(api.KindGatewayRoute, old.Key)) == 0 {
		return nil
	}
	return inUse("VirtualGateway you're trying to delete %s has active gateway routes", old.Key.Name)
}

// serviceHasNoGatewayRoutes: a virtual service that gateway routes lead to
// stays (VS-012).
func serviceHasNoGatewayRoutes(r Reader, old, _ *api.Resource) error {
	var users []string
	for _, gateway := range r.List(api.KindVirtualGateway, old.Key.MeshKey()) {
		for _, route := range r.List(api.KindGatewayRoute, gateway.Key) {
			if t := target(route.GatewayRouteSpec()); t != nil && t.VirtualService.VirtualServiceName == old.Key.Name {
				users = append(users, gateway.Key.Name+"/"+route.Key.Name)
			}
		}
	}
	if users == nil {
		return nil
	}
	return inUse("VirtualService %s is being referenced in the following: GATEWAY_ROUTE: [%s]", old.Key.Name, few(users))
}

// providerOf is the key of the node or router that provides a virtual service.
func providerOf(service *api.Resource) (key api.Key, ok bool) {
	spec := service.VirtualServiceSpec()
	switch {
	case spec == nil || spec.Provider == nil:
		return api.Key{}, false
	case spec.Provider.VirtualRouter != nil:
		return service.Key.In(api.KindVirtualRouter, "", spec.Provider.VirtualRouter.VirtualRouterName), true
	case spec.Provider.VirtualNode != nil:
		return service.Key.In(api.KindVirtualNode, "", spec.Provider.VirtualNode.VirtualNodeName), true
	}
	return api.Key{}, false
}

// few lists at most five names, as App Mesh does.
func few(names []string) string { return strings.Join(names[:min(len(names), 5)], ", ") }
