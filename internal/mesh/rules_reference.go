package mesh

import (
	"github.com/evermesh/evermesh/internal/api"
)

// The rules about what a spec refers to. What a write names must exist, except
// a node's backends (VN-025); what it leaves open must be clear.

// targetsExist: a route sends to nodes that exist (RT-011).
func targetsExist(r Reader, _, now *api.Resource) error {
	for _, t := range weightedTargets(now.RouteSpec()) {
		if err := exists(r, now.Key.In(api.KindVirtualNode, "", t.VirtualNode)); err != nil {
			return err
		}
	}
	return nil
}

// targetsHavePorts: a target says which of its node's several listeners is
// meant (RT-007).
func targetsHavePorts(r Reader, _, now *api.Resource) error {
	for _, t := range weightedTargets(now.RouteSpec()) {
		node := r.Get(now.Key.In(api.KindVirtualNode, "", t.VirtualNode))
		if t.Port == nil && listeners(node) > 1 {
			return invalid("Route must define a port for the weighted target %s because the Virtual Node has multiple listeners", t.VirtualNode)
		}
	}
	return nil
}

// routeMatchesPort: a route says which of its router's several listeners it is
// for (RT-020).
func routeMatchesPort(r Reader, _, now *api.Resource) error {
	router, _ := now.Key.ParentKey()
	if listeners(r.Get(router)) > 1 && routePort(now.RouteSpec()) == nil {
		return invalid("Route must define a port match criteria if the Virtual Router has multiple listeners")
	}
	return nil
}

// routesMatchPorts: a router gets a second listener only when its routes say
// which they are for (VR-009).
func routesMatchPorts(r Reader, _, now *api.Resource) error {
	lack := portless(r, now, api.KindRoute, func(route *api.Resource) bool { return routePort(route.RouteSpec()) == nil })
	if lack == nil {
		return nil
	}
	return invalid("All Routes for this Virtual Router must define a port match before adding multiple listeners to this Virtual Router. %d Route(s) are missing port. Listing up to 5 route names: [%s]", len(lack), few(lack))
}

// providerExists: a virtual service is provided by what exists; one without
// provider can be created first (VS-001, VS-018).
func providerExists(r Reader, _, now *api.Resource) error {
	provider, ok := providerOf(now)
	if !ok {
		return nil
	}
	return exists(r, provider)
}

// serviceExists: a gateway route leads to a virtual service that exists
// (GR-001).
func serviceExists(r Reader, _, now *api.Resource) error {
	t := target(now.GatewayRouteSpec())
	if t == nil {
		return nil
	}
	return exists(r, now.Key.In(api.KindVirtualService, "", t.VirtualService.VirtualServiceName))
}

// serviceHasPort: a gateway route says which of the several listeners of its
// service's provider is meant (GR-005).
func serviceHasPort(r Reader, _, now *api.Resource) error {
	t := target(now.GatewayRouteSpec())
	if t == nil || t.Port != nil {
		return nil
	}
	service := r.Get(now.Key.In(api.KindVirtualService, "", t.VirtualService.VirtualServiceName))
	if service == nil {
		return nil
	}
	if provider, ok := providerOf(service); ok && listeners(r.Get(provider)) > 1 {
		row, _ := provider.Kind.Row()
		return invalid("Gateway route must define a target port because the %s %s that provides the Virtual Service has multiple listeners", row.Type, provider.Name)
	}
	return nil
}

// gatewayRouteMatchesPort: a gateway route says which of its gateway's several
// listeners it is for (GR-007).
func gatewayRouteMatchesPort(r Reader, _, now *api.Resource) error {
	gateway, _ := now.Key.ParentKey()
	if listeners(r.Get(gateway)) > 1 && gatewayRoutePort(now.GatewayRouteSpec()) == nil {
		return invalid("Gateway route must define a match port if the parent Virtual Gateway has multiple listeners.")
	}
	return nil
}

// gatewayRoutesMatchPorts: a gateway gets a second listener only when its
// routes say which they are for (GR-007).
func gatewayRoutesMatchPorts(r Reader, _, now *api.Resource) error {
	lack := portless(r, now, api.KindGatewayRoute, func(route *api.Resource) bool { return gatewayRoutePort(route.GatewayRouteSpec()) == nil })
	if lack == nil {
		return nil
	}
	return invalid("All Gateway Routes for this Virtual Gateway must define a match port before adding multiple listeners to this Virtual Gateway. %d Gateway Route(s) are missing port. Listing up to 5 gateway route names: [%s]", len(lack), few(lack))
}

// portless names what lives under a router or gateway with several listeners
// and does not say which of them it is for.
func portless(r Reader, parent *api.Resource, kind api.Kind, lacks func(*api.Resource) bool) []string {
	if listeners(parent) < 2 {
		return nil
	}
	var names []string
	for _, child := range r.List(kind, parent.Key) {
		if lacks(child) {
			names = append(names, child.Key.Name)
		}
	}
	return names
}

func exists(r Reader, key api.Key) error {
	if r.Get(key) != nil {
		return nil
	}
	row, _ := key.Kind.Row()
	return api.Errorf(api.CodeNotFound, "%s with name %s is missing", row.Type, key.Name)
}

// listeners counts the listeners of a node, router or gateway; nil has none.
func listeners(r *api.Resource) int {
	if spec := r.VirtualNodeSpec(); spec != nil {
		return len(spec.Listeners)
	}
	if spec := r.VirtualRouterSpec(); spec != nil {
		return len(spec.Listeners)
	}
	if spec := r.VirtualGatewaySpec(); spec != nil {
		return len(spec.Listeners)
	}
	return 0
}

func routePort(spec *api.RouteSpec) *int64 {
	switch {
	case spec == nil:
		return nil
	case spec.HTTPRoute != nil:
		return spec.HTTPRoute.Match.Port
	case spec.HTTP2Route != nil:
		return spec.HTTP2Route.Match.Port
	case spec.GRPCRoute != nil:
		return spec.GRPCRoute.Match.Port
	case spec.TCPRoute != nil && spec.TCPRoute.Match != nil:
		return spec.TCPRoute.Match.Port
	}
	return nil
}

func gatewayRoutePort(spec *api.GatewayRouteSpec) *int64 {
	switch {
	case spec == nil:
		return nil
	case spec.HTTPRoute != nil:
		return spec.HTTPRoute.Match.Port
	case spec.HTTP2Route != nil:
		return spec.HTTP2Route.Match.Port
	case spec.GRPCRoute != nil:
		return spec.GRPCRoute.Match.Port
	}
	return nil
}
