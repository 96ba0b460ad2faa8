package certs

import (
	"context"
	"slices"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/api/pcaapi"
	"github.com/evermesh/evermesh/internal/certs/authority"
)

// Signer is an authority that can sign, for those who issue without a record: the
// identities of meshes.
type Signer struct {
	// Name is another one when certificate or key are others.
	Name      string
	Authority authority.Authority
	Signing   pcaapi.SigningAlgorithm
	// Chain is the PEM of the authority's certificate and those above it.
	Chain string
}

// Trusting is a mesh whose settings name authorities of identities: the first one
// issues, all are trusted (D11).
type Trusting struct {
	Mesh        string // its ARN
	Authorities []string
}

// AuthorityStatus is what an authority is now, for who is to name it in a mesh's
// settings, such as ACTIVE; empty for one that does not exist.
func (r *Registry) AuthorityStatus(ctx context.Context, arn string) (string, error) {
	a, err := r.authorityOf(ctx, arn)
	if a == nil || err != nil {
		return "", err
	}
	own, err := a.certificate()
	if err != nil {
		return "", err
	}
	return string(a.state(own, r.now())), nil
}

// untrusted refuses what would take an authority from meshes that name it; with
// issuing, only from those whose identities it issues.
func (r *Registry) untrusted(ctx context.Context, arn, what string, issuing bool) error {
	if r.config.Trusting == nil {
		return nil
	}
	all, err := r.config.Trusting(ctx)
	if err != nil {
		return err
	}
	for _, m := range all {
		if i := slices.Index(m.Authorities, arn); i == 0 || i > 0 && !issuing {
			return api.Errorf(pcaapi.CodeInvalidState, "The certificate authority %s cannot %s: the settings of %s name it for identities (identityAuthorities). Name another one there first.", arn, what, m.Mesh)
		}
	}
	return nil
}

// Signer is the authority of an ARN, as far as the watch has told. One that may not
// issue is an *api.Error.
func (r *Registry) Signer(arn string) (Signer, error) {
	a := r.authority(arn)
	if a == nil {
		return Signer{}, noAuthority(arn)
	}
	own, err := a.certificate()
	if err != nil {
		return Signer{}, err
	}
	if status := a.state(own, r.now()); own == nil || status != pcaapi.CertificateAuthorityStatusActive {
		return Signer{}, api.Errorf(pcaapi.CodeInvalidState, "certificate authority %s cannot issue identities: it is %s", arn, status)
	}
	name := arn + " " + authority.SerialID(own.SerialNumber)
	r.directory.mu.Lock()
	held, ok := r.directory.signers[arn]
	r.directory.mu.Unlock()
	if ok && held.Name == name {
		return held, nil
	}
	key, err := r.open(a.tail(), a.Key)
	if err != nil {
		return Signer{}, err
	}
	out := Signer{Name: name, Authority: authority.Authority{Certificate: own, Key: key}, Signing: a.Configuration.SigningAlgorithm, Chain: a.path()}
	r.directory.mu.Lock()
	defer r.directory.mu.Unlock()
	r.directory.signers[arn] = out
	return out, nil
}

// RootOf is the PEM of the root above an authority. It is no secret.
func (r *Registry) RootOf(arn string) ([]byte, error) {
	a := r.authority(arn)
	switch {
	case a == nil:
		return nil, noAuthority(arn)
	case a.Status == pcaapi.CertificateAuthorityStatusDeleted || a.Certificate == "":
		return nil, api.Errorf(pcaapi.CodeInvalidState, "certificate authority %s cannot be trusted: it is %s", arn, a.Status)
	}
	return rootOf(a.path())
}
