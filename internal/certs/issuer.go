package certs

import (
	"context"
	"strings"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/api/acmapi"
	"github.com/evermesh/evermesh/internal/api/pcaapi"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/certs/authority"
	"github.com/evermesh/evermesh/internal/secrets"
	"github.com/evermesh/evermesh/internal/service"
)

var _ secrets.Issuer = (*Registry)(nil)

// Certificate is a certificate of ACM with its key, for principals who may
// acm:ExportCertificate, as App Mesh has it (TLS-008, EMS-056): those of its own
// account (SHARE-008). Unlike AWS it may be an imported one. It satisfies
// secrets.Issuer.
func (r *Registry) Certificate(ctx context.Context, p auth.Caller, arn string) (secrets.Certificate, error) {
	h, leaf := r.certificate(arn)
	if err := r.allow(ctx, p, "acm:ExportCertificate", arn, h.tags()); err != nil {
		return secrets.Certificate{}, err
	}
	switch {
	case h == nil:
		return secrets.Certificate{}, noCertificate(arn)
	case h.Status == acmapi.CertificateStatusRevoked:
		return secrets.Certificate{}, api.Errorf(acmapi.CodeResourceNotFound, "certificate %s was revoked on %s: name another one", arn, h.Revoked.Format(time.DateOnly))
	case leaf == nil:
		return secrets.Certificate{}, api.Errorf(acmapi.CodeRequestInProgress, "certificate %s was not issued (%s): its certificate authority has to be ACTIVE when it is requested; request another one", arn, h.Failure)
	case r.now().After(leaf.NotAfter):
		return secrets.Certificate{}, api.Errorf(acmapi.CodeRequestInProgress, "certificate %s expired on %s: %s", arn, leaf.NotAfter.UTC().Format(time.RFC3339), h.remedy())
	}
	key, err := r.open(h.tail(), h.Key)
	if err != nil {
		return secrets.Certificate{}, err
	}
	plain, err := authority.MarshalKey(key)
	if err != nil {
		return secrets.Certificate{}, err
	}
	return secrets.Certificate{Chain: []byte(joined(h.Certificate, h.Chain)), Key: auth.Secret(plain)}, nil
}

// remedy is what to do about a certificate that has expired.
func (h *held) remedy() string {
	if h.Type == acmapi.CertificateTypeImported {
		return "import it again"
	}
	return "it could not be renewed, as its certificate authority is not ACTIVE"
}

func (h *held) tags() []tag {
	if h == nil {
		return nil
	}
	return h.Tags
}

func (a *stated) tags() []tag {
	if a == nil {
		return nil
	}
	return a.Tags
}

// Authority is the certificate of an authority, for principals who may
// acm-pca:GetCertificateAuthorityCertificate (TLS-008): those of its own account.
// One that is switched off is still trusted. It satisfies secrets.Issuer.
func (r *Registry) Authority(ctx context.Context, p auth.Caller, arn string) ([]byte, error) {
	a := r.authority(arn)
	if err := r.allow(ctx, p, "acm-pca:GetCertificateAuthorityCertificate", arn, a.tags()); err != nil {
		return nil, err
	}
	switch {
	case a == nil:
		return nil, noAuthority(arn)
	case a.Status == pcaapi.CertificateAuthorityStatusDeleted:
		return nil, api.Errorf(pcaapi.CodeInvalidState, "certificate authority %s was deleted: restore it, or trust another one", arn)
	case a.Certificate == "":
		return nil, api.Errorf(pcaapi.CodeInvalidState, "certificate authority %s has no certificate yet: import one", arn)
	}
	return []byte(a.Certificate), nil
}

// Root is the root that a certificate chains to, for anybody: it is no secret
// (TLS-016). It satisfies secrets.Issuer.
func (r *Registry) Root(_ context.Context, _ auth.Caller, certificate string) ([]byte, error) {
	h, leaf := r.certificate(certificate)
	switch {
	case h == nil:
		return nil, noCertificate(certificate)
	case leaf == nil:
		return nil, api.Errorf(acmapi.CodeRequestInProgress, "certificate %s was not issued (%s)", certificate, h.Failure)
	case strings.TrimSpace(h.Chain) == "":
		return authority.PEM(leaf.Raw), nil // it is its own
	}
	return rootOf(h.Chain)
}

func (r *Registry) allow(ctx context.Context, p auth.Caller, action, arn string, tags []tag) error {
	return r.config.Authorizer.Authorize(ctx, auth.Question{Principal: p.Principal, Action: action, Resource: arn, Keys: service.Keys(p.Keys, resourceKeys(tags))})
}
