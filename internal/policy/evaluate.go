package policy

import (
	"fmt"
	"strings"
)

// Request is what is asked of policies.
type Request struct {
	Principal Principal
	Action    string // appmesh:CreateMesh
	// Resource is an ARN, of something that exists or is to; "*" for an action that is
	// about none.
	Resource string
	// Owner is the account that the resource is in; empty takes it from the ARN.
	Owner string
	// Keys are all condition keys of the request, those of the principal among them.
	Keys Keys
}

// Set is the policies that count for a request.
type Set struct {
	// Identity are the principal's own: attached, inline, and its groups'.
	Identity []*Document
	// Boundary is the most that Identity may allow; nil for no boundary.
	Boundary *Document
	// Session are the policies that the session was made with; none do not narrow it.
	Session []*Document
	// Guards hold for the whole account, as service control policies do; each must
	// allow (IAM-015).
	Guards []*Document
	// Resource is the policy of the resource itself; nil for none.
	Resource *Document
	// Trust says that Resource is the trust policy of a role: without its yes nothing
	// is allowed, within an account neither.
	Trust bool
}

// layers are the set's documents, in the order in which they are asked for denies.
func (s *Set) layers() [5]layer {
	own := Resource
	if s.Trust {
		own = Trust
	}
	return [5]layer{{Guard, s.Guards}, {own, oneOrNone(s.Resource)}, {Identity, s.Identity}, {Boundary, oneOrNone(s.Boundary)}, {Session, s.Session}}
}

type layer struct {
	layer     Layer
	documents []*Document
}

func oneOrNone(d *Document) []*Document {
	if d == nil {
		return nil
	}
	return []*Document{d}
}

// Layer is one kind of policies of a Set.
type Layer string

// The layers, as refusals call them.
const (
	Identity Layer = "identity-based policy"
	Boundary Layer = "permissions boundary"
	Session  Layer = "session policy"
	Guard    Layer = "service control policy"
	Resource Layer = "resource-based policy"
	Trust    Layer = "role trust policy"
)

// Outcome is what policies say about a request.
type Outcome uint8

// The outcomes: nobody allowed it, a statement denied it, it is allowed.
const (
	ImplicitDeny Outcome = iota
	ExplicitDeny
	Allowed
)

// String is the outcome in the words of SimulatePrincipalPolicy.
func (o Outcome) String() string {
	switch o {
	case Allowed:
		return "allowed"
	case ExplicitDeny:
		return "explicitDeny"
	}
	return "implicitDeny"
}

// Decision is what a Set says about a Request.
type Decision struct {
	Outcome Outcome
	// Layer is the one that decided: that of the statement, or the first one that
	// should have allowed it and does not.
	Layer Layer
	// Document is the index of the deciding document in its layer of the Set.
	Document int
	// Statement denied it or allowed it; nil for an implicit deny.
	Statement *Statement
	// Looked is how many statements were compared.
	Looked int
}

// Because is the end of a refusal's sentence, for an action.
func (d Decision) Because(action string) string {
	article := "a"
	if d.Layer == Identity {
		article = "an"
	}
	if d.Outcome == ExplicitDeny {
		return fmt.Sprintf("with an explicit deny in %s %s", article, d.Layer)
	}
	return fmt.Sprintf("because no %s allows the %s action", d.Layer, action)
}

// question is a Request as statements are asked.
type question struct {
	*Request
	action, vendor, name string // in lower case
	resource             arn
	looked               int
}

func newQuestion(r *Request) question {
	q := question{Request: r, action: lower(r.Action), resource: newARN(r.Resource)}
	q.vendor, q.name, _ = strings.Cut(q.action, ":")
	return q
}

// Evaluate decides as IAM documents it: a deny anywhere decides; then each of guards,
// boundary, session and own policies has to allow it. What the resource's own policy
// allows within one account needs no other yes, where it names the user or session;
// where it names the role, or everybody, boundary and session still bound it; where it
// names the account, or another account's principal, own policies count as well.
func Evaluate(r Request, s Set) Decision {
	q := newQuestion(&r)
	d := q.evaluate(&s)
	d.Looked = q.looked
	return d
}

func (q *question) evaluate(s *Set) Decision {
	layers := s.layers()
	for _, l := range layers {
		if i, st, _ := q.first(l.documents, Deny); st != nil {
			return Decision{Outcome: ExplicitDeny, Layer: l.layer, Document: i, Statement: st}
		}
	}
	for i := range s.Guards {
		if _, st, _ := q.first(s.Guards[i:i+1], Allow); st == nil {
			return Decision{Layer: Guard, Document: i}
		}
	}
	own, resource, boundary := layers[1].layer, layers[1].documents, layers[3].documents
	_, yes, how := q.first(resource, Allow)
	same := q.same()
	allowed := Decision{Outcome: Allowed, Layer: own, Statement: yes}
	switch {
	case yes == nil && (s.Trust || !same && s.Resource != nil):
		return Decision{Layer: own}
	case same && how == byName:
		return allowed
	}
	if !same || how != byIssuer {
		i, st, _ := q.first(s.Identity, Allow)
		if st == nil {
			return Decision{Layer: Identity}
		}
		allowed = Decision{Outcome: Allowed, Layer: Identity, Document: i, Statement: st}
	}
	if _, st, _ := q.first(boundary, Allow); st == nil && boundary != nil {
		return Decision{Layer: Boundary}
	}
	if _, st, _ := q.first(s.Session, Allow); st == nil && len(s.Session) > 0 {
		return Decision{Layer: Session}
	}
	return allowed
}

// same says whether the principal is of the resource's account; services and who has
// no account are of every.
func (q *question) same() bool {
	owner := q.Owner
	if owner == "" && q.resource.ok {
		owner = q.resource.parts[4]
	}
	return owner == "" || q.Principal.Account == "" || q.Principal.Service != "" || owner == q.Principal.Account
}

// first finds the first statement of the effect that applies; of those that allow, one
// that names the principal more closely is preferred.
func (q *question) first(documents []*Document, effect Effect) (document int, found *Statement, how grip) {
	for i, d := range documents {
		x := &d.allow
		if effect == Deny {
			x = &d.deny
		}
		for _, list := range x.find(q.action, q.vendor) {
			for _, s := range list {
				q.looked++
				g := q.applies(s)
				if g <= how {
					continue
				}
				document, found, how = i, s, g
				if how == byName || effect == Deny {
					return document, found, how
				}
			}
		}
	}
	return document, found, how
}

// applies says whether a statement applies to the question, and how closely it names
// the principal.
func (q *question) applies(s *Statement) grip {
	if !q.fitsAction(s) || !q.fitsResource(s) {
		return no
	}
	g := s.names(&q.Principal)
	if g == no {
		return no
	}
	for i := range s.conditions {
		if !s.conditions[i].met(q.Keys, s.Effect) {
			return no
		}
	}
	return g
}

func (q *question) fitsAction(s *Statement) bool {
	for i := range s.actions {
		if s.actions[i].matches(q.vendor, q.name) {
			return !s.notActions
		}
	}
	return s.notActions
}

// fitsResource says whether the statement is about the resource; one without
// resources, of a trust policy, is about its own.
func (q *question) fitsResource(s *Statement) bool {
	if !s.hasResources {
		return true
	}
	known := true
	for i := range s.resources {
		fits, ok := s.resources[i].match(&q.resource, q.Keys)
		if fits {
			return !s.notResources
		}
		known = known && ok
	}
	return s.notResources && (known || s.Effect == Deny)
}
