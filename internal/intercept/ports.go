package intercept

import (
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"
)

// PortRange is First to Last, both included; a single port has them equal.
type PortRange struct{ First, Last uint16 }

// multiportLimit is how many ports one iptables multiport match takes; a range counts as two.
const multiportLimit = 15

var ssh = PortRange{22, 22}

// WithSSH appends port 22 unless it is there: the route manager never redirects it, whatever the list says. It is for
// those who make a [Config] without [Parse].
func WithSSH(ports []PortRange) []PortRange {
	if slices.Contains(ports, ssh) {
		return ports
	}
	return append(ports, ssh)
}

func parsePortRange(s string) (PortRange, error) {
	first, last, isRange := strings.Cut(s, ":")
	if !isRange {
		last = first
	}
	a, errA := parsePort(first)
	b, errB := parsePort(last)
	if errA != nil || errB != nil || b < a {
		return PortRange{}, fmt.Errorf("%q is not a port or a range of ports", s)
	}
	return PortRange{a, b}, nil
}

func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err == nil && n == 0 {
		err = strconv.ErrRange
	}
	return uint16(n), err
}

// join writes the range with the separator of the tool at hand: ":" for iptables, "-" for nft.
func (r PortRange) join(separator string) string {
	if r.First == r.Last {
		return strconv.Itoa(int(r.First))
	}
	return fmt.Sprintf("%d%s%d", r.First, separator, r.Last)
}

// merged sorts and joins overlapping ranges: nft refuses a set whose intervals overlap.
func merged(ports []PortRange) []PortRange {
	sorted := slices.SortedFunc(slices.Values(ports), func(a, b PortRange) int { return int(a.First) - int(b.First) })
	var out []PortRange
	for _, r := range sorted {
		if n := len(out); n > 0 && int(r.First) <= int(out[n-1].Last)+1 {
			out[n-1].Last = max(out[n-1].Last, r.Last)
			continue
		}
		out = append(out, r)
	}
	return out
}

// multiports cuts the list into pieces that one multiport match takes each. The route manager had one rule and
// so at most 15 application ports; the CNI plugin dropped the 16th in silence.
func multiports(ports []PortRange) [][]PortRange {
	var pieces [][]PortRange
	size := multiportLimit
	for _, r := range ports {
		weight := 1
		if r.First != r.Last {
			weight = 2
		}
		if size+weight > multiportLimit {
			pieces, size = append(pieces, nil), 0
		}
		pieces[len(pieces)-1] = append(pieces[len(pieces)-1], r)
		size += weight
	}
	return pieces
}

func joined(ports []PortRange, between, separator string) string {
	texts := make([]string, len(ports))
	for i, r := range ports {
		texts[i] = r.join(between)
	}
	return strings.Join(texts, separator)
}

// items yields the non-empty, trimmed parts of a comma list.
func items(list string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for item := range strings.SplitSeq(list, ",") {
			if item = strings.TrimSpace(item); item != "" && !yield(item) {
				return
			}
		}
	}
}
