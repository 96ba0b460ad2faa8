package certs

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/api/pcaapi"
	"github.com/evermesh/evermesh/internal/certs/authority"
	"github.com/evermesh/evermesh/internal/seal"
	"github.com/evermesh/evermesh/internal/service"
	"github.com/evermesh/evermesh/internal/store"
)

// PCA is ACM's private certificate authority as a service.
func (r *Registry) PCA() (*service.Service, error) {
	return service.New("acm-pca", "acm-pca", map[string]service.Operation{
		"CreateCertificateAuthority":            service.Op(r.createAuthority),
		"DescribeCertificateAuthority":          service.Read(r.describeAuthority),
		"ListCertificateAuthorities":            service.Read(r.listAuthorities),
		"UpdateCertificateAuthority":            service.Op(r.updateAuthority),
		"DeleteCertificateAuthority":            service.Op(r.deleteAuthority),
		"RestoreCertificateAuthority":           service.Op(r.restoreAuthority),
		"GetCertificateAuthorityCsr":            service.Read(r.authorityRequest),
		"GetCertificateAuthorityCertificate":    service.Read(r.authorityCertificate),
		"ImportCertificateAuthorityCertificate": service.Op(r.importAuthority),
		"IssueCertificate":                      service.Op(r.issueCertificate),
		"GetCertificate":                        service.Read(r.issuedCertificate),
		"RevokeCertificate":                     service.Op(r.revokeIssued),
		"CreatePermission":                      service.Op(r.createPermission),
		"DeletePermission":                      service.Op(r.deletePermission),
		"ListPermissions":                       service.Read(r.listPermissions),
		"TagCertificateAuthority":               service.Op(r.tagAuthority),
		"UntagCertificateAuthority":             service.Op(r.untagAuthority),
		"ListTags":                              service.Read(r.authorityTags),
	})
}

// none is what an operation answers that answers nothing.
type none struct{}

var pcaTags = tagCodes{invalid: pcaapi.CodeInvalidTag, tooMany: pcaapi.CodeTooManyTags}

func pcaTagged(in []pcaapi.Tag) []tag {
	var out []tag
	for _, t := range in {
		out = append(out, tag{Key: t.Key, Value: text(t.Value)})
	}
	return out
}

func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// stated is an authority as it was read, with the place of its record.
type stated struct {
	arn, account, id string
	*authorityBody
	revision int64 // of the record
}

func (a *stated) tail() string { return authorityTail(a.account, a.id) }

// readAuthority reads the authority of an ARN, if the caller may do the call's
// action on it.
func (r *Registry) readAuthority(ctx context.Context, c *service.Call, arn string, keys map[string][]string) (*stated, error) {
	account, path, ok := r.arnOf("acm-pca", arn)
	if !ok || len(path) != 2 || path[0] != "certificate-authority" || uuid.Validate(path[1]) != nil {
		return nil, api.Errorf(pcaapi.CodeInvalidARN, "Invalid ARN: %s.", arn)
	}
	a, err := r.authorityAt(ctx, account, path[1])
	if err != nil {
		return nil, err
	}
	if a != nil && account == c.Principal.Account {
		keys = service.Keys(keys, resourceKeys(a.Tags))
	}
	if err := c.Allow(ctx, arn, keys); err != nil {
		return nil, err
	}
	if a == nil {
		return nil, noAuthority(arn)
	}
	return a, nil
}

func noAuthority(arn string) error {
	return api.Errorf(pcaapi.CodeResourceNotFound, "Could not find Certificate Authority %s.", arn)
}

// authorityAt reads an authority from the store; nil when there is none.
func (r *Registry) authorityAt(ctx context.Context, account, id string) (*stated, error) {
	tail := authorityTail(account, id)
	records, _, err := r.config.Store.Records(ctx, tail)
	if err != nil {
		return nil, err
	}
	for _, record := range records {
		if record.Key != tail {
			continue
		}
		b, err := decode[authorityBody](record)
		if err != nil {
			return nil, err
		}
		return &stated{r.arn("acm-pca", account, "certificate-authority/"+id), account, id, b, record.Revision}, nil
	}
	return nil, nil
}

// changeAuthority changes an authority in a transaction.
func (r *Registry) changeAuthority(ctx context.Context, c *service.Call, a *stated, out any, change func(tx *store.Tx, b *authorityBody) error) error {
	_, err := r.config.Store.Update(ctx, []store.Scope{authorityScope(a.account, a.id)}, func(tx *store.Tx) error {
		record := tx.Record(a.tail())
		if record == nil {
			return noAuthority(a.arn)
		}
		b, err := decode[authorityBody](*record)
		if err != nil {
			return err
		}
		if err := change(tx, b); err != nil {
			return err
		}
		tx.PutRecord(authorityType(), a.tail(), b)
		c.Commit(tx, out)
		return nil
	})
	return err
}

func (r *Registry) createAuthority(ctx context.Context, c *service.Call, in *pcaapi.CreateCertificateAuthorityRequest) (*pcaapi.CreateCertificateAuthorityResponse, error) {
	tags := pcaTagged(in.Tags)
	if err := c.Allow(ctx, "*", requestKeys(tags)); err != nil {
		return nil, err
	}
	repeat, err := r.before(ctx, c, in.IdempotencyToken)
	out := &pcaapi.CreateCertificateAuthorityResponse{CertificateAuthorityARN: repeat.arn}
	if err != nil || repeat.arn != "" {
		return out, err
	}
	if tags, err = tagged(nil, tags, pcaTags); err != nil {
		return nil, err
	}
	cfg := in.CertificateAuthorityConfiguration
	if err := authority.Fits(cfg.KeyAlgorithm, cfg.SigningAlgorithm); err != nil {
		return nil, api.Errorf(pcaapi.CodeInvalidArgs, "CertificateAuthorityConfiguration: %v.", err)
	}
	if err := checkRevocation(in.RevocationConfiguration); err != nil {
		return nil, err
	}
	key, err := authority.NewKey(cfg.KeyAlgorithm)
	if err != nil {
		return nil, api.Errorf(pcaapi.CodeInvalidArgs, "CertificateAuthorityConfiguration: %v.", err)
	}
	request, err := authority.AuthorityRequest(cfg, key)
	if err != nil {
		return nil, api.Errorf(pcaapi.CodeInvalidArgs, "CertificateAuthorityConfiguration: %v.", err)
	}
	account, id, now := c.Principal.Account, uuid.NewString(), r.now()
	body := authorityBody{
		Created: now, Changed: now, Type: in.CertificateAuthorityType, Configuration: cfg, Status: pcaapi.CertificateAuthorityStatusPendingCertificate,
		Request: string(request), Revocation: in.RevocationConfiguration, Usage: in.UsageMode, Storage: in.KeyStorageSecurityStandard, Tags: tags,
	}
	if body.Usage == "" {
		body.Usage = pcaapi.CertificateAuthorityUsageModeGeneralPurpose
	}
	tail := authorityTail(account, id)
	out.CertificateAuthorityARN, err = r.once(ctx, c, repeat, []store.Scope{authorityScope(account, id), seal.Scope()}, func(tx *store.Tx) (string, error) {
		if body.Key, err = r.sealKey(tx, tail, key); err != nil {
			return "", err
		}
		tx.PutRecord(authorityType(), tail, body)
		arn := r.arn("acm-pca", account, "certificate-authority/"+id)
		c.Commit(tx, &pcaapi.CreateCertificateAuthorityResponse{CertificateAuthorityARN: arn})
		return arn, nil
	})
	return out, err
}

// checkRevocation refuses what is not offered.
func checkRevocation(v *pcaapi.RevocationConfiguration) error {
	switch {
	case v == nil:
	case v.OcspConfiguration != nil && v.OcspConfiguration.Enabled:
		return api.Errorf(pcaapi.CodeInvalidArgs, "RevocationConfiguration.OcspConfiguration: OCSP is not offered: use CrlConfiguration.")
	case v.CrlConfiguration != nil && v.CrlConfiguration.CrlType == pcaapi.CrlTypePartitioned:
		return api.Errorf(pcaapi.CodeInvalidArgs, "RevocationConfiguration.CrlConfiguration.CrlType: partitioned lists are not offered: use COMPLETE.")
	}
	return nil
}

func (r *Registry) describeAuthority(ctx context.Context, c *service.Call, in *pcaapi.DescribeCertificateAuthorityRequest) (*pcaapi.DescribeCertificateAuthorityResponse, error) {
	a, err := r.readAuthority(ctx, c, in.CertificateAuthorityARN, nil)
	if err != nil {
		return nil, err
	}
	described, err := r.described(a)
	return &pcaapi.DescribeCertificateAuthorityResponse{CertificateAuthority: described}, err
}

// described is the authority as it is told.
func (r *Registry) described(a *stated) (*pcaapi.CertificateAuthority, error) {
	own, err := a.certificate()
	if err != nil {
		return nil, fmt.Errorf("read certificate of %s: %w", a.arn, err)
	}
	out := &pcaapi.CertificateAuthority{
		ARN: a.arn, OwnerAccount: a.account, CreatedAt: &api.Timestamp{Time: a.Created}, LastStateChangeAt: &api.Timestamp{Time: a.Changed},
		CertificateAuthorityConfiguration: &a.Configuration, Type: a.Type, Status: a.state(own, r.now()), UsageMode: a.Usage,
		KeyStorageSecurityStandard: a.Storage, RevocationConfiguration: a.Revocation,
	}
	if out.RevocationConfiguration == nil {
		out.RevocationConfiguration = &pcaapi.RevocationConfiguration{CrlConfiguration: &pcaapi.CrlConfiguration{}}
	}
	if own != nil {
		serial := own.SerialNumber.String()
		out.Serial = &serial
		out.NotBefore, out.NotAfter = &api.Timestamp{Time: own.NotBefore}, &api.Timestamp{Time: own.NotAfter}
	}
	if !a.Restorable.IsZero() {
		out.RestorableUntil = &api.Timestamp{Time: a.Restorable}
	}
	return out, nil
}

func (r *Registry) listAuthorities(ctx context.Context, c *service.Call, in *pcaapi.ListCertificateAuthoritiesRequest) (*pcaapi.ListCertificateAuthoritiesResponse, error) {
	if err := c.Allow(ctx, "*", nil); err != nil {
		return nil, err
	}
	out := &pcaapi.ListCertificateAuthoritiesResponse{CertificateAuthorities: []pcaapi.CertificateAuthority{}}
	if in.ResourceOwner == pcaapi.ResourceOwnerOtherAccounts {
		return out, nil // an authority is its account's alone
	}
	tail := certsTail + c.Principal.Account + "/authority/"
	records, _, err := r.config.Store.Records(ctx, tail)
	if err != nil {
		return nil, err
	}
	records = slices.DeleteFunc(records, func(x store.Record) bool { return !strings.HasSuffix(x.Key, "/authority") })
	records, next, ok := page(records, func(x store.Record) string { return x.Key }, in.NextToken, in.MaxResults, 1000)
	if !ok {
		return nil, api.Errorf(pcaapi.CodeInvalidNextToken, "The NextToken is not one that this list gave out.")
	}
	out.NextToken = next
	for _, record := range records {
		b, err := decode[authorityBody](record)
		if err != nil {
			return nil, err
		}
		at, _ := parseTail(record.Key)
		described, err := r.described(&stated{r.arn("acm-pca", at.account, "certificate-authority/"+at.id), at.account, at.id, b, record.Revision})
		if err != nil {
			return nil, err
		}
		out.CertificateAuthorities = append(out.CertificateAuthorities, *described)
	}
	return out, nil
}

// wrongState is the refusal of what the authority's state does not allow.
func wrongState(a *stated, status pcaapi.CertificateAuthorityStatus, what string) error {
	return api.Errorf(pcaapi.CodeInvalidState, "The certificate authority %s is not in the correct state to %s: it is %s.", a.arn, what, status)
}

func (r *Registry) updateAuthority(ctx context.Context, c *service.Call, in *pcaapi.UpdateCertificateAuthorityRequest) (*none, error) {
	a, err := r.readAuthority(ctx, c, in.CertificateAuthorityARN, nil)
	if err != nil {
		return nil, err
	}
	if err := checkRevocation(in.RevocationConfiguration); err != nil {
		return nil, err
	}
	const active, disabled = pcaapi.CertificateAuthorityStatusActive, pcaapi.CertificateAuthorityStatusDisabled
	if in.Status != "" && in.Status != active && in.Status != disabled {
		return nil, api.Errorf(pcaapi.CodeInvalidArgs, "Status: want ACTIVE or DISABLED.")
	}
	if in.Status == disabled {
		if err := r.untrusted(ctx, a.arn, "be disabled", true); err != nil {
			return nil, err
		}
	}
	return &none{}, r.changeAuthority(ctx, c, a, nil, func(_ *store.Tx, b *authorityBody) error {
		switch {
		case b.Status == pcaapi.CertificateAuthorityStatusDeleted, in.Status != "" && b.Status != active && b.Status != disabled:
			return wrongState(a, b.Status, "be updated")
		case in.Status != "" && in.Status != b.Status:
			b.Status, b.Changed = in.Status, r.now()
		}
		if in.RevocationConfiguration != nil {
			b.Revocation = in.RevocationConfiguration
		}
		return nil
	})
}

// restorableDays is how long a deleted authority can be restored when the call
// does not say.
const restorableDays = 30

func (r *Registry) deleteAuthority(ctx context.Context, c *service.Call, in *pcaapi.DeleteCertificateAuthorityRequest) (*none, error) {
	a, err := r.readAuthority(ctx, c, in.CertificateAuthorityARN, nil)
	if err != nil {
		return nil, err
	}
	if err := r.untrusted(ctx, a.arn, "be deleted", false); err != nil {
		return nil, err
	}
	days := int64(restorableDays)
	if in.PermanentDeletionTimeInDays != nil {
		days = *in.PermanentDeletionTimeInDays
	}
	return &none{}, r.changeAuthority(ctx, c, a, nil, func(_ *store.Tx, b *authorityBody) error {
		own, err := b.certificate()
		if err != nil {
			return err
		}
		switch now := r.now(); b.state(own, now) {
		case pcaapi.CertificateAuthorityStatusActive, pcaapi.CertificateAuthorityStatusDeleted:
			return wrongState(a, b.Status, "be deleted (disable it first)")
		default:
			b.Status, b.Changed, b.Restorable = pcaapi.CertificateAuthorityStatusDeleted, now, now.Add(time.Duration(days)*24*time.Hour)
		}
		return nil
	})
}

func (r *Registry) restoreAuthority(ctx context.Context, c *service.Call, in *pcaapi.RestoreCertificateAuthorityRequest) (*none, error) {
	a, err := r.readAuthority(ctx, c, in.CertificateAuthorityARN, nil)
	if err != nil {
		return nil, err
	}
	return &none{}, r.changeAuthority(ctx, c, a, nil, func(_ *store.Tx, b *authorityBody) error {
		if b.Status != pcaapi.CertificateAuthorityStatusDeleted {
			return wrongState(a, b.Status, "be restored")
		}
		b.Status, b.Changed, b.Restorable = pcaapi.CertificateAuthorityStatusDisabled, r.now(), time.Time{}
		if b.Certificate == "" {
			b.Status = pcaapi.CertificateAuthorityStatusPendingCertificate
		}
		return nil
	})
}

// refused makes an error of package authority the service's.
func refused(code string, err error) error {
	if errors.Is(err, authority.ErrOrder) {
		message := strings.TrimPrefix(err.Error(), authority.ErrOrder.Error()+": ")
		return api.Errorf(code, "%s.", strings.ToUpper(message[:1])+message[1:])
	}
	return err
}
