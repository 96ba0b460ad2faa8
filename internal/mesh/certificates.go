package mesh

import (
	"slices"
	"strings"

	"github.com/evermesh/evermesh/internal/api"
)

// Named are what a node or gateway names by ARN for its TLS.
type Named struct {
	Certificates []string // of its listeners
	Authorities  []string // of its client policies
}

// CertificatesOf are the certificates and authorities that a spec names, sorted,
// each once.
func CertificatesOf(r *api.Resource) Named {
	var out Named
	if spec := r.VirtualNodeSpec(); spec != nil {
		for i := range spec.Listeners {
			if t := spec.Listeners[i].TLS; t != nil && t.Certificate.ACM != nil {
				out.Certificates = append(out.Certificates, t.Certificate.ACM.CertificateARN)
			}
		}
		policy := func(p *api.ClientPolicy) {
			if p != nil && p.TLS != nil && p.TLS.Validation.Trust.ACM != nil {
				out.Authorities = append(out.Authorities, p.TLS.Validation.Trust.ACM.CertificateAuthorityARNs...)
			}
		}
		if spec.BackendDefaults != nil {
			policy(spec.BackendDefaults.ClientPolicy)
		}
		for _, b := range spec.Backends {
			if b.VirtualService != nil {
				policy(b.VirtualService.ClientPolicy)
			}
		}
	}
	if spec := r.VirtualGatewaySpec(); spec != nil {
		for i := range spec.Listeners {
			if t := spec.Listeners[i].TLS; t != nil && t.Certificate.ACM != nil {
				out.Certificates = append(out.Certificates, t.Certificate.ACM.CertificateARN)
			}
		}
		if d := spec.BackendDefaults; d != nil && d.ClientPolicy != nil && d.ClientPolicy.TLS != nil && d.ClientPolicy.TLS.Validation.Trust.ACM != nil {
			out.Authorities = append(out.Authorities, d.ClientPolicy.TLS.Validation.Trust.ACM.CertificateAuthorityARNs...)
		}
	}
	for _, list := range []*[]string{&out.Certificates, &out.Authorities} {
		slices.Sort(*list)
		*list = slices.Compact(*list)
	}
	return out
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
