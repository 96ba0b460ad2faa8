package certs

import (
	"crypto"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/api/acmapi"
	"github.com/evermesh/evermesh/internal/api/pcaapi"
	"github.com/evermesh/evermesh/internal/certs/authority"
	"github.com/evermesh/evermesh/internal/seal"
	"github.com/evermesh/evermesh/internal/store"
)

// The records:
//
//	service/certs/<account>/authority/<id>/authority            an authority with its sealed key
//	service/certs/<account>/authority/<id>/permission/<who>     who may use it
//	service/certs/<account>/authority/<id>/revoked/<serial>     what it took back
//	service/certs/<account>/certificate/<id>/certificate        a certificate of ACM with its sealed key
//	service/issued/<account>/<authority>/<serial>/issued        a certificate that an authority issued
//
// All of certs is in the memory of every replica; what was issued is not.
const (
	certsTail  = "service/certs/"
	issuedTail = "service/issued/"
)

func authorityScope(account, id string) store.Scope {
	return store.ServiceScope("certs", account, "authority", id)
}

func certificateScope(account, id string) store.Scope {
	return store.ServiceScope("certs", account, "certificate", id)
}

func issuedScope(account, authority, serial string) store.Scope {
	return store.ServiceScope("issued", account, authority, serial)
}

func authorityTail(account, id string) string { return authorityScope(account, id).Tail("authority") }

func certificateTail(account, id string) string {
	return certificateScope(account, id).Tail("certificate")
}

func issuedTailOf(account, authority, serial string) string {
	return issuedScope(account, authority, serial).Tail("issued")
}

// authorityBody is the record of an authority.
type authorityBody struct {
	Created       time.Time                                `json:"created"`
	Changed       time.Time                                `json:"changed"` // its state
	Type          pcaapi.CertificateAuthorityType          `json:"type"`
	Configuration pcaapi.CertificateAuthorityConfiguration `json:"configuration"`
	// Status is never EXPIRED: that follows from the certificate.
	Status      pcaapi.CertificateAuthorityStatus    `json:"status"`
	Request     string                               `json:"request"`               // PEM
	Certificate string                               `json:"certificate,omitempty"` // PEM
	Chain       string                               `json:"chain,omitempty"`       // PEM
	Key         seal.Sealed                          `json:"key"`
	Revocation  *pcaapi.RevocationConfiguration      `json:"revocation,omitempty"`
	Usage       pcaapi.CertificateAuthorityUsageMode `json:"usage"`
	Storage     pcaapi.KeyStorageSecurityStandard    `json:"storage,omitempty"`
	Tags        []tag                                `json:"tags,omitempty"`
	Restorable  time.Time                            `json:"restorable,omitzero"` // until when, if it is deleted
}

func authorityType() store.Type {
	return store.Type{Name: "certificateAuthority", Schema: 1, Members: []string{
		"created", "changed", "type", "configuration", "status", "request", "certificate", "chain", "key", "revocation", "usage", "storage", "tags", "restorable",
	}}
}

// permissionBody is the record of a permission.
type permissionBody struct {
	Created   time.Time           `json:"created"`
	Principal string              `json:"principal"`
	Source    string              `json:"source,omitempty"`
	Actions   []pcaapi.ActionType `json:"actions"`
}

func permissionType() store.Type {
	return store.Type{Name: "authorityPermission", Schema: 1, Members: []string{"created", "principal", "source", "actions"}}
}

// revokedBody is the record of a revocation.
type revokedBody struct {
	Serial   string                  `json:"serial"` // authority.SerialID
	At       time.Time               `json:"at"`
	Reason   pcaapi.RevocationReason `json:"reason"`
	NotAfter time.Time               `json:"notAfter"` // of the certificate: then the list need not name it
}

func revokedType() store.Type {
	return store.Type{Name: "revokedCertificate", Schema: 1, Members: []string{"serial", "at", "reason", "notAfter"}}
}

// issuedBody is the record of what an authority issued.
type issuedBody struct {
	Certificate string    `json:"certificate"`     // PEM
	Chain       string    `json:"chain,omitempty"` // PEM
	NotAfter    time.Time `json:"notAfter"`
	Own         bool      `json:"own,omitempty"` // the authority's own, as a root
}

func issuedType() store.Type {
	return store.Type{Name: "issuedCertificate", Schema: 1, Members: []string{"certificate", "chain", "notAfter", "own"}}
}

// certificateBody is the record of a certificate of ACM.
type certificateBody struct {
	Created     time.Time                `json:"created"`
	Imported    time.Time                `json:"imported,omitzero"`
	Issued      time.Time                `json:"issued,omitzero"`
	Type        acmapi.CertificateType   `json:"type"`
	Status      acmapi.CertificateStatus `json:"status"` // never EXPIRED
	Failure     acmapi.FailureReason     `json:"failure,omitempty"`
	Domain      string                   `json:"domain,omitempty"`
	Names       []string                 `json:"names,omitempty"`
	Algorithm   acmapi.KeyAlgorithm      `json:"algorithm"`
	Authority   string                   `json:"authority,omitempty"`   // ARN
	Certificate string                   `json:"certificate,omitempty"` // PEM
	Chain       string                   `json:"chain,omitempty"`       // PEM
	Key         seal.Sealed              `json:"key,omitzero"`
	Tags        []tag                    `json:"tags,omitempty"`
	Exported    bool                     `json:"exported,omitempty"`
	Export      acmapi.CertificateExport `json:"export,omitempty"` // as it was asked for
	Transparent bool                     `json:"transparent,omitempty"`
	Renewal     *renewal                 `json:"renewal,omitempty"`
	Revoked     time.Time                `json:"revoked,omitzero"`
	Reason      acmapi.RevocationReason  `json:"reason,omitempty"`
}

// renewal is how the last renewal went.
type renewal struct {
	Status  acmapi.RenewalStatus `json:"status"`
	Reason  acmapi.FailureReason `json:"reason,omitempty"`
	Updated time.Time            `json:"updated"`
}

func certificateType() store.Type {
	return store.Type{Name: "certificate", Schema: 1, Members: []string{
		"created", "imported", "issued", "type", "status", "failure", "domain", "names", "algorithm", "authority", "certificate", "chain", "key",
		"tags", "exported", "export", "transparent", "renewal", "revoked", "reason",
	}}
}

func decode[T any](r store.Record) (*T, error) {
	b := new(T)
	if err := json.Unmarshal(r.Body, b); err != nil {
		return nil, fmt.Errorf("read %s: %w", r.Key, err)
	}
	return b, nil
}

// certificate is the authority's own, or nil.
func (b *authorityBody) certificate() (*x509.Certificate, error) {
	if b.Certificate == "" {
		return nil, nil
	}
	return authority.ParseCertificate([]byte(b.Certificate))
}

// state is the status as it is told: an authority whose certificate has ended is
// EXPIRED.
func (b *authorityBody) state(own *x509.Certificate, now time.Time) pcaapi.CertificateAuthorityStatus {
	if b.Status == pcaapi.CertificateAuthorityStatusActive && own != nil && now.After(own.NotAfter) {
		return pcaapi.CertificateAuthorityStatusExpired
	}
	return b.Status
}

// path is the authority's certificate and those above it: the chain of what it
// issues.
func (b *authorityBody) path() string { return joined(b.Certificate, b.Chain) }

// joined puts PEM texts one behind the other.
func joined(parts ...string) string {
	var out strings.Builder
	for _, p := range parts {
		if p = strings.TrimSpace(p); p != "" {
			out.WriteString(p + "\n")
		}
	}
	return out.String()
}

// open reads a sealed key; tail is the record's, which owns it. That the master key is
// lost which sealed it, is the caller's to know.
func (r *Registry) open(tail string, s seal.Sealed) (crypto.Signer, error) {
	text, err := r.config.Box.Open(tail, s)
	if _, lost := errors.AsType[*seal.MasterKeyError](err); lost {
		code, what := acmapi.CodeValidation, "certificate"
		if at, ok := parseTail(tail); ok && at.kind == "authority" {
			code, what = pcaapi.CodeInvalidState, "certificate authority"
		}
		return nil, api.Errorf(code, "The private key of this %s is sealed with a master key that the control plane does not have: bring that key back, or replace the %s.", what, what)
	}
	if err != nil {
		return nil, fmt.Errorf("open key of %s: %w", tail, err)
	}
	return authority.ParseKey(text)
}

// sealKey is the inverse of open.
func (r *Registry) sealKey(tx *store.Tx, tail string, key crypto.Signer) (seal.Sealed, error) {
	text, err := authority.MarshalKey(key)
	if err != nil {
		return seal.Sealed{}, err
	}
	return r.config.Box.Seal(tx, tail, text)
}

// Place is where keys are sealed, for a change of the master key.
func Place() seal.Place {
	return seal.Place{Tail: certsTail, Read: func(r store.Record) (*seal.Content, error) {
		at, ok := parseTail(r.Key)
		switch {
		case ok && at.kind == "authority" && at.rest == "authority":
			b, err := decode[authorityBody](r)
			if err != nil {
				return nil, err
			}
			return &seal.Content{Scope: authorityScope(at.account, at.id), Type: authorityType(), Body: b, Secrets: []seal.Slot{{Owner: r.Key, Sealed: &b.Key}}}, nil
		case ok && at.kind == "certificate":
			b, err := decode[certificateBody](r)
			if err != nil || len(b.Key.Data) == 0 {
				return nil, err
			}
			return &seal.Content{Scope: certificateScope(at.account, at.id), Type: certificateType(), Body: b, Secrets: []seal.Slot{{Owner: r.Key, Sealed: &b.Key}}}, nil
		}
		return nil, nil
	}}
}

// place is a record's key taken apart.
type place struct{ account, kind, id, rest string }

func parseTail(tail string) (place, bool) {
	parts := strings.SplitN(strings.TrimPrefix(tail, certsTail), "/", 4)
	if len(parts) != 4 || !strings.HasPrefix(tail, certsTail) {
		return place{}, false
	}
	return place{parts[0], parts[1], parts[2], parts[3]}, true // none has characters that are encoded
}

// issuedAt takes the key of an issued certificate's record apart.
func issuedAt(tail string) (account, authority, serial string, ok bool) {
	parts := strings.Split(strings.TrimPrefix(tail, issuedTail), "/")
	if len(parts) != 4 || !strings.HasPrefix(tail, issuedTail) || parts[3] != "issued" {
		return "", "", "", false
	}
	return parts[0], parts[1], parts[2], true
}
