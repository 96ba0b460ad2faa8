package api

import "slices"

// Kind is one of the seven kinds of App Mesh resources. Its value is the word
// that stands in ARNs and in Envoy's short node id, such as virtualNode.
type Kind string

// The seven kinds.
const (
	KindMesh           Kind = "mesh"
	KindVirtualNode    Kind = "virtualNode"
	KindVirtualRouter  Kind = "virtualRouter"
	KindRoute          Kind = "route"
	KindVirtualService Kind = "virtualService"
	KindVirtualGateway Kind = "virtualGateway"
	KindGatewayRoute   Kind = "gatewayRoute"
)

// KindRow is all that generic code knows of a kind.
type KindRow struct {
	Kind Kind
	// Type is the kind's name in operations and messages: VirtualNode.
	Type string
	// Plural is Type in ListVirtualNodes.
	Plural string
	// Name is the member that holds a resource's name: virtualNodeName.
	Name string
	// Wrapper is the payload member of answers: virtualNode.
	Wrapper string
	// List is the member of a list answer: virtualNodes.
	List string
	// Parent is the kind that a resource lives under: a virtual router for
	// a route, the mesh for most, empty for the mesh itself.
	Parent Kind
	// Spec makes an empty spec of the kind.
	Spec func() any
}

// Kinds is the table of kinds, parents before children.
func Kinds() []KindRow { return kinds }

var kinds = []KindRow{
	{KindMesh, "Mesh", "Meshes", "meshName", "mesh", "meshes", "", func() any { return &MeshSpec{} }},
	{KindVirtualNode, "VirtualNode", "VirtualNodes", "virtualNodeName", "virtualNode", "virtualNodes", KindMesh, func() any { return &VirtualNodeSpec{} }},
	{KindVirtualRouter, "VirtualRouter", "VirtualRouters", "virtualRouterName", "virtualRouter", "virtualRouters", KindMesh, func() any { return &VirtualRouterSpec{} }},
	{KindRoute, "Route", "Routes", "routeName", "route", "routes", KindVirtualRouter, func() any { return &RouteSpec{} }},
	{KindVirtualService, "VirtualService", "VirtualServices", "virtualServiceName", "virtualService", "virtualServices", KindMesh, func() any { return &VirtualServiceSpec{} }},
	{KindVirtualGateway, "VirtualGateway", "VirtualGateways", "virtualGatewayName", "virtualGateway", "virtualGateways", KindMesh, func() any { return &VirtualGatewaySpec{} }},
	{KindGatewayRoute, "GatewayRoute", "GatewayRoutes", "gatewayRouteName", "gatewayRoute", "gatewayRoutes", KindVirtualGateway, func() any { return &GatewayRouteSpec{} }},
}

// Row returns the kind's row; ok is false for a word that is no kind.
func (k Kind) Row() (row KindRow, ok bool) {
	i := slices.IndexFunc(kinds, func(r KindRow) bool { return r.Kind == k })
	if i < 0 {
		return KindRow{}, false
	}
	return kinds[i], true
}

// Nested says whether resources of the kind live under another than the mesh:
// routes under a router, gateway routes under a gateway.
func (r KindRow) Nested() bool { return r.Parent != "" && r.Parent != KindMesh }
