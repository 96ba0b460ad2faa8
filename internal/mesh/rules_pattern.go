package mesh

import (
	"encoding/json"
	"errors"
	"regexp/syntax"
	"strings"

	"github.com/evermesh/evermesh/internal/api"
)

// patternsAreKnown: the regular expressions of a route or gateway route are RE2's, the only ones that Envoy takes: they look
// neither ahead nor behind, and refer to nothing before them (IMG-013, TRBL-036). What depends on the Envoy that gets it, such as
// how large a pattern may be, is a problem of the route and no refusal.
func patternsAreKnown(_ Reader, _, now *api.Resource) error {
	text, err := json.Marshal(now.Spec)
	var tree any
	if err != nil || !strings.Contains(string(text), `"regex":`) || json.Unmarshal(text, &tree) != nil {
		return nil //nolint:nilerr // a spec that cannot be written is refused elsewhere
	}
	var refusal error
	eachRegex("spec", tree, func(path, regex string) {
		if refusal != nil {
			return
		}
		if _, err := syntax.Parse(regex, syntax.Perl); err != nil {
			refusal = invalid("The regular expression %q in %s cannot be used: %s.", regex, path, unknownConstruct(err))
		}
	})
	return refusal
}

// unknownConstruct says what of a pattern RE2 does not take.
func unknownConstruct(err error) string {
	var e *syntax.Error
	if !errors.As(err, &e) {
		return err.Error()
	}
	for _, c := range []struct{ begins, name string }{
		{"(?=", "look-ahead"}, {"(?!", "negative look-ahead"}, {"(?<=", "look-behind"}, {"(?<!", "negative look-behind"},
	} {
		if strings.HasPrefix(e.Expr, c.begins) {
			return c.begins + " is a " + c.name + ", which Envoy's patterns (RE2) do not have"
		}
	}
	if e.Code == syntax.ErrInvalidEscape && len(e.Expr) == 2 && e.Expr[1] >= '1' && e.Expr[1] <= '9' {
		return e.Expr + " is a back-reference, which Envoy's patterns (RE2) do not have"
	}
	return e.Code.String() + ": " + e.Expr
}
