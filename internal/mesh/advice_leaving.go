package mesh

import (
	"fmt"
	"slices"
	"strings"

	"github.com/evermesh/evermesh/internal/api"
)

// unseen says of a virtual node, when clients learn only from the name server that
// a replica of it has ended, so that they go on sending requests there for some
// seconds (docs/drops.md).
func unseen(node *api.Resource) []string {
	ports := unchecked(node.VirtualNodeSpec(), nil)
	if len(ports) == 0 {
		return nil
	}
	return []string{fmt.Sprintf("clients learn only from the name server that a replica has ended: the listener on port %s has no healthCheck, and serviceDiscovery is dns. "+
		"Requests meanwhile are lost where routes do not repeat them, as the default retry policy does", strings.Join(ports, ", "))}
}

// unchecked are the ports of a node found by DNS that nobody checks; only one of
// them where a port is given.
func unchecked(spec *api.VirtualNodeSpec, port *int64) (out []string) {
	if spec == nil || spec.ServiceDiscovery == nil || spec.ServiceDiscovery.DNS == nil {
		return nil
	}
	for i := range spec.Listeners {
		l := &spec.Listeners[i]
		if l.HealthCheck == nil && (port == nil || *port == l.PortMapping.Port) {
			out = append(out, fmt.Sprint(l.PortMapping.Port))
		}
	}
	return out
}

// lost: a route that does not repeat what met no replica loses requests while one
// of such a node ends.
func (t *trying) lost(r Reader, of *api.Resource) (out []string) {
	if t.repeats(r, of) {
		return nil
	}
	for _, target := range t.targets {
		node := r.Get(of.Key.In(api.KindVirtualNode, "", target.VirtualNode))
		if node == nil || len(unchecked(node.VirtualNodeSpec(), target.Port)) == 0 {
			continue
		}
		out = append(out, fmt.Sprintf("spec.%s loses requests while a replica of virtual node %s ends: the node is found by DNS and has no healthCheck, and the route repeats neither connection-error nor stream-error",
			t.kind, target.VirtualNode))
	}
	return out
}

// repeats says whether a request that met no replica is sent to another one.
func (t *trying) repeats(r Reader, of *api.Resource) bool {
	if t.explicit {
		return t.maxRetries > 0 && (slices.Contains(t.events, "connection-error") || slices.Contains(t.events, "stream-error"))
	}
	return repeatsByDefault(r, of)
}
