package mesh

import (
	"fmt"
	"slices"
	"time"

	"github.com/evermesh/evermesh/internal/api"
)

// routed: the guide has every virtual service led by a router, for only its routes can say what is repeated, and how often
// (BP-002). A service of tcp has nothing to repeat.
func routed(r Reader, of *api.Resource) []string {
	spec := of.VirtualServiceSpec()
	if spec == nil || spec.Provider == nil || spec.Provider.VirtualNode == nil {
		return nil
	}
	name := spec.Provider.VirtualNode.VirtualNodeName
	node := r.Get(of.Key.In(api.KindVirtualNode, "", name)).VirtualNodeSpec()
	if node == nil || !slices.ContainsFunc(node.Listeners, func(l api.Listener) bool { return l.PortMapping.Protocol != api.PortProtocolTCP }) {
		return nil
	}
	now := "are repeated by App Mesh's default retry policy, which cannot be changed"
	if !repeatsByDefault(r, of) {
		now = "are not repeated, as the mesh's setting defaultRetry is OFF"
	}
	return []string{fmt.Sprintf("its provider is virtual node %s, so that requests that fail %s: a virtual router, with a route that has a retryPolicy, is recommended", name, now)}
}

// unrepeated: a route should have a retry policy, its own or the default one (BP-002).
func (t *trying) unrepeated(r Reader, of *api.Resource) []string {
	if t.explicit || repeatsByDefault(r, of) {
		return nil
	}
	return []string{fmt.Sprintf("spec.%s has no retryPolicy, and the mesh's setting defaultRetry is OFF, so that no request is repeated: a policy with at least 2 retries is recommended", t.kind)}
}

// repeatsByDefault says whether App Mesh's retry policy acts in the resource's mesh where there is no other.
func repeatsByDefault(r Reader, of *api.Resource) bool {
	m := r.Get(of.Key.MeshKey())
	return m == nil || m.Settings.DefaultRetry != api.DefaultRetryOff
}

// Tried says how long a route's retries may take, which people have to weigh against what they are good for (BP-003). It is empty
// for what has no retry policy of its own.
func Tried(of *api.Resource) []string {
	spec := of.RouteSpec()
	if spec == nil {
		return nil
	}
	t := tryingOf(spec)
	if t == nil || t.maxRetries <= 0 || t.perTry <= 0 {
		return nil
	}
	const year = 365 * 24 * time.Hour
	total := "more than a year"
	if t.perTry <= year/time.Duration(t.maxRetries) {
		total = (t.perTry * time.Duration(t.maxRetries)).String()
	}
	return []string{fmt.Sprintf("spec.%s.retryPolicy may add %s to a request: maxRetries %d × perRetryTimeout %v. A try at an endpoint that is gone takes all of its %v",
		t.kind, total, t.maxRetries, t.perTry, t.perTry)}
}
