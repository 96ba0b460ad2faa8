package certs

import (
	"context"
	"errors"
	"math/big"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/api/acmapi"
	"github.com/evermesh/evermesh/internal/api/pcaapi"
	"github.com/evermesh/evermesh/internal/certs/authority"
	"github.com/evermesh/evermesh/internal/service"
	"github.com/evermesh/evermesh/internal/store"
)

func (r *Registry) revokeCertificate(ctx context.Context, c *service.Call, in *acmapi.RevokeCertificateRequest) (*acmapi.RevokeCertificateResponse, error) {
	h, err := r.readCertificate(ctx, c, in.CertificateARN, nil)
	switch {
	case err != nil:
		return nil, err
	case h.Type != acmapi.CertificateTypePrivate || h.Certificate == "":
		return nil, api.Errorf(acmapi.CodeValidation, "Certificate %s was not issued by a private certificate authority and cannot be revoked.", h.arn)
	case h.Status == acmapi.CertificateStatusRevoked:
		return nil, api.Errorf(acmapi.CodeConflict, "Certificate %s was revoked already.", h.arn)
	}
	if err := r.unused(ctx, h); err != nil {
		return nil, err
	}
	a, err := r.authorityOf(ctx, h.Authority)
	if err != nil {
		return nil, err
	}
	if a == nil {
		return nil, api.Errorf(acmapi.CodeConflict, "The certificate authority %s does not exist any more.", h.Authority)
	}
	out := &acmapi.RevokeCertificateResponse{CertificateARN: h.arn}
	err = r.changeCertificate(ctx, h, []store.Scope{authorityScope(a.account, a.id)}, func(tx *store.Tx, b *certificateBody) error {
		leaf, err := authority.ParseCertificate([]byte(b.Certificate))
		if err != nil {
			return err
		}
		err = r.revoke(tx, a, authority.SerialID(leaf.SerialNumber), pcaReason(in.RevocationReason), leaf.NotAfter)
		if known, ok := errors.AsType[*api.Error](err); ok && known.Code != pcaapi.CodeRequestAlreadyProcessed {
			return api.Errorf(acmapi.CodeConflict, "%s", known.Message)
		} else if err != nil && !ok {
			return err
		}
		b.Status, b.Revoked, b.Reason = acmapi.CertificateStatusRevoked, r.now(), in.RevocationReason
		c.Commit(tx, out)
		return nil
	})
	return out, err
}

// pcaReason is ACM's reason in PCA's words.
func pcaReason(reason acmapi.RevocationReason) pcaapi.RevocationReason {
	switch reason {
	case acmapi.RevocationReasonCaCompromise:
		return pcaapi.RevocationReasonCertificateAuthorityCompromise
	case acmapi.RevocationReasonSuperceded:
		return pcaapi.RevocationReasonSuperseded
	case acmapi.RevocationReasonCertificateHold, acmapi.RevocationReasonRemoveFromCrl:
		return pcaapi.RevocationReasonUnspecified
	}
	return pcaapi.RevocationReason(reason)
}

// acmReason is PCA's reason in ACM's words.
func acmReason(reason pcaapi.RevocationReason) acmapi.RevocationReason {
	if reason == pcaapi.RevocationReasonCertificateAuthorityCompromise {
		return acmapi.RevocationReasonCaCompromise
	}
	return acmapi.RevocationReason(reason)
}

func (r *Registry) revokeIssued(ctx context.Context, c *service.Call, in *pcaapi.RevokeCertificateRequest) (*none, error) {
	a, err := r.readAuthority(ctx, c, in.CertificateAuthorityARN, nil)
	if err != nil {
		return nil, err
	}
	serial, err := authority.ParseSerial(in.CertificateSerial)
	if err != nil {
		return nil, api.Errorf(pcaapi.CodeInvalidRequest, "CertificateSerial: %v.", err)
	}
	b, err := r.issuedAt(ctx, a, serial)
	switch {
	case err != nil:
		return nil, err
	case b == nil:
		return nil, api.Errorf(pcaapi.CodeResourceNotFound, "Could not find certificate with serial number %s of %s.", in.CertificateSerial, a.arn)
	case b.Own:
		return nil, api.Errorf(pcaapi.CodeInvalidRequest, "A self-signed certificate cannot be revoked.")
	}
	h, err := r.holding(ctx, a, serial)
	if err != nil {
		return nil, err
	}
	scopes := []store.Scope{authorityScope(a.account, a.id)}
	if h != nil {
		scopes = append(scopes, certificateScope(h.account, h.id))
	}
	_, err = r.config.Store.Update(ctx, scopes, func(tx *store.Tx) error {
		if err := r.revoke(tx, a, serial, in.RevocationReason, b.NotAfter); err != nil {
			return err
		}
		if h != nil {
			if err := r.revokeHeld(tx, h, serial, acmReason(in.RevocationReason)); err != nil {
				return err
			}
		}
		c.Commit(tx, nil)
		return nil
	})
	return &none{}, err
}

// holding is the certificate of ACM that is the one of that serial number; nil when ACM
// has none. One that was renewed since is another.
func (r *Registry) holding(ctx context.Context, a *stated, serial string) (*held, error) {
	records, _, err := r.config.Store.Records(ctx, certsTail+a.account+"/certificate/")
	if err != nil {
		return nil, err
	}
	for _, record := range records {
		h, leaf, err := r.heldIn(record)
		if err != nil {
			return nil, err
		}
		if h.Authority == a.arn && leaf != nil && authority.SerialID(leaf.SerialNumber) == serial {
			return h, nil
		}
	}
	return nil, nil
}

// revokeHeld notes with a certificate of ACM that its authority took it back, if it is
// still the one of that serial number.
func (r *Registry) revokeHeld(tx *store.Tx, h *held, serial string, reason acmapi.RevocationReason) error {
	record := tx.Record(h.tail())
	if record == nil {
		return nil
	}
	now, leaf, err := r.heldIn(*record)
	if err != nil || leaf == nil || authority.SerialID(leaf.SerialNumber) != serial {
		return err
	}
	now.Status, now.Revoked, now.Reason = acmapi.CertificateStatusRevoked, r.now(), reason
	tx.PutRecord(certificateType(), h.tail(), now.certificateBody)
	return nil
}

// revoke writes a revocation down, in a transaction that has the authority's scope.
func (r *Registry) revoke(tx *store.Tx, a *stated, serial string, reason pcaapi.RevocationReason, notAfter time.Time) error {
	record := tx.Record(a.tail())
	if record == nil {
		return noAuthority(a.arn)
	}
	now, err := decode[authorityBody](*record)
	if err != nil {
		return err
	}
	if now.Status != pcaapi.CertificateAuthorityStatusActive {
		return wrongState(a, now.Status, "revoke certificates")
	}
	tail := authorityScope(a.account, a.id).Tail("revoked", serial)
	if tx.Record(tail) != nil {
		return api.Errorf(pcaapi.CodeRequestAlreadyProcessed, "The certificate was revoked already.")
	}
	tx.PutRecord(revokedType(), tail, revokedBody{Serial: serial, At: r.now().Truncate(time.Second), Reason: reason, NotAfter: notAfter})
	return nil
}

func serialNumber(id string) *big.Int {
	n, _ := new(big.Int).SetString(id, 16)
	return n
}
