package policy

import (
	"slices"
	"strconv"
	"strings"
)

// Principal is who asks, as policies of resources and roles name it.
type Principal struct {
	Account string // 12 digits
	// ARN of the root, the user or the session: arn:aws:sts::…:assumed-role/R/S.
	ARN string
	// Issuer is the ARN of the role whose session it is.
	Issuer string
	// ID is the one that is never used again: AIDA…, AROA…:session.
	ID string
	// Service is set for a service of AWS's: appmesh.amazonaws.com.
	Service string
	// Federated is set for who is known by an identity provider: its ARN, or what
	// else trust policies call it by.
	Federated string
}

// The kinds of principals.
const (
	kindAWS       = "AWS"
	kindService   = "Service"
	kindFederated = "Federated"
	kindCanonical = "CanonicalUser"
)

// principal is one that a statement names.
type principal struct {
	kind string // empty for *
	text string
	// account is set where it stands for all of an account.
	account    string
	start, end int // offsets of its text in the document's
}

// grip is how closely a statement names a principal.
type grip uint8

const (
	no        grip = iota
	byAccount      // it names the account: what the principal's own policies say counts too
	byIssuer       // it names the role, or everybody
	byName         // it names the user, the session, the service or the provider
)

func (p *parser) principals(n *node) ([]principal, error) {
	if text, ok := n.value.(string); ok && n.kind == isValue {
		if text != "*" {
			return nil, p.fault(n.start, "a principal must be * or an object such as {\"AWS\": \"111122223333\"}")
		}
		return []principal{{}}, nil
	}
	if n.kind != isObject || len(n.names) == 0 {
		return nil, p.fault(n.start, "a principal must be * or an object such as {\"AWS\": \"111122223333\"}")
	}
	var all []principal
	for i, kind := range n.names {
		switch kind.text {
		case kindAWS, kindService, kindFederated, kindCanonical:
		default:
			return nil, p.fault(kind.start, "a principal is of AWS, Service, Federated or CanonicalUser, not %q", kind.text)
		}
		texts, err := p.texts(n.members[i], "a principal")
		if err != nil {
			return nil, err
		}
		for j, at := range n.members[i].list() {
			text := texts[j]
			one, ok := newPrincipal(kind.text, text)
			if !ok {
				return nil, p.wrong(n.members[i], "Invalid principal in policy: %q:%q", kind.text, text)
			}
			one.start, one.end = at.start, at.end
			all = append(all, one)
		}
	}
	return all, nil
}

// Named are the ARNs of users, roles and roles' sessions that the document has as
// principals, in order, each once.
func (d *Document) Named() (arns []string) {
	for _, s := range d.Statements {
		for _, p := range s.principals {
			if p.kind == kindAWS && p.account == "" && strings.Contains(p.text, ":") && !slices.Contains(arns, p.text) {
				arns = append(arns, p.text)
			}
		}
	}
	return arns
}

// Accounts are the accounts, of 12 digits, that the document has as principals, in order,
// each once: whole ones, and those of users, roles and sessions that it names.
func (d *Document) Accounts() (ids []string) {
	for _, s := range d.Statements {
		for _, p := range s.principals {
			id := p.account
			if a := newARN(p.text); id == "" && p.kind == kindAWS && a.ok {
				id = a.parts[4]
			}
			if id != "" && !slices.Contains(ids, id) {
				ids = append(ids, id)
			}
		}
	}
	return ids
}

// Bound is the document with principals by their unique ids, where ids has one for an
// ARN: it names those who had the ARN then, whoever has it now. The document itself is
// not to be used beside.
func (d *Document) Bound(ids map[string]string) *Document {
	for _, s := range d.Statements {
		for i, p := range s.principals {
			if id := ids[p.text]; id != "" && p.kind == kindAWS {
				s.principals[i].text = id
			}
		}
	}
	return d
}

// Renamed is the document's text with the principals that names has by their new names.
func (d *Document) Renamed(names map[string]string) string {
	var b strings.Builder
	done := 0
	for _, s := range d.Statements {
		for _, p := range s.principals {
			if name := names[p.text]; name != "" && p.kind == kindAWS {
				b.WriteString(d.text[done:p.start] + strconv.Quote(name))
				done = p.end
			}
		}
	}
	return b.String() + d.text[done:]
}

func newPrincipal(kind, text string) (principal, bool) {
	p := principal{kind: kind, text: text}
	switch {
	case text == "*" && kind == kindAWS:
		return principal{}, true
	case text == "" || strings.ContainsAny(text, "*?") && kind != kindFederated:
		return p, false // a name has no wildcards
	case kind != kindAWS:
		return p, true
	case isAccount(text):
		p.account = text
		return p, true
	}
	a := newARN(text)
	switch {
	case a.ok && isAccount(a.parts[4]) && (a.parts[2] == "iam" || a.parts[2] == "sts") && a.parts[5] != "":
		if a.parts[2] == "iam" && a.parts[5] == "root" {
			p.account = a.parts[4]
		}
		return p, true
	case !strings.Contains(text, ":") && len(text) >= 16 && (strings.HasPrefix(text, "AIDA") || strings.HasPrefix(text, "AROA")):
		return p, true
	}
	return p, false
}

func isAccount(text string) bool {
	for i := range len(text) {
		if text[i] < '0' || text[i] > '9' {
			return false
		}
	}
	return len(text) == 12
}

// grips says how closely it names who asks.
func (p *principal) grips(who *Principal) grip {
	id, _, _ := strings.Cut(who.ID, ":")
	switch {
	case p.kind == "":
		return byIssuer
	case p.kind == kindService:
		return when(who.Service != "" && p.text == who.Service, byName)
	case p.kind == kindFederated:
		return when(who.Federated != "" && p.text == who.Federated, byName)
	case who.Service != "" || who.Federated != "" || p.kind != kindAWS:
		return no
	case p.account != "":
		return when(p.account == who.Account, byAccount)
	case p.text == who.ARN || p.text == who.ID:
		return byName
	}
	return when(p.text == who.Issuer || p.text == id, byIssuer)
}

func when(yes bool, g grip) grip {
	if yes {
		return g
	}
	return no
}

// names says how closely the statement names who asks; a statement without principals
// names everybody.
func (s *Statement) names(who *Principal) grip {
	if !s.hasPrincipals {
		return byName
	}
	closest := no
	for i := range s.principals {
		closest = max(closest, s.principals[i].grips(who))
	}
	if s.notPrincipals {
		return when(closest == no, byName)
	}
	return closest
}
