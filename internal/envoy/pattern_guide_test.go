package envoy_test

import (
	"regexp"
	"strings"
	"testing"

	"github.com/evermesh/evermesh/internal/envoy"
)

// TestGuidePatterns has the patterns that were of use before Envoy 1.17, and what the user guide has in their place. Every
// Envoy takes the latter, and they match what they are to match.
func TestGuidePatterns(t *testing.T) {
	for _, test := range []struct {
		name, was, construct, now string
		matches, others           []string
	}{
		{"IMG-014 a look-ahead", "(?=example)", "(?=", "(example)", []string{"example"}, []string{"examp", "other"}},
		{"IMG-014 a negative one", "ex(?!ample)", "(?!", "ex(amp){0}le", []string{"exle"}, []string{"example", "ex"}},
		{"IMG-014 one between two parts", "prefix(?![0-9])suffix", "(?!", "prefix[^0-9]?suffix", []string{"prefixsuffix", "prefix-suffix"}, []string{"prefix1suffix"}},
		{"IMG-015 a reference back, and its group again", `(a|b)\1`, `\1`, "(a|b)(a|b)", []string{"aa", "bb", "ab"}, []string{"a", "ac"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if _, err := envoy.ProgramSize(test.was); err == nil || !strings.Contains(err.Error(), test.construct) {
				t.Errorf("%s: got %v, want what names %s", test.was, err, test.construct)
			}
			if _, err := envoy.ProgramSize(test.now); err != nil {
				t.Errorf("%s: %v", test.now, err)
			}
			for _, binary := range validators(t) {
				if _, err := measure(t, binary, map[string]int{test.now: 0}); err != nil {
					t.Error(err)
				}
				if _, err := measure(t, binary, map[string]int{test.was: 0}); err == nil {
					t.Errorf("%s takes %s", binary, test.was)
				}
			}
			whole := regexp.MustCompile("^(?:" + test.now + ")$")
			for _, s := range test.matches {
				if !whole.MatchString(s) {
					t.Errorf("%s does not match %s", test.now, s)
				}
			}
			for _, s := range test.others {
				if whole.MatchString(s) {
					t.Errorf("%s matches %s", test.now, s)
				}
			}
		})
	}
}
