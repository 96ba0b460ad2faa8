package mesh

import (
	"fmt"
	"slices"
	"strings"

	"github.com/evermesh/evermesh/internal/api"
)

// Named are what a node or gateway names by ARN for its TLS.
type Named struct {
	Certificates []string // of its listeners
	Authorities  []string // of its client policies
}

// NamedARN is a certificate or an authority in the place of a spec that names it.
type NamedARN struct {
	Path      string // spec.listeners[0].tls.certificate.acm.certificateArn
	ARN       string // as it stands there: any text
	Authority bool   // else it is to be a certificate
}

// ARNsOf are the certificates and authorities that a spec names, in its order.
func ARNsOf(r *api.Resource) (out []NamedARN) {
	eachARN(r, func(arn string, authority bool, path func() string) {
		out = append(out, NamedARN{path(), arn, authority})
	})
	return out
}

// CertificatesOf are the certificates and authorities that a spec names, sorted,
// each once.
func CertificatesOf(r *api.Resource) Named {
	var out Named
	eachARN(r, func(arn string, authority bool, _ func() string) {
		if authority {
			out.Authorities = append(out.Authorities, arn)
		} else {
			out.Certificates = append(out.Certificates, arn)
		}
	})
	for _, list := range []*[]string{&out.Certificates, &out.Authorities} {
		slices.Sort(*list)
		*list = slices.Compact(*list)
	}
	return out
}

// eachARN calls name with each certificate and authority that a spec names. Paths are
// for who needs them: most do not.
func eachARN(r *api.Resource, name func(arn string, authority bool, path func() string)) {
	certificate := func(i int, arn string) {
		name(arn, false, func() string { return fmt.Sprintf("spec.listeners[%d].tls.certificate.acm.certificateArn", i) })
	}
	authorities := func(arns []string, of func() string) {
		for i, arn := range arns {
			name(arn, true, func() string {
				return fmt.Sprintf("%s.clientPolicy.tls.validation.trust.acm.certificateAuthorityArns[%d]", of(), i)
			})
		}
	}
	policy := func(p *api.ClientPolicy, of func() string) {
		if p != nil && p.TLS != nil && p.TLS.Validation.Trust.ACM != nil {
			authorities(p.TLS.Validation.Trust.ACM.CertificateAuthorityARNs, of)
		}
	}
	defaults := func() string { return "spec.backendDefaults" }
	if spec := r.VirtualNodeSpec(); spec != nil {
		for i := range spec.Listeners {
			if t := spec.Listeners[i].TLS; t != nil && t.Certificate.ACM != nil {
				certificate(i, t.Certificate.ACM.CertificateARN)
			}
		}
		if spec.BackendDefaults != nil {
			policy(spec.BackendDefaults.ClientPolicy, defaults)
		}
		for i, b := range spec.Backends {
			if b.VirtualService != nil {
				policy(b.VirtualService.ClientPolicy, func() string { return fmt.Sprintf("spec.backends[%d].virtualService", i) })
			}
		}
	}
	if spec := r.VirtualGatewaySpec(); spec != nil {
		for i := range spec.Listeners {
			if t := spec.Listeners[i].TLS; t != nil && t.Certificate.ACM != nil {
				certificate(i, t.Certificate.ACM.CertificateARN)
			}
		}
		if d := spec.BackendDefaults; d != nil && d.ClientPolicy != nil && d.ClientPolicy.TLS != nil && d.ClientPolicy.TLS.Validation.Trust.ACM != nil {
			authorities(d.ClientPolicy.TLS.Validation.Trust.ACM.CertificateAuthorityARNs, defaults)
		}
	}
}

// Using are the nodes and gateways, of whatever mesh, that name certificates: by the
// certificates' ARNs, sorted by key.
func (s *Snapshot) Using() map[string][]*api.Resource {
	out := map[string][]*api.Resource{}
	for _, t := range s.meshes {
		for _, i := range []int{nodes, gateways} {
			for _, r := range t.kinds[i].list("") {
				for _, certificate := range CertificatesOf(r).Certificates {
					if certificate != IdentityCertificate {
						out[certificate] = append(out[certificate], r)
					}
				}
			}
		}
	}
	for _, list := range out {
		slices.SortFunc(list, func(a, b *api.Resource) int { return strings.Compare(a.Key.String(), b.Key.String()) })
	}
	return out
}
