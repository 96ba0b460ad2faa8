package iam

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/evermesh/evermesh/internal/policy"
)

// Role is a role, as far as sessions of it go.
type Role struct {
	Account, Name string
	ARN           string // with its path
	ID            string // AROA…
	Trust         *policy.Document
	MaxSession    time.Duration
	Tags          map[string]string
	// Service is whose service-linked role it is; empty for others.
	Service string
}

// Provider is an OIDC provider that an account has registered.
type Provider struct {
	ARN         string
	Issuer      string // without https://
	Clients     []string
	Thumbprints []string
	Tags        map[string]string
	// Created is since when it is there, or of another cluster than then.
	Created time.Time
	// Cluster is the cluster that it is of, by the tag ClusterTag; empty for none.
	Cluster string
}

func (d *Directory) provider(account string, p *provider) Provider {
	tags, since := tagMap(p.Tags), p.Created
	if !p.Bound.IsZero() {
		since = p.Bound
	}
	return Provider{
		ARN: arn(d.partition, account, providerARN, "/", p.URL), Issuer: p.URL, Clients: p.Clients, Thumbprints: p.Thumbprints,
		Tags: tags, Created: since, Cluster: tags[ClusterTag],
	}
}

func tagMap(tags []tag) map[string]string {
	out := map[string]string{}
	for _, t := range tags {
		out[t.Key] = t.Value
	}
	return out
}

// Role finds a role by its ARN. One that is not known here yet is looked for in the
// store: who made it on another replica finds it at once.
func (k *Keys) Role(ctx context.Context, arn string) (Role, bool, error) {
	account, of, _, name, ok := ParseARN(arn)
	if !ok || kind(of) != roleKind || !accountForm.MatchString(account) {
		return Role{}, false, nil
	}
	d := k.directory
	d.mu.RLock()
	var m *member
	if t := d.tenants[account]; t != nil {
		m = t.members[roleKind][strings.ToLower(name)]
	}
	d.mu.RUnlock()
	if m == nil {
		f := &fresh{ctx: ctx, store: k.config.Store}
		i, err := read[identity](f, recordTail(account, of, name))
		if f.err != nil || err != nil || i == nil {
			return Role{}, false, firstOf(f.err, err)
		}
		m = &member{identity: *i, arn: arn2(d.partition, account, i)}
		m.trust = &document{source: source{fromRole, m.arn}, text: i.Trust, bound: i.Trusted}
	}
	if m.arn != arn { // ARNs have case, and a path
		return Role{}, false, nil
	}
	return Role{
		Account: account, Name: m.Name, ARN: m.arn, ID: m.ID, Trust: m.trust.get(d.log), MaxSession: time.Duration(m.MaxSession) * time.Second,
		Tags: tagMap(m.Tags), Service: m.Service,
	}, true, nil
}

func arn2(partition, account string, i *identity) string {
	return arn(partition, account, string(roleKind), i.Path, i.Name)
}

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// Provider finds an account's OIDC provider by its issuer, without https://.
func (k *Keys) Provider(account, issuer string) (Provider, bool) {
	d := k.directory
	d.mu.RLock()
	defer d.mu.RUnlock()
	t := d.tenants[account]
	if t == nil {
		return Provider{}, false
	}
	p := t.providers[strings.ToLower(issuer)]
	if p == nil || p.URL != issuer {
		return Provider{}, false
	}
	return d.provider(account, p), true
}

// Issuers are the accounts that have registered an OIDC issuer, in order.
func (k *Keys) Issuers(issuer string) []string {
	d := k.directory
	d.mu.RLock()
	defer d.mu.RUnlock()
	return slices.Sorted(maps.Keys(d.issuers[issuer]))
}

// Policy is the text of a managed policy, AWS's or an account's, in its default
// version.
func (k *Keys) Policy(ctx context.Context, arn string) (string, bool, error) {
	if b := findBuiltin(k.builtin, arn); b != nil {
		return b.Versions[0].Document, true, nil
	}
	account, of, _, name, ok := ParseARN(arn)
	if !ok || of != "policy" || !accountForm.MatchString(account) {
		return "", false, nil
	}
	d := k.directory
	d.mu.RLock()
	var x *document
	if t := d.tenants[account]; t != nil {
		x = t.policies[arn]
	}
	d.mu.RUnlock()
	if x != nil {
		return x.text, true, nil
	}
	f := &fresh{ctx: ctx, store: k.config.Store}
	m, err := read[managed](f, recordTail(account, policyRecord, name))
	if f.err != nil || err != nil || m == nil || arnOf(d.partition, account, m) != arn {
		return "", false, firstOf(f.err, err)
	}
	v, _ := m.version("")
	return v.Document, true, nil
}

func arnOf(partition, account string, m *managed) string {
	return arn(partition, account, "policy", m.Path, m.Name)
}

// Current is the unique id that the user, role or root with that ARN has now; ok is
// false when there is none.
func (k *Keys) Current(arn string) (id string, ok bool) {
	d := k.directory
	if rest, found := strings.CutPrefix(arn, "arn:"+d.partition+":iam::"); found {
		if account, found := strings.CutSuffix(rest, ":root"); found {
			return account, k.hasAccount(account)
		}
	}
	account, of, _, name, found := ParseARN(arn)
	if !found {
		return "", false
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	t := d.tenants[account]
	if t == nil {
		return "", false
	}
	m := t.members[kind(of)][strings.ToLower(name)]
	if m == nil || m.arn != arn || kind(of) == groupKind {
		return "", false
	}
	return m.ID, true
}

// arnOf is the ARN of the user or role with a unique id; "" when there is none.
func (d *Directory) arnOf(account, id string) string {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if t := d.tenants[account]; t != nil {
		if m := t.byID[id]; m != nil {
			return m.arn
		}
	}
	return ""
}

// hasAccount says whether there is an account: it has a record of its own.
func (k *Keys) hasAccount(id string) bool {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.accounts[id]
}

// Accounts are the accounts that there are, in order.
func (k *Keys) Accounts() []string {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return slices.Sorted(maps.Keys(k.accounts))
}
