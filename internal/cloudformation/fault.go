package cloudformation

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Position is a place in a template. Line and Column count from 1; they are 0
// where they are not known.
type Position struct {
	File         string
	Line, Column int
}

// String is the form file:line:column.
func (p Position) String() string {
	if p.Line == 0 {
		return p.File
	}
	if p.Column == 0 {
		return fmt.Sprintf("%s:%d", p.File, p.Line)
	}
	return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column)
}

// Fault is a reason why a template cannot be used.
type Fault struct {
	Position
	// Path is the part of the template that it is about, such as
	// Resources.Node.Properties.Spec.Listeners[0]; empty for the whole.
	Path string
	Text string
}

// String says it in a line, position first.
func (p Fault) String() string {
	if p.Path == "" {
		return fmt.Sprintf("%s: %s", p.Position, p.Text)
	}
	return fmt.Sprintf("%s: %s: %s", p.Position, p.Path, p.Text)
}

// mostFaults is how many are told: whoever has more has one that explains
// many.
const mostFaults = 200

// faults collects what is wrong.
type faults struct {
	found []Fault
	known map[Fault]bool
	more  int // not told
}

func (p *faults) add(at Position, path, format string, args ...any) {
	one := Fault{at, path, fmt.Sprintf(format, args...)}
	if p.known[one] {
		return
	}
	if len(p.found) >= mostFaults {
		p.more++
		return
	}
	if p.known == nil {
		p.known = map[Fault]bool{}
	}
	p.known[one] = true
	p.found = append(p.found, one)
}

// sorted returns the faults in the order of the template.
func (p *faults) sorted() []Fault {
	slices.SortStableFunc(p.found, func(a, b Fault) int {
		return cmp.Or(a.Line-b.Line, a.Column-b.Column)
	})
	if p.more > 0 {
		p.found = append(p.found, Fault{Position: Position{File: p.found[0].File}, Text: fmt.Sprintf("and %d more faults, which are not told", p.more)})
		p.more = 0
	}
	return p.found
}

// meant is the end of a message about a name that is not known: the known one
// that is most alike, when one is.
func meant(name string, known []string) string {
	best, least := "", 1+min(len(name), 64)/3
	for _, k := range known {
		if strings.EqualFold(k, name) {
			return "; did you mean " + k + "?"
		}
		if len(k)-len(name) > least || len(name)-len(k) > least {
			continue
		}
		if d := distance(strings.ToLower(name), strings.ToLower(k)); d <= least && d < len(k) {
			if d < least || best == "" {
				best, least = k, d
			}
		}
	}
	if best == "" {
		return ""
	}
	return "; did you mean " + best + "?"
}

// distance is how many letters have to be added, dropped or changed to make a of
// b. Long texts are as far apart as they are long.
func distance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return max(len(a), len(b))
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		corner := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := corner
			if a[i] != b[j] {
				change++
			}
			corner = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
