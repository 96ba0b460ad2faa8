package mesh

import "github.com/evermesh/evermesh/internal/api"

// rule is one thing that a write must keep. old is nil when the resource is
// created, now when it is deleted. A rule that does not concern the write
// returns nil; a refusal is an *api.Error.
type rule func(r Reader, old, now *api.Resource) error

// Check says whether a write keeps the rules between resources, and those
// within a spec that the model cannot express. old is nil when the resource is
// created, now when it is deleted. The first rule that is broken is the answer:
// an *api.Error with App Mesh's code and, where it is known, its text.
func Check(r Reader, old, now *api.Resource) error {
	for _, keeps := range rulesOf(old, now) {
		if err := keeps(r, old, now); err != nil {
			return err
		}
	}
	return nil
}

// rulesOf is the list of all rules. What is wrong with the request's names is
// said first, then what is wrong within its spec, then what the spec refers to.
func rulesOf(old, now *api.Resource) []rule {
	if now == nil {
		switch old.Key.Kind {
		case api.KindMesh:
			return []rule{meshIsEmpty}
		case api.KindVirtualNode:
			return []rule{nodeIsNoTarget, isNoProvider}
		case api.KindVirtualRouter:
			return []rule{routerHasNoRoutes, isNoProvider}
		case api.KindVirtualService:
			return []rule{serviceHasNoGatewayRoutes}
		case api.KindVirtualGateway:
			return []rule{gatewayHasNoRoutes}
		}
		return nil
	}
	rules := []rule{parentExists}
	switch now.Key.Kind {
	case api.KindRoute:
		rules = append(rules, routerIsOwn)
	case api.KindVirtualGateway, api.KindGatewayRoute:
		rules = append(rules, gatewayIsOfOwner)
	}
	rules = append(rules, nameIsFree, nameIsUsable)
	switch now.Key.Kind {
	case api.KindVirtualNode:
		return append(rules, discoveryNeedsListener, nodeListenersDiffer, nodePoolFitsProtocol, nodeNamesAreUsable)
	case api.KindVirtualRouter:
		return append(rules, routerListensWhenItSays, routerListenersDiffer, routesMatchPorts)
	case api.KindRoute:
		return append(rules, routeHasOneKind, routePathIsOne, routePathIsAbsolute, patternsAreKnown, retryEventsAreKnown, methodNeedsService,
			routeMatchesPort, targetsExist, targetsHavePorts)
	case api.KindVirtualService:
		return append(rules, providerExists)
	case api.KindVirtualGateway:
		return append(rules, gatewayListenersDiffer, gatewayPoolFitsProtocol, gatewayNamesAreUsable, gatewayRoutesMatchPorts)
	case api.KindGatewayRoute:
		return append(rules, gatewayRouteHasOneKind, hostnameIsOne, gatewayPathIsOne, gatewayPathIsAbsolute, patternsAreKnown, prefixIsNotReserved, serviceNameIsNotReserved,
			rewriteIsOne, prefixRewriteIsWhole, gatewayRouteMatchesPort, serviceExists, serviceHasPort)
	}
	return rules
}

// Missing is the refusal of a key that does not exist (API-034): it names the
// outermost part that is missing, the mesh before the router before the route.
func Missing(r Reader, key api.Key) error {
	if parent, ok := key.ParentKey(); ok && r.Get(parent) == nil {
		return Missing(r, parent)
	}
	row, _ := key.Kind.Row()
	switch {
	case key.Kind == api.KindMesh:
		return api.Errorf(api.CodeNotFound, "Mesh with name %s is not present for account %s", key.Name, key.Owner)
	case row.Nested():
		parent, _ := row.Parent.Row()
		return api.Errorf(api.CodeNotFound, "%s with name %s is not present under %s %s in mesh %s for account %s", row.Type, key.Name, parent.Type, key.Parent, key.Mesh, key.Owner)
	}
	return api.Errorf(api.CodeNotFound, "%s with name %s is not present under mesh %s for account %s", row.Type, key.Name, key.Mesh, key.Owner)
}

// parentExists: a resource is created in a mesh, a route in a router, a gateway
// route in a gateway that exist.
func parentExists(r Reader, _, now *api.Resource) error {
	parent, ok := now.Key.ParentKey()
	if !ok || r.Get(parent) != nil {
		return nil
	}
	return Missing(r, parent)
}

// nameIsFree: names are unique within their mesh, router or gateway (API-034,
// API-036).
func nameIsFree(r Reader, old, now *api.Resource) error {
	if old != nil || r.Get(now.Key) == nil {
		return nil
	}
	row, _ := now.Key.Kind.Row()
	switch {
	case now.Key.Kind == api.KindMesh:
		return api.Errorf(api.CodeConflict, "Mesh with name %s already exists for account %s", now.Key.Name, now.Key.Owner)
	case row.Nested():
		parent, _ := row.Parent.Row()
		return api.Errorf(api.CodeConflict, "%s with name %s already exists under %s %s in mesh %s for account %s", row.Type, now.Key.Name, parent.Type, now.Key.Parent, now.Key.Mesh, now.Key.Owner)
	}
	return api.Errorf(api.CodeConflict, "%s with name %s already exists under mesh %s for account %s", row.Type, now.Key.Name, now.Key.Mesh, now.Key.Owner)
}

func invalid(format string, args ...any) error {
	return api.Errorf(api.CodeBadRequest, format, args...)
}

func inUse(format string, args ...any) error {
	return api.Errorf(api.CodeResourceInUse, format, args...)
}
