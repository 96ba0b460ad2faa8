package settings

import (
	"fmt"
	"strings"

	"github.com/evermesh/evermesh/internal/api"
)

// Resource is the virtual node or virtual gateway that an Envoy is the proxy of.
type Resource struct {
	ID      string // node.id: the ARN or its short form, as given
	Cluster string // node.cluster: APPMESH_RESOURCE_CLUSTER, else ID
	Region  string // of the ARN; "" for the short form
	Mesh    string // without the owner of a shared mesh; "" for a task set of Service Connect
	Kind    api.Kind
	Name    string
}

// parseResource reads a node id: an ARN, or mesh/<mesh>[@<owner>]/(virtualNode|virtualGateway)/<name> (AGENT-002,
// AGENT-003).
func parseResource(id string) (Resource, error) {
	parse := api.ParseResourcePath
	if strings.HasPrefix(id, "arn:") {
		if strings.Contains(id, ":task-set/") { // Service Connect
			return Resource{ID: id}, nil
		}
		// The preview channel names itself in its ARNs.
		id := strings.Replace(id, ":appmesh-preview:", ":appmesh:", 1)
		parse = func(string) (api.ARN, error) { return api.ParseARN(id) }
	}
	a, err := parse(id)
	if err != nil {
		return Resource{}, err
	}
	if a.Kind != api.KindVirtualNode && a.Kind != api.KindVirtualGateway {
		return Resource{}, fmt.Errorf("%q is a %s: a proxy belongs to a virtualNode or a virtualGateway", id, a.Kind)
	}
	return Resource{ID: id, Region: a.Region, Mesh: a.Mesh, Kind: a.Kind, Name: a.Name}, nil
}
