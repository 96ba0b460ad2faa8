package policy

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// slow is the pattern as a regular expression.
func slow(pattern, text string) bool {
	var b strings.Builder
	b.WriteString("^(?s:")
	for _, r := range pattern {
		switch r {
		case '*':
			b.WriteString(".*")
		case '?':
			b.WriteString(".")
		default:
			b.WriteString(regexp.QuoteMeta(string(r)))
		}
	}
	b.WriteString(")$")
	return regexp.MustCompile(b.String()).MatchString(text)
}

func TestPatternsMatchAsTheirExpressionsDo(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pattern := rapid.StringOfN(rapid.RuneFrom([]rune("ab*?é")), 0, 12, -1).Draw(t, "pattern")
		text := rapid.StringOfN(rapid.RuneFrom([]rune("abé*?")), 0, 16, -1).Draw(t, "text")
		if got, want := newGlob(coder.Replace(pattern)).match(text), slow(pattern, text); got != want {
			t.Fatalf("%q of %q is %v, want %v", pattern, text, got, want)
		}
	})
}

// Long parts with ? go another way.
func TestLongPartsMatchAsTheirExpressionsDo(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		part := rapid.StringOfN(rapid.RuneFrom([]rune("aaaaa?b")), short+1, 3*short, -1).Draw(t, "part")
		before := strings.Repeat("a", rapid.IntRange(0, 200).Draw(t, "before"))
		inside := []rune(strings.NewReplacer("?", rapid.SampledFrom([]string{"a", "b", "é"}).Draw(t, "instead")).Replace(part))
		if rapid.Bool().Draw(t, "change") {
			inside[rapid.IntRange(0, len(inside)-1).Draw(t, "at")] = 'c'
		}
		text := before + string(inside) + rapid.StringOfN(rapid.RuneFrom([]rune("abé")), 0, 80, -1).Draw(t, "after")
		pattern := "*" + part + "?" + rapid.SampledFrom([]string{"*", "*b", ""}).Draw(t, "end")
		if got, want := newGlob(coder.Replace(pattern)).match(text), slow(pattern, text); got != want {
			t.Fatalf("%q of %q is %v, want %v", pattern, text, got, want)
		}
	})
}

// However a pattern is made, ten times the text takes about ten times as long, and so
// does ten times the pattern: nothing of it grows with their powers. IAM has no policy
// longer than 10,240 characters.
func TestHostilePatternsTakeLinearTime(t *testing.T) {
	const times = 10
	for name, unit := range map[string]string{
		"stars":             "*a",
		"stars and marks":   "*?a",
		"long part":         "a?",
		"a star in between": "aa?*",
	} {
		t.Run(name, func(t *testing.T) {
			took := func(pattern, text int) time.Duration {
				g := newGlob(coder.Replace("*" + strings.Repeat(unit, pattern/len(unit)) + "b*"))
				long := strings.Repeat("a", text)
				best := time.Hour
				for range 5 {
					start := time.Now()
					if g.match(long) {
						t.Fatal("it matched")
					}
					best = min(best, time.Since(start))
				}
				return max(best, 5*time.Microsecond) // below, the clock tells little
			}
			base := took(1024, 8192)
			// What is longer is interrupted more often on a busy machine: it is measured
			// until it was not.
			least := func(pattern, text int) time.Duration {
				best := time.Hour
				for range 40 {
					if best = min(best, took(pattern, text)); best <= 4*times*base {
						break
					}
				}
				return best
			}
			if got := least(1024*times, 8192); got > 4*times*base {
				t.Errorf("a pattern of 1,024 took %v, one of 10,240 %v", base, got)
			}
			if got := least(1024, 8192*times); got > 4*times*base {
				t.Errorf("a text of 8,192 took %v, one of 81,920 %v", base, got)
			}
		})
	}
}

func FuzzMatch(f *testing.F) {
	f.Add("arn:aws:iam::*:user/${aws:username}", "arn:aws:iam::111122223333:user/a", "a")
	f.Add("*a?*a*a", "aaaaaaaaaaaa", "*")
	f.Add("${aws:username, 'x'}${*}:*", "x*:y", "")
	f.Fuzz(func(t *testing.T, pattern, text, value string) {
		d := dialect{variables: true, wildcards: true}
		keys := Map{"aws:username": {value}}
		whole := d.template(pattern)
		if g, ok := whole.glob(keys); ok {
			g.match(text)
		}
		a := newARN(text)
		of := d.arn(pattern)
		fits, known := of.match(&a, keys)
		if fits && !known {
			t.Error("it fits what has no value")
		}
		// A text always fits itself, when every character of it is meant as such.
		plain := strings.NewReplacer("*", "${*}", "?", "${?}", "$", "${$}").Replace(text)
		self := d.template(plain)
		if g, ok := self.glob(nil); strings.ToValidUTF8(text, "") == text && (!ok || !g.match(text)) {
			t.Errorf("%q does not fit itself", text)
		}
	})
}
