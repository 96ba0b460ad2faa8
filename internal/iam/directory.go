package iam

import (
	"context"
	"log/slog"
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/evermesh/evermesh/internal/policy"
	"github.com/evermesh/evermesh/internal/store"
)

// Directory is who is in the accounts and what their policies say, in memory, as the
// store's watch tells. A policy is parsed once, when it is first asked; what counts for
// a principal is put together once for each change of its account.
type Directory struct {
	partition string
	builtin   map[string]*builtin
	log       *slog.Logger
	sessions  sessionPolicies

	mu        sync.RWMutex
	tenants   map[string]*tenant
	issuers   map[string]map[string]bool // accounts, by OIDC issuer
	revision  int64                      // that was taken last
	following bool
	taken     chan struct{} // closed with the next batch
	listeners []func(accounts []string)
	// organizationOf may be nil: then no account is in one.
	organizationOf func(account string) string
}

func newDirectory(partition string, b map[string]*builtin, log *slog.Logger) *Directory {
	return &Directory{
		partition: partition, builtin: b, log: log, tenants: map[string]*tenant{}, issuers: map[string]map[string]bool{}, taken: make(chan struct{}),
	}
}

// tenant is one account.
type tenant struct {
	// generation counts changes: what was put together before the last one is old.
	generation uint64
	members    map[kind]map[string]*member // by name in lower case
	byID       map[string]*member          // users and roles
	policies   map[string]*document        // customer managed, by ARN
	arns       map[string]string           // ARNs of policies by record, to forget them
	providers  map[string]*provider        // by issuer
	guards     []*document
}

func newTenant() *tenant {
	return &tenant{
		members: map[kind]map[string]*member{userKind: {}, groupKind: {}, roleKind: {}}, byID: map[string]*member{},
		policies: map[string]*document{}, arns: map[string]string{}, providers: map[string]*provider{},
	}
}

// member is a user, a group or a role.
type member struct {
	identity
	arn    string
	trust  *document
	inline []*document
	grants atomic.Pointer[grants]
}

// document is a policy that is parsed when it is first asked.
type document struct {
	source
	text string
	// bound are unique ids of principals of a trust policy, by their ARNs.
	bound  map[string]string
	once   sync.Once
	parsed *policy.Document
}

// source says which policy it is.
type source struct {
	kind sourceKind
	name string // ARN of a managed one; of an inline one its owner's and its own name
}

type sourceKind string

const (
	fromUser        sourceKind = "user"
	fromGroup       sourceKind = "group"
	fromRole        sourceKind = "role"
	fromAWS         sourceKind = "aws-managed"
	fromUserManaged sourceKind = "user-managed"
	fromInput       sourceKind = "none" // of a simulation's input
)

// denyAll stands for a policy that cannot be read, as one that a newer release wrote:
// what it denies is not known.
const denyAll = `{"Version":"2012-10-17","Statement":[{"Sid":"PolicyCannotBeRead","Effect":"Deny","Action":"*","Resource":"*"}]}`

func (x *document) get(log *slog.Logger) *policy.Document {
	x.once.Do(func() {
		var err error
		if x.parsed, err = policy.Parse(x.text); err != nil {
			log.Error("policy cannot be read and denies everything", "key", x.name, "err", err)
			x.parsed, _ = policy.Parse(denyAll)
		}
		if x.bound != nil {
			x.parsed = x.parsed.Bound(x.bound)
		}
	})
	return x.parsed
}

// grants are the policies of a member, put together.
type grants struct {
	generation uint64
	set        policy.Set
	sources    []source // of set.Identity
	boundary   source
}

// take learns what the watch has told.
func (d *Directory) take(b store.RecordBatch) {
	d.mu.Lock()
	changed := map[string]bool{}
	if b.Reset {
		for id := range d.tenants {
			changed[id] = true
		}
		d.tenants, d.issuers = map[string]*tenant{}, map[string]map[string]bool{}
	}
	for _, tail := range b.Gone {
		if account, kind, name, ok := parseTail(tail); ok {
			changed[account] = true
			d.forget(account, kind, name)
		}
	}
	for _, r := range b.Records {
		if account, kind, name, ok := parseTail(r.Key); ok {
			changed[account] = true
			if err := d.learn(account, kind, name, r); err != nil {
				d.log.Error("record of an account cannot be read and is left out", "key", r.Key, "err", err)
			}
		}
	}
	for id := range changed {
		if t := d.tenants[id]; t != nil {
			t.generation++
		}
	}
	d.revision = b.Revision
	close(d.taken)
	d.taken = make(chan struct{})
	listeners := d.listeners
	d.mu.Unlock()
	if len(changed) == 0 {
		return
	}
	accounts := slices.Sorted(maps.Keys(changed))
	for _, told := range listeners {
		told(accounts)
	}
}

// parseTail takes the key of an account's record apart; the name is in lower case.
func parseTail(tail string) (account, kind, name string, ok bool) {
	rest, ok := strings.CutPrefix(tail, Tail)
	if !ok {
		return "", "", "", false
	}
	account, rest, _ = strings.Cut(rest, "/")
	kind, rest, _ = strings.Cut(rest, "/")
	name, err := url.PathUnescape(rest)
	return account, kind, name, err == nil && accountForm.MatchString(account)
}

// forget takes a record out of the directory; mu is held.
func (d *Directory) forget(account, of, name string) {
	t := d.tenants[account]
	if t == nil {
		return
	}
	switch of {
	case string(userKind), string(groupKind), string(roleKind):
		if m := t.members[kind(of)][name]; m != nil {
			if t.byID[m.ID] == m { // not if it has another name now
				delete(t.byID, m.ID)
			}
			delete(t.members[kind(of)], name)
		}
	case guardRecord:
		t.guards = nil
	case policyRecord:
		delete(t.policies, t.arns[name])
		delete(t.arns, name)
	case providerRecord:
		if p := t.providers[name]; p != nil {
			delete(d.issuers[p.URL], account)
			delete(t.providers, name)
		}
	}
}

// learn takes a record in; mu is held.
func (d *Directory) learn(account, of, name string, r store.Record) error {
	t := d.tenants[account]
	if t == nil {
		t = newTenant()
		d.tenants[account] = t
	}
	d.forget(account, of, name)
	switch of {
	case string(userKind), string(groupKind), string(roleKind):
		i, err := body[identity](r)
		if err != nil {
			return err
		}
		m := &member{identity: *i, arn: arn(d.partition, account, of, i.Path, i.Name)}
		for _, p := range i.Inline {
			m.inline = append(m.inline, &document{source: source{sourceKind(of), i.Name + "/" + p.Name}, text: p.Document})
		}
		if i.Trust != "" {
			m.trust = &document{source: source{fromRole, m.arn}, text: i.Trust, bound: i.Trusted}
		}
		t.members[kind(of)][name] = m
		if kind(of) != groupKind {
			t.byID[i.ID] = m
		}
	case guardRecord:
		t.guards = learnGuards(account, r)
	case policyRecord:
		p, err := body[managed](r)
		if err != nil {
			return err
		}
		v, _ := p.version("")
		full := arn(d.partition, account, "policy", p.Path, p.Name)
		t.arns[name] = full
		t.policies[full] = &document{source: source{fromUserManaged, full}, text: v.Document}
	case providerRecord:
		p, err := body[provider](r)
		if err != nil {
			return err
		}
		t.providers[name] = p
		if d.issuers[p.URL] == nil {
			d.issuers[p.URL] = map[string]bool{}
		}
		d.issuers[p.URL][account] = true
	}
	return nil
}

// managed finds a managed policy; mu is held for reading.
func (d *Directory) managed(t *tenant, arn string) (*policy.Document, source) {
	if b := findBuiltin(d.builtin, arn); b != nil {
		return b.document, source{fromAWS, arn}
	}
	x := t.policies[arn]
	if x == nil {
		x = &document{source: source{fromUserManaged, arn}, text: denyAll}
	}
	return x.get(d.log), x.source
}

// grantsOf puts together what counts for a member; mu is held for reading.
func (d *Directory) grantsOf(t *tenant, m *member) *grants {
	if g := m.grants.Load(); g != nil && g.generation == t.generation {
		return g
	}
	g := &grants{generation: t.generation}
	add := func(m *member) {
		for _, arn := range m.Attached {
			p, from := d.managed(t, arn)
			g.set.Identity, g.sources = append(g.set.Identity, p), append(g.sources, from)
		}
		for _, p := range m.inline {
			g.set.Identity, g.sources = append(g.set.Identity, p.get(d.log)), append(g.sources, p.source)
		}
	}
	add(m)
	for _, name := range m.Groups {
		if group := t.members[groupKind][name]; group != nil {
			add(group)
		}
	}
	if m.Boundary != "" {
		g.set.Boundary, g.boundary = d.managed(t, m.Boundary)
	}
	m.grants.Store(g)
	return g
}

// OnChange calls told with the accounts whose users, roles, policies or keys changed,
// after what is asked from then on goes by that. It is called by the goroutine that
// follows the store, which it must not hold up, and before Keys.Run.
func (d *Directory) OnChange(told func(accounts []string)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.listeners = append(d.listeners, told)
}

// Organizations has policies see which organization accounts are in: of is the id of an
// account's, empty for none, as aws:PrincipalOrgID and aws:ResourceOrgID have it. It is
// asked for each policy that wants it, from any goroutine.
func (d *Directory) Organizations(of func(account string) string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.organizationOf = of
}

func (d *Directory) organizations() func(account string) string {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.organizationOf
}

// waitAtMost bounds how long a write waits until this replica decides by it.
const waitAtMost = 5 * time.Second

// wait returns when the directory has taken a revision, or does not follow the store;
// reached says which.
func (d *Directory) wait(ctx context.Context, revision int64) (reached bool) {
	d.mu.RLock()
	reached, following := d.revision >= revision, d.following
	d.mu.RUnlock()
	if reached || !following {
		return reached
	}
	ctx, cancel := context.WithTimeout(ctx, waitAtMost)
	defer cancel()
	return d.Reach(ctx, revision)
}

// Revision is that of the store up to which the directory, and the keys, were told.
func (d *Directory) Revision() int64 {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.revision
}

// Reach returns when the directory, and the keys, were told up to a revision of the store,
// or when ctx has ended: whether they were.
func (d *Directory) Reach(ctx context.Context, revision int64) bool {
	for {
		d.mu.RLock()
		reached, taken := d.revision >= revision, d.taken
		d.mu.RUnlock()
		if reached {
			return true
		}
		select {
		case <-taken:
		case <-ctx.Done():
			return false
		}
	}
}

// follows says whether the store is followed.
func (d *Directory) follows(yes bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.following = yes
}

func (d *Directory) hasRole(account, name string) bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	t := d.tenants[account]
	return t != nil && t.members[roleKind][strings.ToLower(name)] != nil
}

// byID finds a user or role by its unique id.
func (d *Directory) byID(account, id string) (arn string, ok bool) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	t := d.tenants[account]
	if t == nil || t.byID[id] == nil {
		return "", false
	}
	return t.byID[id].arn, true
}
