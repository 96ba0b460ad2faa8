package certs

import (
	"context"
	"fmt"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/api/pcaapi"
	"github.com/evermesh/evermesh/internal/certs/authority"
	"github.com/evermesh/evermesh/internal/service"
	"github.com/evermesh/evermesh/internal/store"
)

func (r *Registry) authorityRequest(ctx context.Context, c *service.Call, in *pcaapi.GetCertificateAuthorityCsrRequest) (*pcaapi.GetCertificateAuthorityCsrResponse, error) {
	a, err := r.readAuthority(ctx, c, in.CertificateAuthorityARN, nil)
	if err != nil {
		return nil, err
	}
	if a.Status == pcaapi.CertificateAuthorityStatusDeleted {
		return nil, wrongState(a, a.Status, "have a certificate signing request")
	}
	return &pcaapi.GetCertificateAuthorityCsrResponse{Csr: &a.Request}, nil
}

func (r *Registry) authorityCertificate(ctx context.Context, c *service.Call, in *pcaapi.GetCertificateAuthorityCertificateRequest) (*pcaapi.GetCertificateAuthorityCertificateResponse, error) {
	a, err := r.readAuthority(ctx, c, in.CertificateAuthorityARN, nil)
	if err != nil {
		return nil, err
	}
	if a.Status == pcaapi.CertificateAuthorityStatusDeleted || a.Certificate == "" {
		return nil, wrongState(a, a.Status, "have a certificate")
	}
	out := &pcaapi.GetCertificateAuthorityCertificateResponse{Certificate: &a.Certificate}
	if a.Chain != "" {
		out.CertificateChain = &a.Chain
	}
	return out, nil
}

func (r *Registry) importAuthority(ctx context.Context, c *service.Call, in *pcaapi.ImportCertificateAuthorityCertificateRequest) (*none, error) {
	a, err := r.readAuthority(ctx, c, in.CertificateAuthorityARN, nil)
	if err != nil {
		return nil, err
	}
	if err := r.fitsAuthority(a, in); err != nil {
		return nil, err
	}
	return &none{}, r.changeAuthority(ctx, c, a, nil, func(_ *store.Tx, b *authorityBody) error {
		switch b.Status {
		case pcaapi.CertificateAuthorityStatusPendingCertificate, pcaapi.CertificateAuthorityStatusActive:
			b.Status = pcaapi.CertificateAuthorityStatusActive
		case pcaapi.CertificateAuthorityStatusDisabled: // it stays so
		default:
			return wrongState(a, b.Status, "import a certificate")
		}
		b.Certificate, b.Chain, b.Changed = joined(string(in.Certificate)), joined(string(in.CertificateChain)), r.now()
		return nil
	})
}

// fitsAuthority says whether a certificate with its chain can be the authority's.
func (r *Registry) fitsAuthority(a *stated, in *pcaapi.ImportCertificateAuthorityCertificateRequest) error {
	own, err := authority.ParseCertificate(in.Certificate)
	if err != nil {
		return api.Errorf(pcaapi.CodeMalformedCertificate, "Certificate: %v.", err)
	}
	chain, err := authority.ParseCertificates(in.CertificateChain)
	if err != nil {
		return api.Errorf(pcaapi.CodeMalformedCertificate, "CertificateChain: %v.", err)
	}
	request, err := authority.ParseRequest([]byte(a.Request))
	if err != nil {
		return fmt.Errorf("read request of %s: %w", a.arn, err)
	}
	now, root := r.now(), a.Type == pcaapi.CertificateAuthorityTypeRoot
	switch {
	case !authority.SameKey(own.PublicKey, request.PublicKey):
		return api.Errorf(pcaapi.CodeCertificateMismatch, "The certificate does not match the key of the certificate authority: it must be issued for its certificate signing request.")
	case !own.IsCA:
		return api.Errorf(pcaapi.CodeInvalidRequest, "The certificate is not that of a certificate authority.")
	case now.After(own.NotAfter):
		return api.Errorf(pcaapi.CodeInvalidRequest, "The certificate has expired.")
	case root && !authority.SelfSigned(own):
		return api.Errorf(pcaapi.CodeInvalidRequest, "The certificate of a root certificate authority must be self-signed.")
	case root && len(chain) > 0:
		return api.Errorf(pcaapi.CodeInvalidRequest, "A root certificate authority has no certificate chain.")
	case !root && len(chain) == 0:
		return api.Errorf(pcaapi.CodeInvalidRequest, "A subordinate certificate authority needs its certificate chain.")
	}
	if err := authority.CheckChain(own, chain, now); err != nil {
		return api.Errorf(pcaapi.CodeInvalidRequest, "CertificateChain: %v.", err)
	}
	if !root && !authority.SelfSigned(chain[len(chain)-1]) {
		return api.Errorf(pcaapi.CodeInvalidRequest, "CertificateChain: it does not end with a root certificate.")
	}
	return nil
}
