package envoy

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unique"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
)

// policy is a TLS client policy; the zero value is none. It is comparable:
// clients with equal policies share what is made for them.
type policy struct {
	set                bool
	enforced           bool
	ports              string // of target listeners, each with spaces around; empty means all
	certificate, trust source
	names              string // one a line
}

// covers says whether the policy is for a target's listener. One that is not
// counts as no policy (TLS-013).
func (p *policy) covers(l *api.Listener) bool {
	return p.set && (p.ports == "" || strings.Contains(p.ports, " "+strconv.FormatInt(l.PortMapping.Port, 10)+" "))
}

// nodePolicy is the policy for a backend: its own, or the node's default
// (VN-026).
func (b *build) nodePolicy(backend *api.VirtualServiceBackend) policy {
	if p := backend.ClientPolicy; p != nil {
		return b.newPolicy("backends[].virtualService.clientPolicy.tls of "+backend.VirtualServiceName, p.TLS)
	}
	d := b.own.VirtualNodeSpec().BackendDefaults
	if d == nil || d.ClientPolicy == nil {
		return policy{}
	}
	return b.newPolicy("backendDefaults.clientPolicy.tls", d.ClientPolicy.TLS)
}

// nodePolicies are the policies for all backends of a node, which change with
// the node alone.
func (b *build) nodePolicies(spec *api.VirtualNodeSpec) map[*api.VirtualServiceBackend]unique.Handle[policy] {
	out := make(map[*api.VirtualServiceBackend]unique.Handle[policy], len(spec.Backends))
	for i := range spec.Backends {
		if v := spec.Backends[i].VirtualService; v != nil {
			out[v] = unique.Make(b.nodePolicy(v))
		}
	}
	return out
}

// policyFor is what nodePolicies found for a backend.
func (b *build) policyFor(in *inner, backend *api.VirtualServiceBackend) unique.Handle[policy] {
	if p, ok := in.policies[backend]; ok {
		return p
	}
	return unique.Make(b.nodePolicy(backend))
}

// gatewayPolicy is the policy for everything behind a gateway (VG-007).
func (b *build) gatewayPolicy() policy {
	d := b.own.VirtualGatewaySpec().BackendDefaults
	if d == nil || d.ClientPolicy == nil || d.ClientPolicy.TLS == nil {
		return policy{}
	}
	t := d.ClientPolicy.TLS
	p := &api.ClientPolicyTLS{
		Enforce: t.Enforce, Ports: t.Ports,
		Validation: api.TLSValidationContext{SubjectAlternativeNames: t.Validation.SubjectAlternativeNames, Trust: api.TLSValidationContextTrust{
			File: (*api.TLSValidationContextFileTrust)(t.Validation.Trust.File),
			SDS:  (*api.TLSValidationContextSDSTrust)(t.Validation.Trust.SDS),
			ACM:  (*api.TLSValidationContextACMTrust)(t.Validation.Trust.ACM),
		}},
	}
	if c := t.Certificate; c != nil {
		p.Certificate = &api.ClientTLSCertificate{File: (*api.ListenerTLSFileCertificate)(c.File), SDS: (*api.ListenerTLSSDSCertificate)(c.SDS)}
	}
	return b.newPolicy("backendDefaults.clientPolicy.tls", p)
}

func (b *build) newPolicy(where string, t *api.ClientPolicyTLS) policy {
	if t == nil {
		return policy{}
	}
	p := policy{set: true, enforced: t.Enforce == nil || *t.Enforce}
	for _, port := range t.Ports {
		p.ports += fmt.Sprintf(" %d ", port)
	}
	if c := t.Certificate; c != nil {
		p.certificate = b.reachable(certificateFrom(c.File, c.SDS, nil))
	}
	p.trust = b.reachable(trustFrom(t.Validation.Trust.File, t.Validation.Trust.SDS, t.Validation.Trust.ACM))
	names := exactNames(t.Validation.SubjectAlternativeNames)
	p.names = strings.Join(names, "\n")
	if !p.enforced {
		return p
	}
	fault := func(format string, args ...any) {
		b.report([]mesh.Problem{{Key: b.own.Key, Reason: ReasonInvalid, Message: "spec." + where + ": " + fmt.Sprintf(format, args...)}})
	}
	for _, name := range names {
		if isWildcard(name) {
			fault("%q is a wildcard, which no certificate matches as long as the policy is enforced", name)
		}
	}
	switch {
	case p.trust.none():
		fault("the policy is enforced and trusts nobody, so requests are answered 503")
	case len(names) > 0 && !slices.ContainsFunc(names, isName):
		fault("there is no other name, so requests are answered 503")
	}
	return p
}

func isWildcard(name string) bool { return strings.Contains(name, "*") }

func isName(name string) bool { return !isWildcard(name) }

// origination is how a client speaks TLS with a target's listener; the zero
// value is plaintext. It is comparable.
type origination struct {
	on                 bool
	enforced           bool // by a policy
	certificate, trust source
	names              string // one a line
	serverName         string
}

// toward decides how a client with that policy speaks with a target's listener:
// as its policy says where there is one for the port and either it is enforced
// or the target has TLS; else as the target does (TLS-012 to TLS-017, TLS-033). A
// target with an identity is that node and no other, and the client shows its own.
func (p *policy) toward(node *api.Resource, l *api.Listener) origination {
	t := nodeTermination(l.TLS, node.Key)
	covered := p.covers(l)
	if !t.offersTLS() && (!covered || !p.enforced) {
		return origination{}
	}
	name := discoveryName(node)
	out := origination{on: true, names: name}
	if name != "" && !isAddress(name) {
		out.serverName = name
	}
	switch {
	case mesh.Identified(l.TLS):
		// It goes before a policy, which would not know whom to trust.
		out.enforced, out.certificate, out.trust = true, t.certificate, t.trust
		out.names = mesh.Identity(node.Key)
	case covered:
		out.enforced, out.certificate, out.trust = p.enforced, p.certificate, p.trust
		if p.names != "" {
			out.names = p.names
		}
	case l.TLS.Certificate.ACM != nil:
		out.trust = source{name: acmSecret(ACMIssuer, l.TLS.Certificate.ACM.CertificateARN).String()}
	}
	return out
}

// discoveryName is what a node goes by, and what its certificate must be for
// when nobody says otherwise (TLS-003, TLS-004, TLS-019).
func discoveryName(node *api.Resource) string {
	switch d := node.VirtualNodeSpec().ServiceDiscovery; {
	case d == nil:
	case d.DNS != nil:
		return strings.TrimSuffix(d.DNS.Hostname, ".")
	case d.AWSCloudMap != nil:
		return d.AWSCloudMap.ServiceName + "." + d.AWSCloudMap.NamespaceName
	}
	return ""
}

// key tells originations apart in a piece's name.
func (o *origination) key() string {
	if !o.on {
		return ""
	}
	var space [512]byte
	text := append(space[:0], " tls"...)
	for _, b := range []bool{o.enforced, o.certificate.own, o.trust.own} {
		text = strconv.AppendBool(append(text, ' '), b)
	}
	for _, s := range []string{o.certificate.name, o.trust.name, o.names, o.serverName} {
		text = append(strconv.AppendInt(append(text, ' '), int64(len(s)), 10), ' ')
		text = append(text, s...)
	}
	return string(text)
}

// originate adds the client's end of TLS to a cluster. Where it cannot be as the
// policy says the cluster loses its endpoints, as nothing that asked for TLS is
// sent otherwise.
func (o *origination) originate(c *clusterv3.Cluster, ads *corev3.ConfigSource, node *api.Resource, l *api.Listener, f *faults) (ok bool) {
	if !o.on {
		return true
	}
	var names []string
	if o.names != "" {
		names = strings.Split(o.names, "\n")
	}
	if o.enforced {
		names = slices.DeleteFunc(names, isWildcard)
		if o.trust.none() || len(names) == 0 && o.names != "" {
			return false // the policy's own problem
		}
	}
	socket, err := tlsSocket(&tlsv3.UpstreamTlsContext{
		CommonTlsContext: common(ads, l.PortMapping.Protocol, o.certificate, o.trust, subjectNames(names, o.enforced)),
		Sni:              o.serverName,
	})
	if err != nil {
		f.add(node.Key, ReasonInvalid, "TLS with the listener on port %d: Envoy would refuse it: %v; callers are answered 503", l.PortMapping.Port, reason(err))
		return false
	}
	c.TransportSocket = socket
	return true
}

// remark notes that a client which has no policy for the listener takes any
// certificate: App Mesh's way, which nobody may mean (TLS-016). It is said of the
// target here and of its clients by unvalidated, as both may change it.
func (o *origination) remark(p *piece, node *api.Resource, l *api.Listener) {
	if !o.on || o.enforced || !o.trust.none() {
		return
	}
	port := l.PortMapping.Port
	p.unvalidated = fmt.Sprintf("virtual node %s on port %d", node.Key.Name, port)
	p.add(node.Key, mesh.ReasonUnvalidated, "clients without a TLS client policy for port %d do not look at its certificate, which is of type file or sds: give them clientPolicy.tls with validation", port)
}

// unvalidated says of the client that it takes any certificate of the target.
func (b *build) unvalidated(target string) {
	if target != "" {
		b.report([]mesh.Problem{{Key: b.own.Key, Reason: mesh.ReasonUnvalidated, Message: "TLS with " + target +
			" goes by no client policy, and its certificate, of type file or sds, is not looked at: set clientPolicy.tls with validation on the backend or in backendDefaults"}})
	}
}

// settle leaves one cluster of each name: of clusters sorted by it, those that
// several services share are one. Two backends may want the same target's
// listener with different TLS; App Mesh's names leave room for one. What an
// enforced policy says goes first, as TLS is then certain (TLS-012), then what
// comes first in the spec, and the other is a problem.
func (b *build) settle(all []*Resource) []*Resource {
	out := all[:0]
	for i := 0; i < len(all); {
		j, one := i+1, true
		for ; j < len(all) && all[j].Name == all[i].Name; j++ {
			one = one && all[j] == all[i]
		}
		r := all[i]
		if !one {
			r = b.chooseCluster(all[i].Name)
		}
		out = append(out, r)
		i = j
	}
	return out
}

// chooseCluster settles who has the cluster of that name.
func (b *build) chooseCluster(name string) *Resource {
	type claim struct {
		resource *Resource
		enforced bool
		index    int // in the spec
		service  string
	}
	var claims []claim
	for _, c := range b.callees {
		for _, p := range c.pieces {
			if p.resource == nil || p.resource.Name != name {
				continue
			}
			i := slices.IndexFunc(b.view.Backends, func(x mesh.Backend) bool { return x.Service.Key == c.service.Key })
			claims = append(claims, claim{p.resource, p.enforced, i, c.service.Key.Name})
		}
	}
	slices.SortStableFunc(claims, func(x, y claim) int {
		if x.enforced != y.enforced {
			if x.enforced {
				return -1
			}
			return 1
		}
		return x.index - y.index
	})
	for _, c := range claims[1:] {
		if c.resource != claims[0].resource {
			b.clashes = append(b.clashes, mesh.Problem{Key: b.own.Key, Reason: ReasonConflict, Message: fmt.Sprintf(
				"backends %s and %s reach the same targets with different TLS client policies, and a proxy has one cluster for both (%s): the policy for %s is used",
				claims[0].service, c.service, name, claims[0].service)})
		}
	}
	return claims[0].resource
}
