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
	ports := Unchecked(node.VirtualNodeSpec(), nil)
	if len(ports) == 0 {
		return nil
	}
	return []string{fmt.Sprintf("clients learn only from the name server that a replica has ended: the listener on port %s has no healthCheck by HTTP or gRPC, and serviceDiscovery is dns. "+
		"Requests meanwhile are lost where routes do not repeat them, as the default retry policy does. "+
		"Give it such a check, which a replica's agent fails when it is told to end; or take a replica out of the name's answers before that; or have the node found by Cloud Map", strings.Join(ports, ", "))}
}

// Unchecked are the ports of a node found by DNS on which no check tells clients that a
// replica is about to end; only one of them where a port is given. Its agent fails checks
// by HTTP and gRPC in Envoy. A check by TCP succeeds until Envoy has ended.
func Unchecked(spec *api.VirtualNodeSpec, port *int64) (out []string) {
	if spec == nil || spec.ServiceDiscovery == nil || spec.ServiceDiscovery.DNS == nil {
		return nil
	}
	for i := range spec.Listeners {
		l := &spec.Listeners[i]
		if !told(l) && (port == nil || *port == l.PortMapping.Port) {
			out = append(out, fmt.Sprint(l.PortMapping.Port))
		}
	}
	return out
}

// told says whether clients of a listener are told by a check that a replica is about to
// end. What a check at another port asks is not known here; it may be.
func told(l *api.Listener) bool {
	h := l.HealthCheck
	return h != nil && (h.Protocol != api.PortProtocolTCP || h.Port != nil && *h.Port != l.PortMapping.Port)
}

// lost: a route that does not repeat what met no replica loses requests while one
// of such a node ends.
func (t *trying) lost(r Reader, of *api.Resource) (out []string) {
	if t.repeats(r, of) {
		return nil
	}
	for _, target := range t.targets {
		node := r.Get(of.Key.In(api.KindVirtualNode, "", target.VirtualNode))
		if node == nil || len(Unchecked(node.VirtualNodeSpec(), target.Port)) == 0 {
			continue
		}
		out = append(out, fmt.Sprintf("spec.%s loses requests while a replica of virtual node %s ends: the node is found by DNS and has no healthCheck by HTTP or gRPC, and the route repeats neither connection-error nor stream-error",
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
