// Package accounts tells package sts what package iam knows: the roles, the providers
// and the policies that sessions are made by.
package accounts

import (
	"context"

	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/iam"
	"github.com/evermesh/evermesh/internal/policy"
	"github.com/evermesh/evermesh/internal/sts"
)

// Directory is an sts.Directory of IAM's accounts.
type Directory struct {
	keys     *iam.Keys
	policies *iam.Authorizer
}

// New makes a Directory. policies are those of the same accounts.
func New(k *iam.Keys, policies *iam.Authorizer) Directory { return Directory{k, policies} }

// Role satisfies sts.Directory.
func (d Directory) Role(ctx context.Context, arn string) (sts.Role, bool, error) {
	r, found, err := d.keys.Role(ctx, arn)
	if err != nil || !found {
		return sts.Role{}, false, err
	}
	return sts.Role{Account: r.Account, ARN: r.ARN, Name: r.Name, ID: r.ID, Trust: r.Trust, MaxSession: r.MaxSession}, true, nil
}

func provider(p iam.Provider) sts.Provider {
	return sts.Provider{ARN: p.ARN, Issuer: p.Issuer, Audiences: p.Clients, Cluster: p.Cluster, Created: p.Created}
}

// Provider satisfies sts.Directory.
func (d Directory) Provider(_ context.Context, account, issuer string) (sts.Provider, bool, error) {
	p, found := d.keys.Provider(account, issuer)
	return provider(p), found, nil
}

// Cluster satisfies sts.Directory.
func (d Directory) Cluster(_ context.Context, account, cluster string) (sts.Provider, bool, error) {
	for _, p := range d.keys.Providers(account) {
		if cluster != "" && p.Cluster == cluster {
			return provider(p), true, nil
		}
	}
	return sts.Provider{}, false, nil
}

// Accounts satisfies sts.Directory.
func (d Directory) Accounts(_ context.Context, issuer string) ([]string, error) {
	return d.keys.Issuers(issuer), nil
}

// Policy satisfies sts.Directory.
func (d Directory) Policy(ctx context.Context, arn string) (string, bool, error) {
	return d.keys.Policy(ctx, arn)
}

// Current satisfies sts.Directory.
func (d Directory) Current(arn string) (string, bool) { return d.keys.Current(arn) }

// Fresh satisfies sts.Directory.
func (d Directory) Fresh(ctx context.Context, accounts ...string) error {
	return d.keys.Fresh(ctx, accounts...)
}

// Decide satisfies sts.Directory.
func (d Directory) Decide(ctx context.Context, q auth.Question, trust *policy.Document) (policy.Decision, error) {
	return d.policies.Decide(ctx, q, trust)
}
