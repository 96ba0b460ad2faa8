package manifest

import (
	"maps"
	"slices"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/model"
)

// manifestName is what the controller's definitions call a member of one of the
// API's shapes.
func manifestName(shape, member string) string {
	switch {
	case shape == "MeshSpec" && member == "serviceDiscovery":
		return "meshServiceDiscovery"
	case member == "certificateArn":
		return "certificateARN"
	case member == "certificateAuthorityArns":
		return "certificateAuthorityARNs"
	}
	return member
}

// reference is a member that names another resource. In a manifest it is two:
// an object with name and namespace, or an ARN.
type reference struct {
	member   string // of the API
	ref, arn string // of the manifest
	kind     api.Kind
}

// references are the members that name others, by the shape that they are in.
var references = map[string]reference{
	"VirtualServiceBackend":        {"virtualServiceName", "virtualServiceRef", "virtualServiceARN", api.KindVirtualService},
	"GatewayRouteVirtualService":   {"virtualServiceName", "virtualServiceRef", "virtualServiceARN", api.KindVirtualService},
	"VirtualNodeServiceProvider":   {"virtualNodeName", "virtualNodeRef", "virtualNodeARN", api.KindVirtualNode},
	"VirtualRouterServiceProvider": {"virtualRouterName", "virtualRouterRef", "virtualRouterARN", api.KindVirtualRouter},
	"WeightedTarget":               {"virtualNode", "virtualNodeRef", "virtualNodeARN", api.KindVirtualNode},
}

// beside are the members that a kind's spec has beside those of the API: names
// and selectors that the controller itself understands.
var beside = map[string][]string{
	"Mesh":           {"awsName", "meshOwner", "namespaceSelector"},
	"VirtualNode":    {"awsName", "backendGroups", "meshRef", "podSelector"},
	"VirtualRouter":  {"awsName", "meshRef", "routes"},
	"VirtualService": {"awsName", "meshRef"},
	"VirtualGateway": {"awsName", "gatewayRouteSelector", "meshRef", "namespaceSelector", "podSelector"},
	"GatewayRoute":   {"awsName", "meshRef", "virtualGatewayRef"},
	kindBackendGroup: {"meshRef", "virtualservices"},
}

// listenerTrust is whom a gateway's listener trusts. The controller's definition
// has a member acm there, which the API has not, and refuses.
const listenerTrust = "VirtualGatewayListenerTlsValidationContextTrust"

// besideRoute are those of a route of a router.
var besideRoute = []string{"name"}

// memberNames are the names that the members of a shape have in a manifest, each
// with the API's.
func memberNames(name string, s *model.Shape) map[string]string {
	out := map[string]string{}
	reference, refers := references[name]
	for member := range s.Members {
		if refers && member == reference.member {
			continue
		}
		out[manifestName(name, member)] = member
	}
	return out
}

// known are all names that a shape's members may have in a manifest, sorted.
func known(name string, names map[string]string, beside []string) []string {
	out := slices.Concat(slices.Collect(maps.Keys(names)), beside)
	if r, refers := references[name]; refers {
		out = append(out, r.ref, r.arn)
	}
	slices.Sort(out)
	return out
}
