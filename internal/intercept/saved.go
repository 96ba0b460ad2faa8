package intercept

import (
	"fmt"
	"slices"
	"strings"
)

// owned is what of a printed table nat is ours.
type owned struct {
	chains  []string // our chains that are there, as printed
	rules   []string // rules of our chains, "APPMESH_EGRESS -p tcp …", in their order
	jumps   []jump   // from built-in chains to ours, in their order
	others  map[string]int
	foreign []string // what others put into our chains, or leads to them from elsewhere
}

// jump is a rule of a built-in chain that leads to one of ours.
type jump struct {
	from string // OUTPUT or PREROUTING
	at   int    // its place in that chain, from 1
	rule string // without "-A OUTPUT "
}

// readSaved reads what iptables-save printed, table nat of it; others counts the rules of OUTPUT and PREROUTING that are not ours.
func readSaved(saved string) owned {
	o := owned{others: map[string]int{}}
	place := map[string]int{}
	table := "nat"
	for line := range strings.Lines(saved) {
		line = strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(line, "*"); ok {
			table = name
		}
		if table != "nat" {
			continue
		}
		if declared, ok := strings.CutPrefix(line, ":"); ok {
			if chain, _, _ := strings.Cut(declared, " "); isOurs(chain) {
				o.chains = append(o.chains, chain)
			}
			continue
		}
		rule, ok := strings.CutPrefix(line, "-A ")
		if !ok {
			continue
		}
		from, rest, _ := strings.Cut(rule, " ")
		words := strings.Fields(rest)
		builtIn := from == "OUTPUT" || from == "PREROUTING"
		place[from]++
		switch {
		case isOurs(from) && isOurTarget(words):
			o.rules = append(o.rules, rule)
		case isOurs(from):
			o.foreign = append(o.foreign, line)
		case builtIn && target(words, "-j"):
			o.jumps = append(o.jumps, jump{from, place[from], rest})
		case target(words, "-j") || target(words, "-g"):
			o.foreign = append(o.foreign, line)
		case builtIn:
			o.others[from]++
		}
	}
	return o
}

func isOurs(chain string) bool { return slices.Contains(ourChains, chain) }

// target says whether the rule's last words are the flag and a chain of ours.
func target(words []string, flag string) bool {
	n := len(words)
	return n >= 2 && words[n-2] == flag && isOurs(words[n-1])
}

// isOurTarget says whether a rule of our chains does what interception does, whoever wrote it: someone may have
// left out a port by hand.
func isOurTarget(words []string) bool {
	at := slices.Index(words, "-j")
	return at >= 0 && at+1 < len(words) && slices.Contains([]string{"RETURN", "REDIRECT", "DNAT"}, words[at+1])
}

// deleteJumps repeats each jump to our chains, with -D for -A.
func (o owned) deleteJumps(b *strings.Builder) {
	for _, j := range o.jumps {
		fmt.Fprintf(b, "-D %s %s\n", j.from, j.rule)
	}
}

// lines are all that is ours, to be compared.
func (o owned) lines() []string {
	var out []string
	for _, chain := range o.chains {
		out = append(out, ":"+chain)
	}
	for _, j := range o.jumps {
		out = append(out, fmt.Sprintf("%s %d %s", j.from, j.at, j.rule))
	}
	return append(out, o.rules...)
}

// canonical are all that is ours in one spelling, whether a tool printed it or this program made it.
func (o owned) canonical() []string {
	var out []string
	for _, chain := range slices.Sorted(slices.Values(o.chains)) {
		out = append(out, ":"+chain)
	}
	for _, from := range []string{"PREROUTING", "OUTPUT"} {
		for _, j := range o.jumps {
			if j.from == from {
				out = append(out, from+" "+j.rule)
			}
		}
	}
	for _, chain := range ourChains {
		for _, rule := range o.rules {
			if strings.HasPrefix(rule, chain+" ") {
				out = append(out, canonicalRule(rule))
			}
		}
	}
	return out
}
