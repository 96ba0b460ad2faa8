package policy

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Error is what is wrong with a policy. AWS calls it MalformedPolicyDocument; its
// text is AWS's where that is known.
type Error struct {
	Message string
	// At is where in the text; Line 0 when it is no one place.
	At Position
}

func (e *Error) Error() string { return e.Message }

func itoa(n int) string { return strconv.Itoa(n) }

// fault is a fault of the grammar, at an offset.
func (r *reader) fault(offset int, format string, args ...any) error {
	at := position(r.text, offset)
	return &Error{fmt.Sprintf("Syntax errors in policy. Line %d, column %d: %s.", at.Line, at.Column, fmt.Sprintf(format, args...)), at}
}

// wrong is a fault that AWS has a sentence for.
func (r *reader) wrong(n *node, format string, args ...any) error {
	return &Error{fmt.Sprintf(format, args...), position(r.text, n.start)}
}

// Parse reads a policy in JSON by the grammar of IAM's documentation; what is wrong
// with it is an *Error. How large a policy may be is its owner's to say. What only
// some kinds of policies may have, ForIdentity and ForTrust check.
func Parse(text string) (*Document, error) {
	root, err := read(text)
	if err != nil {
		return nil, err
	}
	p := parser{reader: &reader{text: text}, document: &Document{Version: Version2008, text: text}}
	if err := p.parse(root); err != nil {
		return nil, err
	}
	return p.document, nil
}

// parser makes a Document of nodes.
type parser struct {
	*reader
	document *Document
	dialect  dialect
}

func (p *parser) parse(root *node) error {
	if root.kind != isObject {
		return p.fault(root.start, "a policy must be an object")
	}
	var statements *node
	for i, n := range root.names {
		member := root.members[i]
		switch n.text {
		case "Version":
			version, ok := member.value.(string)
			if !ok || version != Version2008 && version != Version2012 {
				return p.fault(member.start, "Version must be %s or %s", Version2012, Version2008)
			}
			p.document.Version = version
		case "Id":
			id, ok := member.value.(string)
			if !ok {
				return p.fault(member.start, "Id must be a string")
			}
			p.document.ID = id
		case "Statement":
			statements = member
		default:
			return p.fault(n.start, "a policy has no element %q", n.text)
		}
	}
	if statements == nil {
		return p.fault(root.start, "the policy has no Statement")
	}
	p.dialect = dialect{variables: p.document.Version == Version2012}
	return p.statements(statements)
}

func (p *parser) statements(n *node) error {
	list := n.list()
	if len(list) == 0 {
		return p.fault(n.start, "Statement must have at least one statement")
	}
	sids := map[string]bool{}
	for i, member := range list {
		s := &Statement{Number: i + 1, document: p.document, start: member.start, end: member.end}
		if err := p.statement(s, member); err != nil {
			return err
		}
		if s.Sid != "" && sids[s.Sid] {
			return p.wrong(member, "Statement IDs (SID) in a single policy must be unique.")
		}
		sids[s.Sid] = true
		p.document.Statements = append(p.document.Statements, s)
		if s.Effect == Deny {
			p.document.deny.add(s)
		} else {
			p.document.allow.add(s)
		}
	}
	return nil
}

// list is the members of a list, or the one value that stands for a list of one.
func (n *node) list() []*node {
	if n.kind == isList {
		return n.members
	}
	return []*node{n}
}

func (p *parser) statement(s *Statement, n *node) error {
	if n.kind != isObject {
		return p.fault(n.start, "a statement must be an object")
	}
	for i, element := range n.names {
		if err := p.element(s, element, n.members[i]); err != nil {
			return err
		}
	}
	switch {
	case s.Effect == "":
		return p.fault(n.start, "the statement has no Effect")
	case len(s.actions) == 0:
		return p.wrong(n, "Policy statement must contain actions.")
	}
	return nil
}

// pairs are elements of which a statement has one.
var pairs = map[string]string{
	"Principal": "NotPrincipal", "NotPrincipal": "Principal",
	"Action": "NotAction", "NotAction": "Action",
	"Resource": "NotResource", "NotResource": "Resource",
}

func (p *parser) element(s *Statement, element name, n *node) (err error) {
	not := strings.HasPrefix(element.text, "Not")
	second := false // the other of its pair was there before
	switch element.text {
	case "Sid":
		text, ok := n.value.(string)
		if !ok {
			return p.fault(n.start, "Sid must be a string")
		}
		if !isSid(text) {
			return p.wrong(n, "Statement IDs (SID) must be alpha-numeric. Check that your input satisfies the regular expression [0-9A-Za-z]*")
		}
		s.Sid = text
	case "Effect":
		switch text, _ := n.value.(string); text {
		case "Allow":
			s.Effect = Allow
		case "Deny":
			s.Effect = Deny
		default:
			return p.fault(n.start, "Effect must be Allow or Deny")
		}
	case "Principal", "NotPrincipal":
		second = s.hasPrincipals
		s.hasPrincipals, s.notPrincipals = true, not
		s.principals, err = p.principals(n)
	case "Action", "NotAction":
		second = s.actions != nil
		s.notActions = not
		s.actions, err = p.actions(n)
	case "Resource", "NotResource":
		second = s.hasResources
		s.hasResources, s.notResources = true, not
		s.resources, err = p.resources(n)
	case "Condition":
		s.conditions, err = p.conditions(n)
	default:
		return p.fault(element.start, "a statement has no element %q", element.text)
	}
	if second {
		return p.fault(element.start, "a statement has %s or %s, not both", element.text, pairs[element.text])
	}
	return err
}

// texts reads a string or a list of strings.
func (p *parser) texts(n *node, what string) ([]string, error) {
	texts := []string{}
	for _, member := range n.list() {
		text, ok := member.value.(string)
		if member.kind != isValue || !ok {
			return nil, p.fault(member.start, "%s must be a string or a list of strings", what)
		}
		texts = append(texts, text)
	}
	return texts, nil
}

func (p *parser) actions(n *node) ([]action, error) {
	texts, err := p.texts(n, "an action")
	if err != nil {
		return nil, err
	}
	actions := []action{}
	for _, text := range texts {
		vendor, name, ok := strings.Cut(text, ":")
		switch {
		case text == "*":
			name = "*"
		case !ok:
			return nil, p.wrong(n, "Actions/Conditions must be prefaced by a vendor, e.g., iam, sdb, ec2, etc.")
		case strings.Contains(name, ":"):
			return nil, p.wrong(n, "Actions/Condition can contain only one colon.")
		case vendor != "*" && !isVendor(vendor):
			return nil, p.wrong(n, "Vendor %s is not valid", vendor)
		}
		actions = append(actions, action{lower(vendor), newGlob(coder.Replace(lower(name)))})
	}
	return actions, nil
}

// isSid says whether a text may name a statement.
func isSid(text string) bool {
	for i := range len(text) {
		c := text[i]
		if (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') {
			return false
		}
	}
	return true
}

// isVendor says whether a text has the form of a service's prefix.
func isVendor(text string) bool {
	for i := range len(text) {
		c := text[i]
		if c != '-' && c != '.' && (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') {
			return false
		}
	}
	return text != ""
}

func (p *parser) resources(n *node) ([]arnTemplate, error) {
	texts, err := p.texts(n, "a resource")
	if err != nil {
		return nil, err
	}
	resources := []arnTemplate{}
	for _, text := range texts {
		if text != "*" && !strings.Contains(text, ":") {
			return nil, p.wrong(n, `Resource %s must be in ARN format or "*".`, text)
		}
		resources = append(resources, p.dialect.arn(text))
	}
	return resources, nil
}

// scalar is the text of a condition's value: a string, a number or a bool.
func scalar(n *node) (string, bool) {
	switch v := n.value.(type) {
	case string:
		return v, true
	case json.Number:
		return v.String(), true
	case bool:
		return strconv.FormatBool(v), true
	}
	return "", false
}

// ForIdentity checks what a policy of a user, group or role must be beside well
// formed: of the newer version, about resources, and silent about principals.
func (d *Document) ForIdentity() error {
	if d.Version != Version2012 {
		return &Error{Message: "Policy document must be version 2012-10-17 or greater."}
	}
	for _, s := range d.Statements {
		switch {
		case s.hasPrincipals:
			return &Error{"Policy document should not specify a principal.", s.Start()}
		case len(s.resources) == 0:
			return &Error{"Policy statement must contain resources.", s.Start()}
		}
	}
	return nil
}

// trusted are the actions that a trust policy may speak of.
var trusted = []string{"sts:assumerole", "sts:assumerolewithsaml", "sts:assumerolewithwebidentity", "sts:tagsession", "sts:setsourceidentity", "sts:setcontext"}

// ForTrust checks what the trust policy of a role must be: about principals and the
// ways to assume a role, and silent about resources.
func (d *Document) ForTrust() error {
	for _, s := range d.Statements {
		switch {
		case s.hasResources && s.notResources:
			return &Error{"Has prohibited field NotResource", s.Start()}
		case s.hasResources:
			return &Error{"Has prohibited field Resource", s.Start()}
		case s.notActions:
			return &Error{"Has prohibited field NotAction", s.Start()}
		case !s.hasPrincipals:
			return &Error{"Missing required field Principal", s.Start()}
		}
		for i := range s.actions {
			if !s.actions[i].trusts() {
				return &Error{"AssumeRole policy may only specify STS AssumeRole actions.", s.Start()}
			}
		}
	}
	return nil
}

func (a *action) trusts() bool {
	return slices.ContainsFunc(trusted, func(t string) bool {
		vendor, name, _ := strings.Cut(t, ":")
		return a.vendor == vendor && a.name.match(name)
	})
}
