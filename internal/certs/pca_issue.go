package certs

import (
	"context"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/api/pcaapi"
	"github.com/evermesh/evermesh/internal/certs/authority"
	"github.com/evermesh/evermesh/internal/service"
	"github.com/evermesh/evermesh/internal/store"
)

// shortLife is the longest life of what an authority for short-lived certificates
// issues.
const shortLife = 7 * 24 * time.Hour

func (r *Registry) issueCertificate(ctx context.Context, c *service.Call, in *pcaapi.IssueCertificateRequest) (*pcaapi.IssueCertificateResponse, error) {
	template, templateErr := authority.ParseTemplate(r.config.Realm.Partition, in.TemplateARN)
	asked := r.templateKeys(template)
	if templateErr != nil {
		asked = map[string][]string{templateKey: {in.TemplateARN}}
	}
	a, err := r.readAuthority(ctx, c, in.CertificateAuthorityARN, asked)
	if err != nil {
		return nil, err
	}
	if templateErr != nil {
		return nil, api.Errorf(pcaapi.CodeInvalidArgs, "TemplateArn: %v.", templateErr)
	}
	repeat, err := r.before(ctx, c, in.IdempotencyToken)
	out := &pcaapi.IssueCertificateResponse{CertificateARN: repeat.arn}
	if err != nil || repeat.arn != "" {
		return out, err
	}
	now := r.now()
	order := authority.Order{Template: template, Passthrough: in.APIPassthrough, Signing: in.SigningAlgorithm, Now: now}
	if order.Request, err = authority.ParseRequest(in.Csr); err != nil {
		return nil, api.Errorf(pcaapi.CodeMalformedCSR, "The certificate signing request cannot be used: %v.", err)
	}
	if order.NotAfter, err = authority.End(in.Validity, now); err != nil {
		return nil, api.Errorf(pcaapi.CodeInvalidArgs, "Validity: %v.", err)
	}
	if v := in.ValidityNotBefore; v != nil {
		if order.NotBefore, err = authority.Instant(*v); err != nil {
			return nil, api.Errorf(pcaapi.CodeInvalidArgs, "ValidityNotBefore: %v.", err)
		}
	}
	if err := authority.Fits(a.Configuration.KeyAlgorithm, in.SigningAlgorithm); err != nil {
		return nil, api.Errorf(pcaapi.CodeInvalidArgs, "SigningAlgorithm: %v.", err)
	}
	issued, err := r.sign(a, order)
	if err != nil {
		return nil, err
	}
	scopes := []store.Scope{authorityScope(a.account, a.id), issuedScope(a.account, a.id, issued.serial)}
	out.CertificateARN, err = r.once(ctx, c, repeat, scopes, func(tx *store.Tx) (string, error) {
		if err := issued.put(tx, a); err != nil {
			return "", err
		}
		arn := a.arn + "/certificate/" + issued.serial
		c.Commit(tx, &pcaapi.IssueCertificateResponse{CertificateARN: arn})
		return arn, nil
	})
	return out, err
}

// templateKey is the condition key of the template by which an authority signs.
const templateKey = "acm-pca:templatearn"

func (r *Registry) templateKeys(t authority.Template) map[string][]string {
	return map[string][]string{templateKey: {t.ARN(r.config.Realm.Partition)}}
}

// issue is a certificate that is signed and not yet written down.
type issue struct {
	serial string
	parsed *x509.Certificate
	issuedBody
}

// put writes it down, if the authority is still as it was when it signed.
func (i *issue) put(tx *store.Tx, a *stated) error {
	record := tx.Record(a.tail())
	if record == nil {
		return noAuthority(a.arn)
	}
	if record.Revision != a.revision {
		now, err := decode[authorityBody](*record)
		if err != nil {
			return err
		}
		if now.Status != a.Status || now.Certificate != a.Certificate {
			return api.Errorf(pcaapi.CodeInvalidState, "The certificate authority %s was changed while it signed: try again.", a.arn)
		}
	}
	tx.PutRecord(issuedType(), issuedTailOf(a.account, a.id, i.serial), i.issuedBody)
	return nil
}

// sign has the authority sign an order. It writes nothing.
func (r *Registry) sign(a *stated, order authority.Order) (*issue, error) {
	own, err := a.certificate()
	if err != nil {
		return nil, fmt.Errorf("read certificate of %s: %w", a.arn, err)
	}
	first := a.Status == pcaapi.CertificateAuthorityStatusPendingCertificate && a.Type == pcaapi.CertificateAuthorityTypeRoot
	if status := a.state(own, order.Now); status != pcaapi.CertificateAuthorityStatusActive && !first {
		return nil, wrongState(a, status, "issue certificates")
	}
	if a.Usage == pcaapi.CertificateAuthorityUsageModeShortLivedCertificate && own != nil && order.NotAfter.Sub(order.Now) > shortLife {
		return nil, api.Errorf(pcaapi.CodeInvalidArgs, "Validity: this certificate authority is for short-lived certificates, of at most 7 days.")
	}
	key, err := r.open(a.tail(), a.Key)
	if err != nil {
		return nil, err
	}
	if order.Serial, err = authority.NewSerial(); err != nil {
		return nil, err
	}
	order.CRL = r.crlURL(a)
	der, err := authority.Issue(authority.Authority{Certificate: own, Key: key}, order)
	if err != nil {
		return nil, refused(pcaapi.CodeInvalidArgs, err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read what was issued: %w", err)
	}
	out := &issue{serial: authority.SerialID(order.Serial), parsed: parsed, issuedBody: issuedBody{Certificate: string(authority.PEM(der)), NotAfter: parsed.NotAfter}}
	if out.Own = authority.SelfSigned(parsed); !out.Own {
		out.Chain = a.path()
	}
	return out, nil
}

func (r *Registry) issuedCertificate(ctx context.Context, c *service.Call, in *pcaapi.GetCertificateRequest) (*pcaapi.GetCertificateResponse, error) {
	a, err := r.readAuthority(ctx, c, in.CertificateAuthorityARN, nil)
	if err != nil {
		return nil, err
	}
	if a.Status == pcaapi.CertificateAuthorityStatusDeleted {
		return nil, wrongState(a, a.Status, "give certificates")
	}
	serial, ok := strings.CutPrefix(in.CertificateARN, a.arn+"/certificate/")
	if !ok || strings.Contains(serial, "/") {
		return nil, api.Errorf(pcaapi.CodeInvalidARN, "Invalid ARN: %s is none of a certificate of %s.", in.CertificateARN, a.arn)
	}
	b, err := r.issuedAt(ctx, a, serial)
	if err != nil {
		return nil, err
	}
	if b == nil {
		return nil, api.Errorf(pcaapi.CodeResourceNotFound, "Could not find certificate %s.", in.CertificateARN)
	}
	out := &pcaapi.GetCertificateResponse{Certificate: &b.Certificate}
	if b.Chain != "" {
		out.CertificateChain = &b.Chain
	}
	return out, nil
}

func (r *Registry) issuedAt(ctx context.Context, a *stated, serial string) (*issuedBody, error) {
	tail := issuedTailOf(a.account, a.id, serial)
	records, _, err := r.config.Store.Records(ctx, tail)
	if err != nil {
		return nil, err
	}
	for _, record := range records {
		if record.Key == tail {
			return decode[issuedBody](record)
		}
	}
	return nil, nil
}

func permissionTail(a *stated, principal, source string) string {
	return authorityScope(a.account, a.id).Tail("permission", principal+" "+source)
}

func (r *Registry) createPermission(ctx context.Context, c *service.Call, in *pcaapi.CreatePermissionRequest) (*none, error) {
	a, err := r.readAuthority(ctx, c, in.CertificateAuthorityARN, nil)
	if err != nil {
		return nil, err
	}
	if in.Principal != "acm.amazonaws.com" {
		return nil, api.Errorf(pcaapi.CodeRequestFailed, "Principal: permissions are given to acm.amazonaws.com only.")
	}
	source := in.SourceAccount
	if source == "" {
		source = a.account
	}
	tail := permissionTail(a, in.Principal, source)
	return &none{}, r.changeAuthority(ctx, c, a, nil, func(tx *store.Tx, b *authorityBody) error {
		switch {
		case b.Status == pcaapi.CertificateAuthorityStatusDeleted:
			return wrongState(a, b.Status, "have permissions")
		case tx.Record(tail) != nil:
			return api.Errorf(pcaapi.CodePermissionAlreadyExists, "The designated permission has already been given to %s.", in.Principal)
		}
		tx.PutRecord(permissionType(), tail, permissionBody{Created: r.now(), Principal: in.Principal, Source: source, Actions: in.Actions})
		return nil
	})
}

func (r *Registry) deletePermission(ctx context.Context, c *service.Call, in *pcaapi.DeletePermissionRequest) (*none, error) {
	a, err := r.readAuthority(ctx, c, in.CertificateAuthorityARN, nil)
	if err != nil {
		return nil, err
	}
	source := in.SourceAccount
	if source == "" {
		source = a.account
	}
	tail := permissionTail(a, in.Principal, source)
	return &none{}, r.changeAuthority(ctx, c, a, nil, func(tx *store.Tx, _ *authorityBody) error {
		if tx.Record(tail) == nil {
			return api.Errorf(pcaapi.CodeResourceNotFound, "%s has no permission on %s.", in.Principal, a.arn)
		}
		tx.DeleteRecord(permissionType(), tail)
		return nil
	})
}

func (r *Registry) listPermissions(ctx context.Context, c *service.Call, in *pcaapi.ListPermissionsRequest) (*pcaapi.ListPermissionsResponse, error) {
	a, err := r.readAuthority(ctx, c, in.CertificateAuthorityARN, nil)
	if err != nil {
		return nil, err
	}
	records, _, err := r.config.Store.Records(ctx, authorityScope(a.account, a.id).Tail("permission")+"/")
	if err != nil {
		return nil, err
	}
	out := &pcaapi.ListPermissionsResponse{Permissions: []pcaapi.Permission{}}
	records, next, ok := page(records, func(x store.Record) string { return x.Key }, in.NextToken, in.MaxResults, 1000)
	if !ok {
		return nil, api.Errorf(pcaapi.CodeInvalidNextToken, "The NextToken is not one that this list gave out.")
	}
	out.NextToken = next
	for _, record := range records {
		b, err := decode[permissionBody](record)
		if err != nil {
			return nil, err
		}
		out.Permissions = append(out.Permissions, pcaapi.Permission{
			CertificateAuthorityARN: a.arn, Principal: &b.Principal, SourceAccount: b.Source, Actions: b.Actions, CreatedAt: &api.Timestamp{Time: b.Created},
		})
	}
	return out, nil
}

func (r *Registry) tagAuthority(ctx context.Context, c *service.Call, in *pcaapi.TagCertificateAuthorityRequest) (*none, error) {
	added := pcaTagged(in.Tags)
	a, err := r.readAuthority(ctx, c, in.CertificateAuthorityARN, requestKeys(added))
	if err != nil {
		return nil, err
	}
	return &none{}, r.changeAuthority(ctx, c, a, nil, func(_ *store.Tx, b *authorityBody) error {
		if b.Status == pcaapi.CertificateAuthorityStatusDeleted {
			return wrongState(a, b.Status, "be tagged")
		}
		var err error
		b.Tags, err = tagged(b.Tags, added, pcaTags)
		return err
	})
}

func (r *Registry) untagAuthority(ctx context.Context, c *service.Call, in *pcaapi.UntagCertificateAuthorityRequest) (*none, error) {
	a, err := r.readAuthority(ctx, c, in.CertificateAuthorityARN, requestKeys(pcaTagged(in.Tags)))
	if err != nil {
		return nil, err
	}
	return &none{}, r.changeAuthority(ctx, c, a, nil, func(_ *store.Tx, b *authorityBody) error {
		// A tag with a value goes only if it has that value, as in AWS.
		b.Tags = slices.DeleteFunc(b.Tags, func(t tag) bool {
			return slices.ContainsFunc(in.Tags, func(x pcaapi.Tag) bool { return x.Key == t.Key && (x.Value == nil || *x.Value == t.Value) })
		})
		return nil
	})
}

func (r *Registry) authorityTags(ctx context.Context, c *service.Call, in *pcaapi.ListTagsRequest) (*pcaapi.ListTagsResponse, error) {
	a, err := r.readAuthority(ctx, c, in.CertificateAuthorityARN, nil)
	if err != nil {
		return nil, err
	}
	all := slices.Clone(a.Tags)
	slices.SortFunc(all, func(x, y tag) int { return strings.Compare(x.Key, y.Key) })
	out := &pcaapi.ListTagsResponse{Tags: []pcaapi.Tag{}}
	all, next, ok := page(all, func(t tag) string { return t.Key }, in.NextToken, in.MaxResults, mostTags)
	if !ok {
		return nil, api.Errorf(pcaapi.CodeInvalidNextToken, "The NextToken is not one that this list gave out.")
	}
	out.NextToken = next
	for _, t := range all {
		out.Tags = append(out.Tags, pcaapi.Tag{Key: t.Key, Value: &t.Value})
	}
	return out, nil
}

// authorityOf finds the authority that an ARN names, for ACM; nil when there is none.
func (r *Registry) authorityOf(ctx context.Context, arn string) (*stated, error) {
	account, path, ok := r.arnOf("acm-pca", arn)
	if !ok || len(path) != 2 || uuid.Validate(path[1]) != nil {
		return nil, nil
	}
	return r.authorityAt(ctx, account, path[1])
}
