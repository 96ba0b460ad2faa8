package policy

import "strings"

// Effect is what a statement says about what it fits.
type Effect string

// The effects of statements.
const (
	Allow Effect = "Allow"
	Deny  Effect = "Deny"
)

// Version2008 is the version of policies that name none: in it, ${…} is plain text.
const (
	Version2008 = "2008-10-17"
	Version2012 = "2012-10-17"
)

// Document is one policy, ready to be asked. It does not change, and any number may
// use it at once.
type Document struct {
	Version    string
	ID         string
	Statements []*Statement

	text        string
	allow, deny index
}

// Statement is one of a policy's statements.
type Statement struct {
	Sid    string // empty for none
	Number int    // in its document, from 1
	Effect Effect

	document   *Document
	start, end int // offsets of its first byte, and after its last

	principals    []principal
	notPrincipals bool
	hasPrincipals bool
	actions       []action
	notActions    bool
	resources     []arnTemplate
	notResources  bool
	hasResources  bool
	conditions    []condition
}

// Name is what a person calls the statement by: its Sid, or its number.
func (s *Statement) Name() string {
	if s.Sid != "" {
		return s.Sid
	}
	return "statement " + itoa(s.Number)
}

// Start is where its first character stands in the policy's text.
func (s *Statement) Start() Position { return position(s.document.text, s.start) }

// End is where its last character stands.
func (s *Statement) End() Position { return position(s.document.text, s.end-1) }

// action is a pattern of actions, appmesh:Create*, without case.
type action struct {
	vendor string // appmesh; * for any
	name   glob   // create*
}

// matches wants both in lower case.
func (a *action) matches(vendor, name string) bool {
	return (a.vendor == "*" || a.vendor == vendor) && a.name.match(name)
}

// index finds the statements of one effect that an action may concern.
type index struct {
	exact  map[string][]*Statement // by the whole action
	vendor map[string][]*Statement // by the service, where the name has wildcards
	rest   []*Statement            // of no one service, and NotAction
}

func (x *index) add(s *Statement) {
	if s.notActions {
		x.rest = append(x.rest, s)
		return
	}
	for i := range s.actions {
		a := &s.actions[i]
		switch {
		case a.vendor == "*":
			x.rest = appendOnce(x.rest, s)
		case len(a.name) > 1 || strings.Contains(a.name[0], one):
			x.vendor = under(x.vendor, a.vendor, s)
		default:
			x.exact = under(x.exact, a.vendor+":"+a.name[0], s)
		}
	}
}

func under(m map[string][]*Statement, key string, s *Statement) map[string][]*Statement {
	if m == nil {
		m = map[string][]*Statement{}
	}
	m[key] = appendOnce(m[key], s)
	return m
}

// appendOnce appends a statement that is not the list's last.
func appendOnce(list []*Statement, s *Statement) []*Statement {
	if n := len(list); n > 0 && list[n-1] == s {
		return list
	}
	return append(list, s)
}

// find returns the statements that an action may concern, as three lists.
func (x *index) find(action, vendor string) [3][]*Statement {
	return [3][]*Statement{x.exact[action], x.vendor[vendor], x.rest}
}

// String is the text that the document was parsed from.
func (d *Document) String() string { return d.text }

// ContextKeys are the condition keys that the document's conditions and variables
// name, as KeyName writes them, each once, in the order of the text.
func (d *Document) ContextKeys() []string {
	var keys []string
	seen := map[string]bool{}
	add := func(key string) {
		if key != "" && !seen[key] {
			seen[key] = true
			keys = append(keys, key)
		}
	}
	of := func(t *template) {
		for _, p := range t.pieces {
			add(p.key)
		}
	}
	for _, s := range d.Statements {
		for i := range s.resources {
			for j := range s.resources[i].parts {
				of(&s.resources[i].parts[j])
			}
		}
		for i := range s.conditions {
			add(s.conditions[i].key)
			for j := range s.conditions[i].texts {
				of(&s.conditions[i].texts[j])
			}
			for j := range s.conditions[i].arns {
				for k := range s.conditions[i].arns[j].parts {
					of(&s.conditions[i].arns[j].parts[k])
				}
			}
		}
	}
	return keys
}
