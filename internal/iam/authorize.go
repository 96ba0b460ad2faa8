package iam

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/policy"
)

// Authorizer decides by the accounts' policies; it is an auth.Authorizer. An account's
// root may do everything in its account. It answers from memory.
type Authorizer struct {
	directory *Directory
	used      *lastUsed
	log       *slog.Logger
	now       func() time.Time
}

// Authorizer decides by the policies that the keys' accounts have.
func (k *Keys) Authorizer() *Authorizer {
	return &Authorizer{directory: k.directory, used: k.used, log: k.config.Log, now: k.config.Now}
}

// Directory is who is in the accounts.
func (k *Keys) Directory() *Directory { return k.directory }

// foreign says whether a resource is another account's.
func foreign(p auth.Principal, resource string) bool {
	parts := strings.SplitN(resource, ":", 6)
	return len(parts) == 6 && parts[4] != "" && parts[4] != p.Account && parts[4] != builtinAccount
}

// Authorize satisfies auth.Authorizer.
func (a *Authorizer) Authorize(ctx context.Context, q auth.Question) error {
	a.used.note(q, a.now())
	if !q.Shared && foreign(q.Principal, q.Resource) {
		return outside(q)
	}
	d, who, err := a.decide(q, policy.Set{})
	if err != nil {
		return err
	}
	if a.log.Enabled(ctx, slog.LevelDebug) {
		a.explain(ctx, q, d, who)
	}
	if d.Outcome == policy.Allowed {
		return nil
	}
	return api.Errorf(api.CodeAccessDenied, "User: %s is not authorized to perform: %s on resource: %s %s", q.Principal.ARN, q.Action, q.Resource, d.Because(q.Action))
}

// explain writes down why it was decided so, for the operator (IAM-041): which policy
// and statement, or what each statement that names the action did not fit. The caller
// is told which kind of policies it was.
func (a *Authorizer) explain(ctx context.Context, q auth.Question, d policy.Decision, w *who) {
	attributes := []any{
		"principal", q.Principal.ARN, "action", q.Action, "resource", q.Resource, "decision", d.Outcome.String(),
		"layer", string(d.Layer), "policy", w.source(d), "statement", statementName(d.Statement),
	}
	if d.Outcome == policy.ImplicitDeny {
		_, findings := policy.Explain(w.request(q), w.all(policy.Set{}))
		var missed []string
		for _, f := range findings {
			text := w.source(policy.Decision{Layer: f.Layer, Document: f.Document, Statement: f.Statement}) + " " + f.Statement.Name() + ": " + string(f.Missed)
			if f.Unmet != nil {
				text += " " + f.Unmet.String()
			}
			if f.Missed != "" {
				missed = append(missed, text)
			}
		}
		attributes = append(attributes, "missed", missed)
	}
	a.log.DebugContext(ctx, "policies were asked", attributes...)
}

func statementName(s *policy.Statement) string {
	if s == nil {
		return ""
	}
	return s.Name()
}

// outside refuses what is another account's: ForbiddenException in App Mesh
// (MESH-010), AccessDenied elsewhere.
func outside(q auth.Question) error {
	switch vendor, _, _ := strings.Cut(q.Action, ":"); vendor {
	case "appmesh", "appmesh-preview", "evermesh":
		return auth.Allow(q.Principal, q.Action, q.Resource)
	}
	return api.Errorf(api.CodeAccessDenied, "User: %s is not authorized to perform: %s on resource: %s because no resource-based policy allows the %s action",
		q.Principal.ARN, q.Action, q.Resource, q.Action)
}

// Decide says what the policies of the question's principal and the trust policy of
// the role that it is about say together. A principal that is gone is an error, as in
// Authorize.
func (a *Authorizer) Decide(_ context.Context, q auth.Question, trust *policy.Document) (policy.Decision, error) {
	d, _, err := a.decide(q, policy.Set{Resource: trust, Trust: trust != nil})
	return d, err
}

// decide asks the policies, and says whose they are.
func (a *Authorizer) decide(q auth.Question, set policy.Set) (policy.Decision, *who, error) {
	w, err := a.directory.who(q.Principal)
	if err != nil {
		return policy.Decision{}, nil, err
	}
	return policy.Evaluate(w.request(q), w.all(set)), w, nil
}

// request is the question as policies are asked.
func (w *who) request(q auth.Question) policy.Request {
	return policy.Request{
		Principal: principalOf(q.Principal), Action: q.Action, Resource: resourceOf(q.Resource), Keys: policy.Layers{asked{w, q.Resource, ""}, policy.Map(q.Keys), direct{}},
	}
}

// asked are the condition keys that a principal has by itself, and those about the
// owner of the resource that it asks for, for perimeters: what is nobody's, as what AWS
// manages is, counts as its own.
type asked struct {
	*who
	resource string
	owner    string // of the resource; empty for whom its ARN names
}

// Lookup satisfies policy.Keys.
func (a asked) Lookup(name string) []string {
	if name != "aws:resourceaccount" && name != "aws:resourceorgid" {
		return a.who.Lookup(name)
	}
	account := a.owner
	if account == "" {
		account = a.principal.Account
		if n, ok := api.ParseResourceName(a.resource); ok && accountForm.MatchString(n.Account) {
			account = n.Account
		}
	}
	if name == "aws:resourceaccount" {
		return some(account)
	}
	return some(a.organization(account))
}

// direct are the condition keys of a request that no service of AWS's sends for its
// caller.
type direct struct{}

// Lookup satisfies policy.Keys.
func (direct) Lookup(name string) []string {
	if name == "aws:viaawsservice" {
		return []string{"false"}
	}
	return nil
}

// organization is the id of the one that an account is in; empty for none.
func (w *who) organization(account string) string {
	if w.organizationOf == nil {
		return ""
	}
	return w.organizationOf(account)
}

// all is the set with the policies of the principal.
func (w *who) all(set policy.Set) policy.Set {
	set.Identity, set.Boundary, set.Session, set.Guards = w.set.Identity, w.set.Boundary, w.session, w.set.Guards
	return set
}

func resourceOf(resource string) string {
	if resource == "" {
		return "*"
	}
	return resource
}

func principalOf(p auth.Principal) policy.Principal {
	out := policy.Principal{Account: p.Account, ARN: p.ARN, ID: p.ID}
	if p.Session != nil && p.Type == auth.AssumedRole {
		out.Issuer = p.Session.Issuer
	}
	return out
}

// who is a principal with the policies that count for it. It is the keys that a
// principal has by itself, whatever a request says.
type who struct {
	principal auth.Principal
	set       policy.Set
	sources   []source
	boundary  source
	session   []*policy.Document
	name      string // of a user
	tags      []tag
	// organizationOf is the directory's.
	organizationOf func(account string) string
}

// source names the policy that decided.
func (w *who) source(d policy.Decision) string {
	switch {
	case d.Statement == nil:
		return ""
	case d.Layer == policy.Identity && d.Document < len(w.sources):
		return w.sources[d.Document].name
	case d.Layer == policy.Boundary:
		return w.boundary.name
	case d.Layer == policy.Guard:
		return fmt.Sprintf("guard %d", d.Document+1)
	}
	return string(d.Layer)
}

// gone is the refusal of a principal that is not there any more.
func gone() error {
	return api.Errorf(api.CodeUnrecognizedClient, "The security token included in the request is invalid.")
}

// who finds a principal's policies.
func (d *Directory) who(p auth.Principal) (*who, error) {
	w := &who{principal: p}
	if p.Session != nil {
		for _, text := range p.Session.Policies {
			w.session = append(w.session, d.sessions.parse(text))
		}
	}
	id := p.ID
	switch p.Type {
	case auth.User:
	case auth.AssumedRole:
		id, _, _ = strings.Cut(p.ID, ":")
	case auth.FederatedUser:
		if p.Session == nil {
			return nil, gone()
		}
		id = p.Session.IssuerID
	case auth.Root:
		id = p.Account
	default:
		return nil, gone() // nobody, or a kind that is not known here
	}
	if id == "" {
		return nil, gone()
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	w.organizationOf = d.organizationOf
	t := d.tenants[p.Account]
	vouched := p.Type == auth.Root || p.Type == auth.FederatedUser
	if vouched && id == p.Account { // its root, or whom its root vouches for
		w.set.Identity, w.sources = []*policy.Document{d.builtin["AdministratorAccess"].document}, []source{{fromAWS, p.ARN}}
	} else {
		if t == nil || t.byID[id] == nil {
			return nil, gone()
		}
		m := t.byID[id]
		g := d.grantsOf(t, m)
		w.set, w.sources, w.boundary, w.tags = g.set, g.sources, g.boundary, m.Tags
		if p.Type == auth.User {
			w.name = m.Name
		}
	}
	if t != nil {
		for _, x := range t.guards {
			w.set.Guards = append(w.set.Guards, x.get(d.log))
		}
	}
	if p.Type == auth.FederatedUser && len(w.session) == 0 {
		w.set.Identity, w.sources = nil, nil // it has what its session policies say
	}
	return w, nil
}

// Lookup satisfies policy.Keys.
func (w *who) Lookup(name string) []string {
	p := &w.principal
	s := p.Session
	if s == nil {
		s = &auth.Session{}
	}
	switch name {
	case "aws:principalarn":
		if p.Type == auth.AssumedRole && s.Issuer != "" {
			return []string{s.Issuer}
		}
		return some(p.ARN)
	case "aws:principaltype":
		return some(string(p.Type))
	case "aws:principalaccount":
		return some(p.Account)
	case "aws:principalorgid":
		return some(w.organization(p.Account))
	case "aws:principalisawsservice":
		return []string{"false"}
	case "aws:userid":
		return some(p.ID)
	case "aws:username":
		return some(w.name)
	case "aws:sourceidentity":
		return some(s.SourceIdentity)
	case "aws:federatedprovider":
		return some(s.Provider)
	case "aws:multifactorauthpresent":
		if p.Session == nil {
			return nil // only temporary credentials have it
		}
		if s.MFA {
			return []string{"true"}
		}
		return []string{"false"}
	case "aws:tokenissuetime":
		if s.Issued.IsZero() {
			return nil
		}
		return []string{s.Issued.UTC().Format(time.RFC3339)}
	}
	if key, ok := strings.CutPrefix(name, "aws:principaltag/"); ok {
		for k, v := range s.Tags {
			if policy.KeyName(k) == key {
				return []string{v}
			}
		}
		for _, t := range w.tags {
			if policy.KeyName(t.Key) == key {
				return []string{t.Value}
			}
		}
	}
	return nil
}

func some(value string) []string {
	if value == "" {
		return nil
	}
	return []string{value}
}

// sessionPolicies remembers policies of sessions, which come with each request.
type sessionPolicies struct {
	mu    sync.Mutex
	known map[string]*policy.Document
}

// sessionPoliciesKept bounds them.
const sessionPoliciesKept = 1024

// parse reads a session policy; one that cannot be read allows nothing.
func (s *sessionPolicies) parse(text string) *policy.Document {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d := s.known[text]; d != nil {
		return d
	}
	d, err := policy.Parse(text)
	if err != nil {
		d, _ = policy.Parse(denyAll)
	}
	if s.known == nil || len(s.known) >= sessionPoliciesKept {
		s.known = map[string]*policy.Document{}
	}
	s.known[text] = d
	return d
}
