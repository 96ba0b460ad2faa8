package policy

import (
	"strings"
	"unicode/utf8"
)

// In a coded pattern these two bytes stand for the wildcards. Neither is part of
// any UTF-8 text, so that a * that is meant as such needs no escape.
const (
	star = "\xfe" // *
	one  = "\xff" // ?
)

// coder turns a text's wildcards into a coded pattern's.
var coder = strings.NewReplacer("*", star, "?", one)

// glob is a pattern, cut at its *s: what is before the first, between each two, and
// after the last. It is never empty.
type glob []string

func newGlob(coded string) glob {
	parts := strings.Split(coded, star)
	g := parts[:1]
	for i, p := range parts[1:] {
		if p != "" || i == len(parts)-2 { // ** is *
			g = append(g, p)
		}
	}
	return g
}

// everything says whether the pattern is *.
func (g glob) everything() bool { return len(g) == 2 && g[0] == "" && g[1] == "" }

// match says whether the whole text fits. However the wildcards are set, a part that
// was found is never looked for again.
func (g glob) match(text string) bool {
	rest, ok := cutStart(text, g[0])
	if len(g) == 1 || !ok {
		return ok && rest == ""
	}
	last := len(g) - 1
	rest, ok = cutEnd(rest, g[last])
	for i := 1; ok && i < last; i++ {
		rest, ok = cutAfter(rest, g[i])
	}
	return ok
}

// cutStart removes what fits the part from the text's start.
func cutStart(text, part string) (string, bool) {
	for {
		plain, more, wild := strings.Cut(part, one)
		rest, ok := strings.CutPrefix(text, plain)
		if !ok || !wild {
			return rest, ok
		}
		_, size := utf8.DecodeRuneInString(rest)
		if size == 0 {
			return "", false
		}
		text, part = rest[size:], more
	}
}

// cutEnd removes what fits the part from the text's end.
func cutEnd(text, part string) (string, bool) {
	for {
		i := strings.LastIndex(part, one)
		rest, ok := strings.CutSuffix(text, part[i+1:])
		if !ok || i < 0 {
			return rest, ok
		}
		_, size := utf8.DecodeLastRuneInString(rest)
		if size == 0 {
			return "", false
		}
		text, part = rest[:len(rest)-size], part[:i]
	}
}

// short is the length of parts that are searched for by comparing at each place. What
// was passed is not looked at again by the parts that follow, so that all of them
// together take this many steps for a character of the text.
const short = 64

// cutAfter removes all to the end of the first place that fits the part.
func cutAfter(text, part string) (string, bool) {
	if !strings.Contains(part, one) {
		_, rest, ok := strings.Cut(text, part)
		return rest, ok
	}
	if len(part) > short {
		return cutAfterBits([]rune(text), part)
	}
	for at := 0; at < len(text); {
		if rest, ok := cutStart(text[at:], part); ok {
			return rest, true
		}
		_, size := utf8.DecodeRuneInString(text[at:])
		at += size
	}
	return "", false
}

// cutAfterBits is cutAfter for parts with ? that are long: it tries all places at
// once, 64 a step.
func cutAfterBits(text []rune, part string) (string, bool) {
	words := (len(text) + 63) / 64
	where := map[rune][]uint64{} // the places of a character
	for i, r := range text {
		if where[r] == nil {
			where[r] = make([]uint64, words)
		}
		where[r][i/64] |= 1 << (i % 64)
	}
	fits := make([]uint64, words) // places where the part up to here fits
	for i := range fits {
		fits[i] = ^uint64(0)
	}
	n := 0
	for len(part) > 0 {
		if part[0] == one[0] {
			part = part[1:]
			n++
			continue
		}
		r, size := utf8.DecodeRuneInString(part)
		part = part[size:]
		and(fits, where[r], n)
		n++
	}
	for at := 0; at+n <= len(text); at++ {
		if fits[at/64]&(1<<(at%64)) != 0 {
			return string(text[at+n:]), true
		}
	}
	return "", false
}

// and keeps the places whose n-th after is in the set.
func and(fits, set []uint64, n int) {
	word, bit := n/64, n%64
	for i := range fits {
		var w uint64
		if i+word < len(set) {
			w = set[i+word] >> bit
		}
		if bit > 0 && i+word+1 < len(set) {
			w |= set[i+word+1] << (64 - bit)
		}
		fits[i] &= w
	}
}
