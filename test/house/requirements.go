package main

import (
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"
)

// requirement is one line of docs/requirements.md.
type requirement struct {
	ID    string // MIG-SC-012
	Group string // MIG-SC
	Mark  string // must, implied, aws-only
	Text  string
}

var requirementLine = regexp.MustCompile(`^- \*\*(([A-Z0-9]+(?:-[A-Z]+)?)-\d{3})\*\* \[(must|implied|aws-only)\] (.*)$`)

// parseRequirements reads the list. A line that begins like a requirement and
// is none, or an id that is there twice, is an error: it would count nowhere.
func parseRequirements(text string) ([]requirement, error) {
	var out []requirement
	seen := map[string]bool{}
	for n, line := range strings.Split(text, "\n") {
		if !strings.HasPrefix(line, "- **") {
			continue
		}
		m := requirementLine.FindStringSubmatch(line)
		if m == nil {
			return nil, fmt.Errorf("line %d is no requirement: %.60q", n+1, line)
		}
		if seen[m[1]] {
			return nil, fmt.Errorf("line %d: %s is there twice", n+1, m[1])
		}
		seen[m[1]] = true
		out = append(out, requirement{ID: m[1], Group: m[2], Mark: m[3], Text: m[4]})
	}
	if len(out) == 0 {
		return nil, errors.New("no requirements")
	}
	return out, nil
}

// realGroups are the groups whose [must] lines only a test with a real Envoy
// can show: they say what traffic does.
var realGroups = []string{"EMS", "RT", "GR", "TLS", "MTLS", "ICPT"}

// idsPerTest is how many requirements one test may claim. A test that claims
// more shows none of them well.
const idsPerTest = 3

// reason says why a requirement is not shown; "" says that it is.
type reason string

const (
	shown     reason = ""
	untested  reason = "no test names it"
	notPassed reason = "its tests were skipped or did not end"
	failing   reason = "a test that names it failed"
	simulated reason = "its tests ran without a real Envoy"
)

type tally struct {
	lines  []requirement
	why    map[string]reason
	faults []string // wrong test names
}

// count decides what the tests show. An id counts for the test or subtest whose
// own part of the name holds it, when that passed and no part of it was skipped.
func count(lines []requirement, tests []*test) tally {
	known := map[string]requirement{}
	var groups []string
	for _, r := range lines {
		known[r.ID] = r
		if !slices.Contains(groups, r.Group) {
			groups = append(groups, r.Group)
		}
	}
	ids := idPattern(groups)
	c := tally{lines: lines, why: map[string]reason{}}
	for _, r := range lines {
		c.why[r.ID] = untested
	}
	incomplete := map[string]bool{} // tests with a part that was skipped
	for _, t := range tests {
		if t.Status != skipped {
			continue
		}
		for name := t.Name; name != ""; {
			incomplete[t.Package+"."+name] = true
			name = name[:max(0, strings.LastIndexByte(name, '/'))]
		}
	}
	for _, t := range tests {
		if n := len(idsIn(ids, t.Name)); n > idsPerTest {
			c.faults = append(c.faults, fmt.Sprintf("%s.%s names %d requirements; at most %d", t.Package, t.Name, n, idsPerTest))
			continue
		}
		for _, id := range idsIn(ids, t.Name[strings.LastIndexByte(t.Name, '/')+1:]) {
			r, ok := known[id]
			if !ok {
				c.faults = append(c.faults, fmt.Sprintf("%s.%s names %s, which is not in the list", t.Package, t.Name, id))
				continue
			}
			c.note(r, t, incomplete[t.Package+"."+t.Name])
		}
	}
	return c
}

// note lets one test speak for one requirement. A failure outranks everything,
// then a proof, then the nearest miss.
func (c *tally) note(r requirement, t *test, incomplete bool) {
	now := c.why[r.ID]
	if now == failing {
		return
	}
	switch {
	case t.Status == failed:
		c.why[r.ID] = failing
	case now == shown:
	case t.Status != passed || incomplete:
		if now == untested {
			c.why[r.ID] = notPassed
		}
	case r.Mark == "must" && slices.Contains(realGroups, r.Group) && t.Envoy == "":
		c.why[r.ID] = simulated
	default:
		c.why[r.ID] = shown
	}
}

// idPattern matches ids of the groups in test names. Function names cannot hold
// a hyphen, so TestWeights_RT_003 is accepted beside a subtest's "RT-003 ...".
func idPattern(groups []string) *regexp.Regexp {
	groups = slices.Clone(groups)
	slices.SortFunc(groups, func(a, b string) int { return len(b) - len(a) })
	for i, g := range groups {
		groups[i] = strings.ReplaceAll(g, "-", "[-_]")
	}
	return regexp.MustCompile(`(?:^|[^A-Z0-9-])((?:` + strings.Join(groups, "|") + `)[-_]\d{3})(?:\D|$)`)
}

func idsIn(pattern *regexp.Regexp, name string) []string {
	var out []string
	for at := 0; at < len(name); {
		m := pattern.FindStringSubmatchIndex(name[at:])
		if m == nil {
			break
		}
		id := strings.ReplaceAll(name[at+m[2]:at+m[3]], "_", "-")
		if !slices.Contains(out, id) {
			out = append(out, id)
		}
		at += m[3] // the character after an id may be the one before the next
	}
	return out
}

func (c tally) print(w io.Writer, verbose bool) {
	type sum struct{ shown, total, mustShown, must int }
	sums := map[string]*sum{}
	var groups []string
	all := &sum{}
	for _, r := range c.lines {
		s := sums[r.Group]
		if s == nil {
			s = &sum{}
			sums[r.Group] = s
			groups = append(groups, r.Group)
		}
		for _, s := range []*sum{s, all} {
			s.total++
			if r.Mark == "must" {
				s.must++
			}
			if c.why[r.ID] == shown {
				s.shown++
				if r.Mark == "must" {
					s.mustShown++
				}
			}
		}
	}
	tab := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(tab, "group\tshown\tof\tmust shown\tof\t")
	for _, g := range groups {
		s := sums[g]
		fmt.Fprintf(tab, "%s\t%d\t%d\t%d\t%d\t\n", g, s.shown, s.total, s.mustShown, s.must)
	}
	fmt.Fprintf(tab, "all\t%d\t%d\t%d\t%d\t\n", all.shown, all.total, all.mustShown, all.must)
	_ = tab.Flush()
	if verbose {
		fmt.Fprintln(w, "\nNot shown:")
		for _, r := range c.lines {
			if why := c.why[r.ID]; why != shown {
				fmt.Fprintf(w, "  %s [%s] %s: %.100s\n", r.ID, r.Mark, why, r.Text)
			}
		}
	}
	for _, f := range c.faults {
		fmt.Fprintln(w, "wrong:", f)
	}
}
