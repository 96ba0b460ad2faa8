package mesh

import (
	"slices"

	"github.com/evermesh/evermesh/internal/api"
)

// View is all that one virtual node or gateway needs, references resolved to
// pointers: backends, their services, routes, weighted targets and nodes. No
// field of a spec is copied; Envoy's configuration follows from a View alone.
// It is immutable, and its services are shared by all views of the mesh.
type View struct {
	Client Client
	Mesh   *api.Resource
	// Node is the client when it is a virtual node, else nil.
	Node *api.Resource
	// Backends are those of Node whose services exist, in the spec's order.
	Backends []Backend
	// Gateway is the client when it is a virtual gateway, else nil.
	Gateway *api.Resource
	// GatewayRoutes are those of Gateway, sorted by name.
	GatewayRoutes []GatewayRoute
	// Held are the nodes and routes of the view that are not shown as they are
	// stored, but as they are offered (D6.3); mostly none.
	Held []api.Key

	stored *api.Resource // of the client; another than Node when that is in a turn
}

// Backend is one backend of a node.
type Backend struct {
	Spec    *api.VirtualServiceBackend
	Service *Service
}

// Service is a virtual service and what provides it: Router, Node or, without
// a provider or when the provider does not exist, neither.
type Service struct {
	*api.Resource
	Router *Router
	Node   *api.Resource

	problems []Problem // found while it was resolved
}

// Router is a virtual router with its routes, sorted by name.
type Router struct {
	*api.Resource
	Routes []Route
}

// Route is a route with the nodes of its weighted targets.
type Route struct {
	*api.Resource
	// Targets go with the spec's weighted targets; nil where a node does not
	// exist.
	Targets []*api.Resource
}

// GatewayRoute is a gateway route with its target.
type GatewayRoute struct {
	*api.Resource
	Service *Service // nil when it does not exist
}

// Resource returns the resource of the view's client.
func (v *View) Resource() *api.Resource {
	if v.Gateway != nil {
		return v.Gateway
	}
	return v.Node
}

// Listeners is how many listeners Node has as it is stored. In a turn its proxies
// have more (D6.3), and yet are named by these: a name that changed with every step
// would end connections with each.
func (v *View) Listeners() int {
	if v.stored != nil {
		return len(listenersOf(v.stored))
	}
	return len(listenersOf(v.Node))
}

// Equal says whether two views were resolved from the same resources, compared
// by pointer.
func (v *View) Equal(w *View) bool {
	if v == nil || w == nil {
		return v == w
	}
	return v.Client == w.Client && v.Mesh == w.Mesh && v.Node == w.Node && v.Gateway == w.Gateway && slices.Equal(v.Held, w.Held) &&
		slices.EqualFunc(v.Backends, w.Backends, func(a, b Backend) bool { return a.Spec == b.Spec && a.Service.Same(b.Service) }) &&
		slices.EqualFunc(v.GatewayRoutes, w.GatewayRoutes, func(a, b GatewayRoute) bool { return a.Resource == b.Resource && a.Service.Same(b.Service) })
}

// WeightedTargets returns the targets of the route, whatever its kind.
func (r Route) WeightedTargets() []api.WeightedTarget { return weightedTargets(r.RouteSpec()) }

func weightedTargets(spec *api.RouteSpec) []api.WeightedTarget {
	switch {
	case spec == nil:
		return nil
	case spec.HTTPRoute != nil:
		return spec.HTTPRoute.Action.WeightedTargets
	case spec.HTTP2Route != nil:
		return spec.HTTP2Route.Action.WeightedTargets
	case spec.GRPCRoute != nil:
		return spec.GRPCRoute.Action.WeightedTargets
	case spec.TCPRoute != nil:
		return spec.TCPRoute.Action.WeightedTargets
	}
	return nil
}

// Target returns the target of the gateway route, whatever its kind.
func (r GatewayRoute) Target() *api.GatewayRouteTarget { return target(r.GatewayRouteSpec()) }

func target(spec *api.GatewayRouteSpec) *api.GatewayRouteTarget {
	switch {
	case spec == nil:
		return nil
	case spec.HTTPRoute != nil:
		return &spec.HTTPRoute.Action.Target
	case spec.HTTP2Route != nil:
		return &spec.HTTP2Route.Action.Target
	case spec.GRPCRoute != nil:
		return &spec.GRPCRoute.Action.Target
	}
	return nil
}
