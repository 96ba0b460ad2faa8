package policy

import (
	"unicode"
	"unicode/utf8"
)

// folds says whether two texts are the same but for case. A letter of ASCII is never
// the same as one from elsewhere: the Kelvin sign is no k.
func folds(a, b string) bool {
	for a != "" && b != "" {
		r, n := utf8.DecodeRuneInString(a)
		s, m := utf8.DecodeRuneInString(b)
		if r != s && ((r < utf8.RuneSelf) != (s < utf8.RuneSelf) || unicode.ToLower(r) != unicode.ToLower(s)) {
			return false
		}
		a, b = a[n:], b[m:]
	}
	return a == b
}
