package certs

import (
	"context"
	"crypto"
	"errors"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/api/acmapi"
	"github.com/evermesh/evermesh/internal/api/pcaapi"
	"github.com/evermesh/evermesh/internal/certs/authority"
	"github.com/evermesh/evermesh/internal/seal"
	"github.com/evermesh/evermesh/internal/service"
	"github.com/evermesh/evermesh/internal/store"
)

// life is how long ACM's certificates are valid, 13 months as in AWS, if their
// authority is as long.
const life = 395 * 24 * time.Hour

func (r *Registry) requestCertificate(ctx context.Context, c *service.Call, in *acmapi.RequestCertificateRequest) (*acmapi.RequestCertificateResponse, error) {
	tags := acmTagged(in.Tags)
	keys := service.Keys(requestKeys(tags), map[string][]string{"acm:domainnames": append([]string{in.DomainName}, in.SubjectAlternativeNames...)})
	if in.CertificateAuthorityARN != "" {
		keys["acm:certificateauthority"] = []string{in.CertificateAuthorityARN}
	}
	if err := c.Allow(ctx, "*", keys); err != nil {
		return nil, err
	}
	if in.CertificateAuthorityARN == "" {
		return nil, api.Errorf(acmapi.CodeInvalidParameter, "CertificateAuthorityArn: public certificates are not offered, as nobody here can validate a domain: name a private certificate authority, or use ImportCertificate.")
	}
	account, path, ok := r.arnOf("acm-pca", in.CertificateAuthorityARN)
	if !ok || len(path) != 2 || path[0] != "certificate-authority" || uuid.Validate(path[1]) != nil {
		return nil, api.Errorf(acmapi.CodeInvalidARN, "Invalid ARN: %s.", in.CertificateAuthorityARN)
	}
	if account == c.Principal.Account {
		if err := r.mayIssue(ctx, c, in.CertificateAuthorityARN); err != nil {
			return nil, err
		}
	}
	if err := checkRequest(in); err != nil {
		return nil, err
	}
	repeat, err := r.before(ctx, c, in.IdempotencyToken)
	out := &acmapi.RequestCertificateResponse{CertificateARN: repeat.arn}
	if err != nil || repeat.arn != "" {
		return out, err
	}
	if tags, err = tagged(nil, tags, acmTags); err != nil {
		return nil, err
	}
	body := certificateBody{
		Created: r.now(), Type: acmapi.CertificateTypePrivate, Status: acmapi.CertificateStatusFailed, Domain: in.DomainName,
		Names: []string{in.DomainName}, Algorithm: in.KeyAlgorithm, Authority: in.CertificateAuthorityARN, Tags: tags,
	}
	for _, name := range in.SubjectAlternativeNames {
		if !slices.Contains(body.Names, name) {
			body.Names = append(body.Names, name)
		}
	}
	if body.Algorithm == "" {
		body.Algorithm = acmapi.KeyAlgorithmRsa2048
	}
	if in.Options != nil {
		body.Export = in.Options.Export
	}
	var fresh *freshCertificate
	switch {
	case account != c.Principal.Account:
		body.Failure = acmapi.FailureReasonPcaAccessDenied
	default:
		if fresh, err = r.fresh(ctx, &body); err != nil {
			return nil, err
		}
	}
	id := uuid.NewString()
	tail, scopes := certificateTail(c.Principal.Account, id), []store.Scope{certificateScope(c.Principal.Account, id), seal.Scope()}
	out.CertificateARN, err = r.once(ctx, c, repeat, append(scopes, fresh.scopes()...), func(tx *store.Tx) (string, error) {
		body := body
		if err := r.settle(tx, fresh, tail, &body); err != nil {
			return "", err
		}
		tx.PutRecord(certificateType(), tail, body)
		arn := r.arn("acm", c.Principal.Account, "certificate/"+id)
		c.Commit(tx, &acmapi.RequestCertificateResponse{CertificateARN: arn})
		return arn, nil
	})
	return out, err
}

// mayIssue asks whether the caller may have the authority issue certificates, as with
// AWS: who may not use it by itself does not by way of ACM.
func (r *Registry) mayIssue(ctx context.Context, c *service.Call, arn string) error {
	template, err := authority.ParseTemplate(r.config.Realm.Partition, "")
	if err != nil {
		return err
	}
	a, err := r.authorityOf(ctx, arn)
	if err != nil {
		return err
	}
	return c.AllowAction(ctx, "acm-pca:IssueCertificate", arn, service.Keys(r.templateKeys(template), resourceKeys(a.tags())))
}

// freshCertificate is a certificate of ACM that is signed and not yet written down.
type freshCertificate struct {
	by  *stated
	key crypto.Signer
	*issue
}

func (f *freshCertificate) scopes() []store.Scope {
	if f == nil {
		return nil
	}
	return []store.Scope{authorityScope(f.by.account, f.by.id), issuedScope(f.by.account, f.by.id, f.serial)}
}

// fresh has the certificate's authority sign it. Where that cannot be, the reason
// is body.Failure and there is nothing.
func (r *Registry) fresh(ctx context.Context, body *certificateBody) (*freshCertificate, error) {
	body.Failure = ""
	a, err := r.authorityOf(ctx, body.Authority)
	switch {
	case err != nil:
		return nil, err
	case a == nil:
		body.Failure = acmapi.FailureReasonPcaResourceNotFound
		return nil, nil
	}
	own, err := a.certificate()
	if err != nil {
		return nil, err
	}
	now := r.now()
	if own == nil || a.state(own, now) != pcaapi.CertificateAuthorityStatusActive {
		body.Failure = acmapi.FailureReasonPcaInvalidState
		return nil, nil
	}
	out := &freshCertificate{by: a}
	if out.key, err = authority.NewKey(pcaapi.KeyAlgorithm(body.Algorithm)); err != nil {
		return nil, api.Errorf(acmapi.CodeInvalidParameter, "KeyAlgorithm: %v.", err)
	}
	request, err := authority.Request(body.Names, out.key)
	if err != nil {
		return nil, api.Errorf(acmapi.CodeInvalidDomainValidationOptions, "DomainName: %v.", err)
	}
	order := authority.Order{Signing: a.Configuration.SigningAlgorithm, Now: now, NotAfter: now.Add(life)}
	if a.Usage == pcaapi.CertificateAuthorityUsageModeShortLivedCertificate {
		order.NotAfter = now.Add(shortLife)
	}
	if order.NotAfter.After(own.NotAfter) {
		order.NotAfter = own.NotAfter // rather than to refuse, as AWS does
	}
	if order.Request, err = authority.ParseRequest(request); err != nil {
		return nil, api.Errorf(acmapi.CodeInvalidParameter, "DomainName: %v.", err)
	}
	if order.Template, err = authority.ParseTemplate(r.config.Realm.Partition, ""); err != nil {
		return nil, err
	}
	if out.issue, err = r.sign(a, order); err != nil {
		if known, ok := errors.AsType[*api.Error](err); ok {
			body.Failure = acmapi.FailureReasonPcaInvalidArgs
			if known.Code == pcaapi.CodeInvalidState {
				body.Failure = acmapi.FailureReasonPcaInvalidState
			}
			return nil, nil
		}
		return nil, err
	}
	return out, nil
}

// settle puts what was signed into a certificate's record, in a transaction that
// has fresh.scopes and seal.Scope.
func (r *Registry) settle(tx *store.Tx, fresh *freshCertificate, tail string, body *certificateBody) error {
	if fresh == nil {
		return nil
	}
	if err := fresh.put(tx, fresh.by); err != nil {
		return err
	}
	var err error
	if body.Key, err = r.sealKey(tx, tail, fresh.key); err != nil {
		return err
	}
	body.Status, body.Failure, body.Issued = acmapi.CertificateStatusIssued, "", r.now()
	body.Certificate, body.Chain = fresh.Certificate, fresh.Chain
	return nil
}

func (r *Registry) importCertificate(ctx context.Context, c *service.Call, in *acmapi.ImportCertificateRequest) (*acmapi.ImportCertificateResponse, error) {
	tags := acmTagged(in.Tags)
	var old *held
	var err error
	account, id, resource := c.Principal.Account, uuid.NewString(), "*"
	if in.CertificateARN != "" {
		resource = in.CertificateARN
		if old, err = r.readCertificate(ctx, c, resource, requestKeys(tags)); err != nil {
			return nil, err
		}
		account, id = old.account, old.id
	} else if err := c.Allow(ctx, resource, requestKeys(tags)); err != nil {
		return nil, err
	}
	switch {
	case old != nil && old.Type != acmapi.CertificateTypeImported:
		return nil, api.Errorf(acmapi.CodeValidation, "Certificate %s was not imported: only an imported one can be imported again.", old.arn)
	case old != nil && len(tags) > 0:
		return nil, api.Errorf(acmapi.CodeInvalidParameter, "Tags: a certificate that is imported again keeps those that it has: use AddTagsToCertificate.")
	}
	body, key, err := r.imported(in)
	if err != nil {
		return nil, err
	}
	if body.Tags, err = tagged(nil, tags, acmTags); err != nil {
		return nil, err
	}
	tail := certificateTail(account, id)
	out := &acmapi.ImportCertificateResponse{CertificateARN: r.arn("acm", account, "certificate/"+id)}
	_, err = r.config.Store.Update(ctx, []store.Scope{certificateScope(account, id), seal.Scope()}, func(tx *store.Tx) error {
		body := *body
		if record := tx.Record(tail); record != nil {
			now, err := decode[certificateBody](*record)
			if err != nil {
				return err
			}
			body.Tags, body.Created = now.Tags, now.Created
		} else if old != nil {
			return noCertificate(old.arn)
		}
		if body.Key, err = r.sealKey(tx, tail, key); err != nil {
			return err
		}
		tx.PutRecord(certificateType(), tail, body)
		c.Commit(tx, out)
		return nil
	})
	return out, err
}

// imported is the record of what is imported, without its key.
func (r *Registry) imported(in *acmapi.ImportCertificateRequest) (*certificateBody, crypto.Signer, error) {
	key, err := authority.ParseKey(in.PrivateKey)
	if err != nil {
		return nil, nil, api.Errorf(acmapi.CodeValidation, "The private key is not PEM-encoded or is not valid, or it is encrypted.")
	}
	leaf, err := authority.ParseCertificate(in.Certificate)
	if err != nil {
		return nil, nil, api.Errorf(acmapi.CodeValidation, "The certificate is not PEM-encoded or is not valid: %v.", err)
	}
	chain, err := authority.ParseCertificates(in.CertificateChain)
	if err != nil {
		return nil, nil, api.Errorf(acmapi.CodeValidation, "The certificate chain is not PEM-encoded or is not valid: %v.", err)
	}
	now := r.now()
	algorithm := acmapi.KeyAlgorithm(authority.KeyAlgorithm(leaf.PublicKey))
	switch {
	case algorithm == "" || algorithm == acmapi.KeyAlgorithmRsa1024:
		return nil, nil, api.Errorf(acmapi.CodeValidation, "The certificate's key is of an algorithm that is not offered: want RSA of 2048 to 4096 bits, or ECDSA on P-256, P-384 or P-521.")
	case !authority.SameKey(leaf.PublicKey, key.Public()):
		return nil, nil, api.Errorf(acmapi.CodeValidation, "The certificate and the private key do not match.")
	case now.After(leaf.NotAfter):
		return nil, nil, api.Errorf(acmapi.CodeValidation, "The certificate has expired, is not valid.")
	case now.Before(leaf.NotBefore):
		return nil, nil, api.Errorf(acmapi.CodeValidation, "The certificate is not in effect yet, is not valid.")
	case len(chain) == 0 && !authority.SelfSigned(leaf):
		return nil, nil, api.Errorf(acmapi.CodeValidation, "Provided certificate is not a valid self signed. Please provide either a valid self-signed certificate or certificate chain.")
	}
	if err := authority.CheckChain(leaf, chain, now); err != nil {
		return nil, nil, api.Errorf(acmapi.CodeValidation, "Could not validate the certificate with the certificate chain: %v.", err)
	}
	body := &certificateBody{
		Created: now, Imported: now, Type: acmapi.CertificateTypeImported, Status: acmapi.CertificateStatusIssued, Algorithm: algorithm,
		Domain: leaf.Subject.CommonName, Names: slices.Clone(leaf.DNSNames), Certificate: joined(string(in.Certificate)), Chain: joined(string(in.CertificateChain)),
	}
	for _, ip := range leaf.IPAddresses {
		body.Names = append(body.Names, ip.String())
	}
	if body.Domain == "" && len(body.Names) > 0 {
		body.Domain = body.Names[0]
	}
	return body, key, nil
}

// leastPassphrase is the shortest passphrase for an export.
const leastPassphrase = 4

func (r *Registry) exportCertificate(ctx context.Context, c *service.Call, in *acmapi.ExportCertificateRequest) (*acmapi.ExportCertificateResponse, error) {
	h, err := r.readCertificate(ctx, c, in.CertificateARN, nil)
	switch {
	case err != nil:
		return nil, err
	case h.Type != acmapi.CertificateTypePrivate:
		return nil, api.Errorf(acmapi.CodeValidation, "Certificate ARN: %s is not a private certificate", h.arn)
	case h.Certificate == "":
		return nil, notIssued(h)
	case h.Status == acmapi.CertificateStatusRevoked:
		return nil, revoked(h.arn)
	case h.export() != acmapi.CertificateExportEnabled:
		return nil, api.Errorf(acmapi.CodeValidation, "Certificate %s is not exported, as it was requested with Options.Export=DISABLED: request another one.", h.arn)
	case len(in.Passphrase) < leastPassphrase:
		return nil, api.Errorf(acmapi.CodeValidation, "Value at 'passphrase' failed to satisfy constraint: Member must have length greater than or equal to %d", leastPassphrase)
	}
	var out *acmapi.ExportCertificateResponse
	err = r.changeCertificate(ctx, h, nil, func(tx *store.Tx, b *certificateBody) error {
		if b.Status == acmapi.CertificateStatusRevoked {
			return revoked(h.arn)
		}
		// Of one record, so that key and certificate are of each other.
		key, err := r.open(h.tail(), b.Key)
		if err != nil {
			return err
		}
		sealed, err := authority.EncryptKey(key, in.Passphrase)
		if err != nil {
			return err
		}
		b.Exported = true
		out = &acmapi.ExportCertificateResponse{Certificate: b.Certificate, CertificateChain: b.Chain, PrivateKey: string(sealed)}
		c.Commit(tx, out)
		return nil
	})
	return out, err
}

// revoked is the refusal of an export of what nobody is to use any more.
func revoked(arn string) error {
	return api.Errorf(acmapi.CodeValidation, "Certificate %s was revoked and is not exported: request another one.", arn)
}

func (r *Registry) renewCertificate(ctx context.Context, c *service.Call, in *acmapi.RenewCertificateRequest) (*none, error) {
	h, err := r.readCertificate(ctx, c, in.CertificateARN, nil)
	if err != nil {
		return nil, err
	}
	if h.Type != acmapi.CertificateTypePrivate || h.Status != acmapi.CertificateStatusIssued {
		return nil, notEligible(h.arn)
	}
	return &none{}, r.renew(ctx, h, c)
}

func notEligible(arn string) error {
	return api.Errorf(acmapi.CodeValidation, "Certificate %s is not eligible for renewal: only one that a private certificate authority issued, and that was not revoked, is.", arn)
}
