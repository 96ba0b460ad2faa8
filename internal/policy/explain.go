package policy

import (
	"fmt"
	"strings"
)

// Finding is what one statement had to do with a request whose action it names
// (IAM-041).
type Finding struct {
	Layer     Layer
	Document  int // its index in the layer of the Set
	Statement *Statement
	// Missed is what of the request the statement does not fit; empty when it applies.
	Missed Part
	// Unmet is the first condition that is not met, where Missed is ByCondition.
	Unmet *Unmet
}

// Part is a part of a statement.
type Part string

// The parts that a request may miss.
const (
	ByResource  Part = "resource"
	ByPrincipal Part = "principal"
	ByCondition Part = "condition"
)

// Unmet is a condition that a request does not meet.
type Unmet struct {
	Operator, Key string
	Wanted        []string // as the policy has them
	Got           []string // as the request has them; none when it does not have the key
}

// String is the condition as a sentence's end.
func (u *Unmet) String() string {
	got := "which the request does not have"
	if len(u.Got) > 0 {
		got = fmt.Sprintf("which is %s", strings.Join(u.Got, ", "))
	}
	return fmt.Sprintf("%s of %s, %s, with %s", u.Operator, u.Key, got, strings.Join(u.Wanted, ", "))
}

// Explain is Evaluate with its reasons: every statement that names the action, layer by
// layer in the order in which they count. It is for people and takes longer.
func Explain(r Request, s Set) (Decision, []Finding) {
	q := newQuestion(&r)
	var findings []Finding
	for _, l := range s.layers() {
		for i, d := range l.documents {
			for _, st := range d.Statements {
				if !q.fitsAction(st) {
					continue
				}
				f := Finding{Layer: l.layer, Document: i, Statement: st}
				f.Missed, f.Unmet = q.misses(st)
				findings = append(findings, f)
			}
		}
	}
	return Evaluate(r, s), findings
}

// misses says what of a statement does not fit.
func (q *question) misses(s *Statement) (Part, *Unmet) {
	if !q.fitsResource(s) {
		return ByResource, nil
	}
	if s.names(&q.Principal) == no {
		return ByPrincipal, nil
	}
	for i := range s.conditions {
		c := &s.conditions[i]
		if !c.met(q.Keys, s.Effect) {
			return ByCondition, &Unmet{c.operator, c.key, c.values, lookup(q.Keys, c.key)}
		}
	}
	return "", nil
}
