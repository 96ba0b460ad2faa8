// Package secretstest has an issuer of certificates for tests: a real authority,
// whose certificates can be renewed and whose word on who may have them can be
// changed while it serves.
package secretstest

import (
	"context"
	"strings"
	"sync"
	"testing"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/envoy/sdstest"
	"github.com/evermesh/evermesh/internal/secrets"
)

// Issuer has certificates and authorities by their ARNs. An account may have what
// is its own, unless Forbid says otherwise.
type Issuer struct {
	mu           sync.Mutex
	certificates map[string]issued
	authorities  map[string][]byte
	forbidden    map[string]bool
	changes      []string      // in their order
	changed      chan struct{} // closed at the next
}

type issued struct {
	certificate secrets.Certificate
	root        []byte
}

var _ secrets.Issuer = (*Issuer)(nil)

// New makes an issuer that has nothing.
func New() *Issuer {
	return &Issuer{
		certificates: map[string]issued{}, authorities: map[string][]byte{}, forbidden: map[string]bool{}, changed: make(chan struct{}),
	}
}

// Issue puts a certificate of the authority for these names behind the ARN: the
// first, or one that replaces what was there.
func (i *Issuer) Issue(t testing.TB, arn string, by *sdstest.Authority, names ...string) sdstest.Certificate {
	t.Helper()
	c := by.Issue(t, names...)
	i.Put(arn, c, by)
	return c
}

// Put puts this certificate behind the ARN, whether it is good or not.
func (i *Issuer) Put(arn string, c sdstest.Certificate, by *sdstest.Authority) {
	i.change(arn, func() {
		i.certificates[arn] = issued{secrets.Certificate{Chain: c.Chain, Key: auth.Secret(c.Key)}, by.PEM}
	})
}

// Trust puts authorities behind the ARN of one.
func (i *Issuer) Trust(arn string, authorities ...*sdstest.Authority) {
	var all []byte
	for _, a := range authorities {
		all = append(all, a.PEM...)
	}
	i.change(arn, func() { i.authorities[arn] = all })
}

// Forbid keeps what is behind the ARN from everyone, or no more.
func (i *Issuer) Forbid(arn string, forbidden bool) {
	i.change(arn, func() { i.forbidden[arn] = forbidden })
}

func (i *Issuer) change(arn string, f func()) {
	i.mu.Lock()
	defer i.mu.Unlock()
	f()
	i.changes = append(i.changes, arn)
	close(i.changed)
	i.changed = make(chan struct{})
}

// Certificate is what is behind the ARN.
func (i *Issuer) Certificate(_ context.Context, p auth.Caller, arn string) (secrets.Certificate, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if err := i.allow(p, "acm:ExportCertificate", arn); err != nil {
		return secrets.Certificate{}, err
	}
	c, ok := i.certificates[arn]
	if !ok {
		return secrets.Certificate{}, missing(arn)
	}
	return c.certificate, nil
}

// Authority is what is behind the ARN.
func (i *Issuer) Authority(_ context.Context, p auth.Caller, arn string) ([]byte, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if err := i.allow(p, "acm-pca:GetCertificateAuthorityCertificate", arn); err != nil {
		return nil, err
	}
	a, ok := i.authorities[arn]
	if !ok {
		return nil, missing(arn)
	}
	return a, nil
}

// Root is the authority that issued what is behind the ARN.
func (i *Issuer) Root(_ context.Context, _ auth.Caller, arn string) ([]byte, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	c, ok := i.certificates[arn]
	if !ok {
		return nil, missing(arn)
	}
	return c.root, nil
}

// Follow tells of every change.
func (i *Issuer) Follow(ctx context.Context, changed func(arn string)) error {
	for seen := 0; ; {
		i.mu.Lock()
		news, next := i.changes[seen:], i.changed
		i.mu.Unlock()
		for _, arn := range news {
			changed(arn)
			seen++
		}
		select {
		case <-next:
		case <-ctx.Done():
			return nil
		}
	}
}

// allow is called with mu held.
func (i *Issuer) allow(p auth.Caller, action, arn string) error {
	if i.forbidden[arn] || !strings.Contains(arn, ":"+p.Account+":") {
		return api.Errorf(api.CodeAccessDenied, "User: %s is not authorized to perform: %s on resource: %s", p.ARN, action, arn)
	}
	return nil
}

func missing(arn string) error { return api.Errorf(api.CodeNotFound, "%s does not exist", arn) }
