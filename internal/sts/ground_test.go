package sts_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/policy"
	"github.com/evermesh/evermesh/internal/service"
	"github.com/evermesh/evermesh/internal/sts"
	"github.com/evermesh/evermesh/internal/sts/oidc"
	"github.com/evermesh/evermesh/internal/sts/oidc/oidctest"
)

const (
	accountA = "111122223333"
	accountB = "444455556666"
)

// directory is accounts in memory.
type directory struct {
	mu        sync.Mutex
	roles     map[string]sts.Role
	providers map[string]sts.Provider // by account and issuer
	policies  map[string]string       // managed ones, by ARN
	own       map[string][]string     // policies of users and roles, by ARN
	current   map[string]string       // ids by ARN
	stale     error
}

func (d *directory) Role(_ context.Context, arn string) (sts.Role, bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	r, ok := d.roles[arn]
	return r, ok, nil
}

func (d *directory) Provider(_ context.Context, account, issuer string) (sts.Provider, bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	p, ok := d.providers[account+" "+strings.ToLower(issuer)]
	return p, ok, nil
}

func (d *directory) Cluster(_ context.Context, account, cluster string) (sts.Provider, bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for key, p := range d.providers {
		if strings.HasPrefix(key, account+" ") && p.Cluster == cluster {
			return p, true, nil
		}
	}
	return sts.Provider{}, false, nil
}

func (d *directory) Accounts(_ context.Context, issuer string) (all []string, _ error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, key := range slices.Sorted(maps.Keys(d.providers)) {
		if account, name, _ := strings.Cut(key, " "); name == strings.ToLower(issuer) {
			all = append(all, account)
		}
	}
	return all, nil
}

func (d *directory) Policy(_ context.Context, arn string) (string, bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	text, ok := d.policies[arn]
	return text, ok, nil
}

func (d *directory) Current(arn string) (string, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	id, ok := d.current[arn]
	return id, ok
}

func (d *directory) Fresh(context.Context, ...string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.stale
}

func (d *directory) Decide(_ context.Context, q auth.Question, trust *policy.Document) (policy.Decision, error) {
	p := q.Principal
	who := policy.Principal{Account: p.Account, ARN: p.ARN, ID: p.ID}
	arn := p.ARN
	set := policy.Set{Resource: trust, Trust: trust != nil}
	if p.Session != nil {
		who.Issuer, arn = p.Session.Issuer, p.Session.Issuer
		for _, text := range p.Session.Policies {
			set.Session = append(set.Session, must(policy.Parse(text)))
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, text := range d.own[arn] {
		set.Identity = append(set.Identity, must(policy.Parse(text)))
	}
	keys := policy.Layers{policy.Map{"aws:principalarn": {arn}, "aws:principalaccount": {p.Account}}, policy.Map(q.Keys)}
	return policy.Evaluate(policy.Request{Principal: who, Action: q.Action, Resource: q.Resource, Keys: keys}, set), nil
}

// Authorize satisfies auth.Authorizer.
func (d *directory) Authorize(ctx context.Context, q auth.Question) error {
	if q.Principal.Type == auth.Root {
		return auth.Allow(q.Principal, q.Action, q.Resource)
	}
	if decided, err := d.Decide(ctx, q, nil); err != nil || decided.Outcome != policy.Allowed {
		return api.Errorf(api.CodeAccessDenied, "User: %s is not authorized to perform: %s on resource: %s %s", q.Principal.ARN, q.Action, q.Resource, decided.Because(q.Action))
	}
	return nil
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// box seals by writing things down backwards: what is sealed is no matter here.
type box struct{}

func (box) SealText(owner string, text []byte) (string, error) {
	b := append([]byte(owner+"\n\n"), text...)
	slices.Reverse(b)
	return string(b), nil
}

func (box) OpenText(owner, text string) ([]byte, error) {
	b := []byte(text)
	slices.Reverse(b)
	rest, ok := strings.CutPrefix(string(b), owner+"\n\n")
	if !ok {
		return nil, errors.New("not sealed here")
	}
	return []byte(rest), nil
}

// ground is a server among accounts.
type ground struct {
	*directory
	t       testing.TB
	issuer  *oidctest.Issuer
	server  *sts.Server
	service *service.Service

	clock sync.Mutex
	now   time.Time
}

// lasting are the keys of users, and one of an account.
type lasting struct{}

const userKey = "AKIAOF"

func (lasting) Credential(_ context.Context, id, _ string) (auth.Credential, bool, error) {
	return auth.Credential{Principal: auth.Principal{Account: accountA}}, strings.HasPrefix(id, userKey), nil
}

func newGround(t testing.TB) *ground {
	t.Helper()
	g := &ground{t: t, now: time.Now().UTC().Truncate(time.Second), directory: &directory{
		roles: map[string]sts.Role{}, providers: map[string]sts.Provider{}, policies: map[string]string{},
		own: map[string][]string{}, current: map[string]string{},
	}}
	g.issuer = oidctest.New(t)
	sessions := &sts.Sessions{Lasting: lasting{}, Directory: g.directory, Box: box{}, Now: g.time}
	g.server = &sts.Server{
		Partition: "aws", Sessions: sessions, Directory: g.directory,
		Tokens: oidc.New(oidc.Config{CAFile: g.issuer.CAFile, Log: slog.New(slog.DiscardHandler), Now: g.time}),
	}
	var err error
	if g.service, err = g.server.Service(); err != nil {
		t.Fatal(err)
	}
	for _, account := range []string{accountA, accountB} {
		g.current[rootOf(account)] = account
	}
	return g
}

func (g *ground) time() time.Time {
	g.clock.Lock()
	defer g.clock.Unlock()
	return g.now
}

func (g *ground) pass(d time.Duration) {
	g.clock.Lock()
	defer g.clock.Unlock()
	g.now = g.now.Add(d)
}

func rootOf(account string) string { return "arn:aws:iam::" + account + ":root" }

func roleOf(account, name string) string { return "arn:aws:iam::" + account + ":role/" + name }

// role makes a role; trust is its trust policy's statements, policies are its own.
func (g *ground) role(account, name, trust string, policies ...string) string {
	g.t.Helper()
	d, err := policy.Parse(`{"Version":"2012-10-17","Statement":` + trust + `}`)
	if err != nil {
		g.t.Fatal(err)
	}
	arn := roleOf(account, name)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.current[arn] = "AROA" + account + strings.ToUpper(name)
	g.roles[arn] = sts.Role{Account: account, ARN: arn, Name: name, ID: g.current[arn], Trust: d, MaxSession: 2 * time.Hour}
	g.own[arn] = policies
	return arn
}

// user makes a user with policies of its own.
func (g *ground) user(account, name string, policies ...string) auth.Principal {
	g.mu.Lock()
	defer g.mu.Unlock()
	arn := "arn:aws:iam::" + account + ":user/" + name
	g.own[arn] = policies
	g.current[arn] = "AIDA" + account + strings.ToUpper(name)
	return auth.Principal{Account: account, ARN: arn, Type: auth.User, ID: g.current[arn], AccessKeyID: userKey + name}
}

func root(account string) auth.Principal {
	return auth.Principal{Account: account, ARN: rootOf(account), Type: auth.Root, ID: account}
}

// provider registers the ground's issuer with an account.
func (g *ground) provider(account, cluster string, audiences ...string) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	name := oidc.Name(g.issuer.URL)
	arn := "arn:aws:iam::" + account + ":oidc-provider/" + name
	g.providers[account+" "+name] = sts.Provider{ARN: arn, Issuer: name, Audiences: audiences, Cluster: cluster}
	return arn
}

const mayAssume = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["sts:AssumeRole","sts:TagSession","sts:SetSourceIdentity"],"Resource":"*"}]}`

// trusting is a trust policy's statements for principals of AWS's.
func trusting(principal, condition string) string {
	if condition != "" {
		condition = `,"Condition":` + condition
	}
	return `[{"Effect":"Allow","Principal":{"AWS":"` + principal + `"},"Action":["sts:AssumeRole","sts:TagSession","sts:SetSourceIdentity"]` + condition + `}]`
}

// call does an operation as a principal; in is its input as JSON.
func call[Out any](g *ground, p auth.Principal, operation, in string) (*Out, error) {
	g.t.Helper()
	decoder := json.NewDecoder(strings.NewReader(in))
	decoder.UseNumber()
	c := &service.Call{
		ID: "1", Service: g.service, Operation: operation, Principal: p, At: g.time(), Authorizer: g.directory,
		Keys: map[string][]string{"aws:sourceip": {"192.0.2.7"}},
	}
	if err := decoder.Decode(&c.Input); err != nil {
		g.t.Fatal(err)
	}
	out, err := g.service.Operations[operation].Run(context.Background(), c)
	if err != nil {
		return nil, err
	}
	return out.(*Out), nil
}

// principal is who requests with those credentials are from.
func (g *ground) principal(id, secret, token string) (auth.Principal, bool) {
	g.t.Helper()
	c, found, err := g.server.Sessions.Credential(context.Background(), id, token)
	if err != nil {
		g.t.Fatal(err)
	}
	if found && (string(c.Secret) != secret || string(c.SessionToken) != token) {
		g.t.Errorf("credential of %s has another secret or token", id)
	}
	return c.Principal, found && g.time().Before(c.Expires)
}

// refused checks a refusal's code and a part of its text.
func refused(t testing.TB, err error, code, text string) {
	t.Helper()
	var e *api.Error
	if !errors.As(err, &e) || e.Code != code || !strings.Contains(e.Message, text) {
		t.Errorf("got %v, want %s with %q", err, code, text)
	}
}
