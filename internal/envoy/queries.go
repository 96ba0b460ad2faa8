package envoy

import (
	"cmp"

	"github.com/evermesh/evermesh/internal/api"
)

// Queries are those by which clients find a node, one for each of its listeners' ports:
// none when it is not found in Cloud Map. m is its mesh, or nil, and ofAccounts as
// Builder.CloudMapOfAccounts.
func Queries(m, node *api.Resource, ofAccounts bool) []EndpointQuery {
	spec := node.VirtualNodeSpec()
	if spec == nil || spec.ServiceDiscovery == nil || spec.ServiceDiscovery.AWSCloudMap == nil {
		return nil
	}
	preference := ownPreference(node)
	if m != nil {
		if wide, ok := m.Spec.(*api.MeshSpec); ok && wide.ServiceDiscovery != nil {
			preference = cmp.Or(preference, wide.ServiceDiscovery.IPPreference)
		}
	}
	var out []EndpointQuery
	for i := range spec.Listeners {
		out = append(out, *nodeQuery(node, preference, uint32(spec.Listeners[i].PortMapping.Port), ofAccounts))
	}
	return out
}

// nodeQuery finds the endpoints of one port of a node in Cloud Map.
func nodeQuery(node *api.Resource, p api.IPPreference, port uint32, ofAccounts bool) *EndpointQuery {
	q := cloudMapQuery(node.VirtualNodeSpec().ServiceDiscovery.AWSCloudMap, p, port)
	if ofAccounts {
		q.Account = node.Owner
	}
	return q
}
