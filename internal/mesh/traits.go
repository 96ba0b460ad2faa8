package mesh

import (
	"slices"
	"strings"
)

// Traits as words: in the ledger, and for people.
const (
	wordMetrics = "metrics"
	wordNoSDS   = "no-sds"
	wordDirect  = "interception "
)

// Words are the traits as texts, sorted, none for none: "metrics", "no-sds", and
// "interception none", with what else [Direct] says. [TraitsOf] reads them.
func (t Traits) Words() (out []string) {
	if t.Direct != "" {
		out = append(out, wordDirect+string(t.Direct))
	}
	if t.Metrics {
		out = append(out, wordMetrics)
	}
	if t.NoSDS {
		out = append(out, wordNoSDS)
	}
	return out
}

// TraitsOf is the inverse of Words. Words that it does not know, of another release, say
// nothing.
func TraitsOf(words []string) (t Traits) {
	t.Metrics, t.NoSDS = slices.Contains(words, wordMetrics), slices.Contains(words, wordNoSDS)
	for _, w := range words {
		if direct, ok := strings.CutPrefix(w, wordDirect); ok {
			t.Direct = Direct(direct)
		}
	}
	return t
}

// Anywhere is what a proxy without interception says but for its address, so that
// proxies that differ in nothing else are alike.
func (d Direct) Anywhere() Direct {
	if at := d.Ingress(); at != "" {
		return Direct(strings.Replace(string(d), " "+at, " *", 1))
	}
	return d
}

// Pairs are the pairs of ports, as EVERMESH_APP_PORTS has them; empty for none.
func (d Direct) Pairs() string {
	var out []string
	for word := range strings.FieldsSeq(string(d)) {
		if strings.Contains(word, ":") && word != d.Ingress() {
			out = append(out, word)
		}
	}
	return strings.Join(out, ",")
}
