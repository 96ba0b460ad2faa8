package envoy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
)

// TLS is not translated yet. Until it is, nothing that asked for TLS is sent or
// taken in plaintext: such ports stay closed and such requests are answered 503.

// strict says whether a listener takes TLS only.
func strict(l *api.Listener) bool {
	return l.TLS != nil && l.TLS.Mode == api.ListenerTLSModeStrict
}

// tlsProblem is the problem of a listener with TLS; nil without.
func tlsProblem(key api.Key, index int, mode string) []mesh.Problem {
	what := "it takes plaintext only"
	switch mode {
	case "", string(api.ListenerTLSModeDisabled):
		return nil
	case string(api.ListenerTLSModeStrict):
		what = "its port stays closed and callers are answered 503"
	}
	return []mesh.Problem{{Key: key, Reason: ReasonNotTranslated, Message: fmt.Sprintf("spec.listeners[%d].tls: TLS is not translated yet; as the mode is %s, %s", index, mode, what)}}
}

// strict tells of a target that takes TLS only.
func (f *faults) strict(node *api.Resource, l *api.Listener) {
	if f == nil || !strict(l) {
		return
	}
	listeners := node.VirtualNodeSpec().Listeners
	i := slices.IndexFunc(listeners, func(x api.Listener) bool { return x.PortMapping == l.PortMapping })
	for _, p := range tlsProblem(node.Key, i, string(l.TLS.Mode)) {
		f.add(p.Key, p.Reason, "%s", p.Message)
	}
}

// policy is the part of a TLS client policy that matters as long as TLS is not
// translated. The zero value wants no TLS.
type policy struct {
	enforced bool
	ports    string // of target listeners, as text; empty means all
}

// wants says whether requests to a target's listener must be TLS: the policy
// says so, or the target takes nothing else.
func (p policy) wants(l *api.Listener) bool {
	return strict(l) || p.enforced && (p.ports == "" || slices.Contains(strings.Fields(p.ports), fmt.Sprint(l.PortMapping.Port)))
}

// nodePolicy is the policy for a backend: its own, or the node's default
// (VN-026).
func (b *build) nodePolicy(backend *api.VirtualServiceBackend) policy {
	if p := backend.ClientPolicy; p != nil {
		if p.TLS == nil {
			return policy{}
		}
		return b.newPolicy("backends[].virtualService.clientPolicy.tls of "+backend.VirtualServiceName, p.TLS.Enforce, p.TLS.Ports)
	}
	d := b.own.VirtualNodeSpec().BackendDefaults
	if d == nil || d.ClientPolicy == nil || d.ClientPolicy.TLS == nil {
		return policy{}
	}
	return b.newPolicy("backendDefaults.clientPolicy.tls", d.ClientPolicy.TLS.Enforce, d.ClientPolicy.TLS.Ports)
}

// gatewayPolicy is the policy for everything behind a gateway (VG-007).
func (b *build) gatewayPolicy() policy {
	d := b.own.VirtualGatewaySpec().BackendDefaults
	if d == nil || d.ClientPolicy == nil || d.ClientPolicy.TLS == nil {
		return policy{}
	}
	return b.newPolicy("backendDefaults.clientPolicy.tls", d.ClientPolicy.TLS.Enforce, d.ClientPolicy.TLS.Ports)
}

func (b *build) newPolicy(where string, enforce *bool, ports []int64) policy {
	p := policy{enforced: enforce == nil || *enforce}
	for _, port := range ports {
		p.ports += fmt.Sprintf("%d ", port)
	}
	what := "as TLS is enforced, requests are answered 503"
	if !p.enforced {
		what = "as TLS is not enforced, requests are sent in plaintext"
	}
	b.report([]mesh.Problem{{Key: b.own.Key, Reason: ReasonNotTranslated, Message: fmt.Sprintf("spec.%s: TLS is not translated yet; %s", where, what)}})
	return p
}
