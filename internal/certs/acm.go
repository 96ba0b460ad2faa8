package certs

import (
	"context"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/api/acmapi"
	"github.com/evermesh/evermesh/internal/service"
	"github.com/evermesh/evermesh/internal/store"
)

// ACM is the store of certificates as a service.
func (r *Registry) ACM() (*service.Service, error) {
	return service.New("acm", "acm", map[string]service.Operation{
		"RequestCertificate":        service.Op(r.requestCertificate),
		"ImportCertificate":         service.Op(r.importCertificate),
		"ExportCertificate":         service.Op(r.exportCertificate),
		"DescribeCertificate":       service.Read(r.describeCertificate),
		"GetCertificate":            service.Read(r.getCertificate),
		"ListCertificates":          service.Read(r.listCertificates),
		"DeleteCertificate":         service.Op(r.deleteCertificate),
		"RenewCertificate":          service.Op(r.renewCertificate),
		"RevokeCertificate":         service.Op(r.revokeCertificate),
		"AddTagsToCertificate":      service.Op(r.tagCertificate),
		"RemoveTagsFromCertificate": service.Op(r.untagCertificate),
		"ListTagsForCertificate":    service.Read(r.certificateTags),
	})
}

var acmTags = tagCodes{invalid: acmapi.CodeInvalidTag, tooMany: acmapi.CodeTooManyTags}

func acmTagged(in []acmapi.Tag) []tag {
	var out []tag
	for _, t := range in {
		out = append(out, tag{Key: t.Key, Value: text(t.Value)})
	}
	return out
}

// held is a certificate of ACM as it was read, with the place of its record.
type held struct {
	arn, account, id string
	*certificateBody
}

func (h *held) tail() string { return certificateTail(h.account, h.id) }

// readCertificate reads the certificate of an ARN, if the caller may do the call's
// action on it.
func (r *Registry) readCertificate(ctx context.Context, c *service.Call, arn string, keys map[string][]string) (*held, error) {
	account, path, ok := r.arnOf("acm", arn)
	if !ok || len(path) != 2 || path[0] != "certificate" || uuid.Validate(path[1]) != nil {
		return nil, api.Errorf(acmapi.CodeInvalidARN, "Invalid ARN: %s.", arn)
	}
	h, err := r.certificateAt(ctx, account, path[1])
	if err != nil {
		return nil, err
	}
	if h != nil && account == c.Principal.Account {
		keys = service.Keys(keys, resourceKeys(h.Tags))
	}
	if err := c.Allow(ctx, arn, keys); err != nil {
		return nil, err
	}
	if h == nil {
		return nil, noCertificate(arn)
	}
	return h, nil
}

// ResourceKeys are the condition keys of the tags of a certificate or an authority, for
// who asks policies about it; nil of what is not there.
func (r *Registry) ResourceKeys(ctx context.Context, arn string) (map[string][]string, error) {
	if account, path, ok := r.arnOf("acm", arn); ok && len(path) == 2 && path[0] == "certificate" && uuid.Validate(path[1]) == nil {
		h, err := r.certificateAt(ctx, account, path[1])
		return resourceKeys(h.tags()), err
	}
	a, err := r.authorityOf(ctx, arn)
	return resourceKeys(a.tags()), err
}

func noCertificate(arn string) error {
	return api.Errorf(acmapi.CodeResourceNotFound, "Could not find certificate %s.", arn)
}

// certificateAt reads a certificate from the store; nil when there is none.
func (r *Registry) certificateAt(ctx context.Context, account, id string) (*held, error) {
	tail := certificateTail(account, id)
	records, _, err := r.config.Store.Records(ctx, tail)
	if err != nil {
		return nil, err
	}
	for _, record := range records {
		if record.Key == tail {
			b, err := decode[certificateBody](record)
			return &held{r.arn("acm", account, "certificate/"+id), account, id, b}, err
		}
	}
	return nil, nil
}

// changeCertificate changes a certificate in a transaction that may have other
// scopes, too.
func (r *Registry) changeCertificate(ctx context.Context, h *held, scopes []store.Scope, change func(tx *store.Tx, b *certificateBody) error) error {
	_, err := r.config.Store.Update(ctx, append(scopes, certificateScope(h.account, h.id)), func(tx *store.Tx) error {
		record := tx.Record(h.tail())
		if record == nil {
			return noCertificate(h.arn)
		}
		b, err := decode[certificateBody](*record)
		if err != nil {
			return err
		}
		if err := change(tx, b); err != nil {
			return err
		}
		tx.PutRecord(certificateType(), h.tail(), b)
		return nil
	})
	return err
}

func (r *Registry) getCertificate(ctx context.Context, c *service.Call, in *acmapi.GetCertificateRequest) (*acmapi.GetCertificateResponse, error) {
	h, err := r.readCertificate(ctx, c, in.CertificateARN, nil)
	if err != nil {
		return nil, err
	}
	if h.Certificate == "" {
		return nil, notIssued(h)
	}
	return &acmapi.GetCertificateResponse{Certificate: h.Certificate, CertificateChain: h.Chain}, nil
}

// notIssued is the refusal of what needs a certificate that never came about.
func notIssued(h *held) error {
	return api.Errorf(acmapi.CodeRequestInProgress, "Certificate %s was not issued: it is %s (%s).", h.arn, h.Status, h.Failure)
}

// using names the resources that use certificates.
func (r *Registry) using(ctx context.Context) (map[string][]string, error) {
	if r.config.Using == nil {
		return nil, nil
	}
	return r.config.Using(ctx)
}

// unused refuses what would take a certificate from a resource that names it.
func (r *Registry) unused(ctx context.Context, h *held) error {
	all, err := r.using(ctx)
	if err != nil {
		return err
	}
	if by := all[h.arn]; len(by) > 0 {
		return api.Errorf(acmapi.CodeResourceInUse, "Certificate %s in account %s is in use: %s.", h.arn, h.account, strings.Join(by, ", "))
	}
	return nil
}

func (r *Registry) deleteCertificate(ctx context.Context, c *service.Call, in *acmapi.DeleteCertificateRequest) (*none, error) {
	h, err := r.readCertificate(ctx, c, in.CertificateARN, nil)
	if err != nil {
		return nil, err
	}
	if err := r.unused(ctx, h); err != nil {
		return nil, err
	}
	_, err = r.config.Store.Update(ctx, []store.Scope{certificateScope(h.account, h.id)}, func(tx *store.Tx) error {
		if tx.Record(h.tail()) == nil {
			return noCertificate(h.arn)
		}
		tx.DeleteRecord(certificateType(), h.tail())
		c.Commit(tx, nil)
		return nil
	})
	return &none{}, err
}

func (r *Registry) tagCertificate(ctx context.Context, c *service.Call, in *acmapi.AddTagsToCertificateRequest) (*none, error) {
	added := acmTagged(in.Tags)
	h, err := r.readCertificate(ctx, c, in.CertificateARN, requestKeys(added))
	if err != nil {
		return nil, err
	}
	return &none{}, r.changeCertificate(ctx, h, nil, func(tx *store.Tx, b *certificateBody) (err error) {
		c.Commit(tx, nil)
		b.Tags, err = tagged(b.Tags, added, acmTags)
		return err
	})
}

func (r *Registry) untagCertificate(ctx context.Context, c *service.Call, in *acmapi.RemoveTagsFromCertificateRequest) (*none, error) {
	h, err := r.readCertificate(ctx, c, in.CertificateARN, requestKeys(acmTagged(in.Tags)))
	if err != nil {
		return nil, err
	}
	return &none{}, r.changeCertificate(ctx, h, nil, func(tx *store.Tx, b *certificateBody) error {
		// A tag with a value goes only if it has that value, as in AWS.
		b.Tags = slices.DeleteFunc(b.Tags, func(t tag) bool {
			return slices.ContainsFunc(in.Tags, func(x acmapi.Tag) bool { return x.Key == t.Key && (x.Value == nil || *x.Value == t.Value) })
		})
		c.Commit(tx, nil)
		return nil
	})
}

func (r *Registry) certificateTags(ctx context.Context, c *service.Call, in *acmapi.ListTagsForCertificateRequest) (*acmapi.ListTagsForCertificateResponse, error) {
	h, err := r.readCertificate(ctx, c, in.CertificateARN, nil)
	if err != nil {
		return nil, err
	}
	out := &acmapi.ListTagsForCertificateResponse{Tags: []acmapi.Tag{}}
	for _, t := range h.Tags {
		out.Tags = append(out.Tags, acmapi.Tag{Key: t.Key, Value: &t.Value})
	}
	return out, nil
}
