package simulate

import (
	"slices"
	"strings"
)

// canonicalPath is a path after Envoy's normalisation (normalize_path), which is
// that of Chromium's URLs: dots are resolved, backslashes become slashes, what
// may not stand in a path is escaped. Of escapes that are there, those of letters,
// digits and - _ ~ are undone. ok is false for a path that Envoy refuses. There is
// no query in it.
func canonicalPath(path string) (out string, ok bool) {
	b := make([]byte, 0, len(path)+16)
	for i := 0; i < len(path); i++ {
		c := path[i]
		n := dot(path[i:])
		switch {
		case n > 0 && (len(b) == 0 || b[len(b)-1] != '/'):
			b = append(b, '.')
			i += n - 1
		case n > 0:
			used, up := afterDot(path[i+n:])
			switch {
			case used < 0: // a name that begins with a dot
				b = append(b, '.')
				i += n - 1
				continue
			case up:
				b = toPreviousSlash(b)
			}
			i += n + used - 1
		case c == '\\':
			b = append(b, '/')
		case strings.HasPrefix(path[i:], "%00"):
			return "", false
		case c == '%' && i+2 < len(path) && plainly(path[i+1], path[i+2]) != 0:
			b = append(b, plainly(path[i+1], path[i+2]))
			i += 2
		case c >= 0x80 || c < 0x21 || c == 0x7f || strings.IndexByte(escaped, c) >= 0:
			b = append(b, '%', hex[c>>4], hex[c&15])
		default:
			b = append(b, c)
		}
	}
	return string(b), true
}

const (
	hex     = "0123456789ABCDEF"
	escaped = "\"#<>?`{|}^"
)

// dotsWithParameters says whether a segment is one or two dots with parameters, as
// in /a/..;x/b: newer Envoys (1.40) take the dots for what they are, and older ones (1.36)
// for a name.
func dotsWithParameters(path string) bool {
	for segment := range strings.FieldsFuncSeq(path, func(c rune) bool { return c == '/' || c == '\\' }) {
		n := dot(segment)
		if n == 0 {
			continue
		}
		n += dot(segment[n:])
		if n < len(segment) && segment[n] == ';' {
			return true
		}
	}
	return false
}

// dot is the length of the dot, plain or escaped, that a text begins with.
func dot(s string) int {
	switch {
	case strings.HasPrefix(s, "."):
		return 1
	case len(s) >= 3 && strings.EqualFold(s[:3], "%2e"):
		return 3
	}
	return 0
}

// afterDot looks at what follows a dot that follows a slash: used is how much of
// it belongs to a segment of one dot, or of two (up); -1 when it is a name.
func afterDot(s string) (used int, up bool) {
	slash := func(s string) int {
		switch {
		case s == "":
			return 0
		case s[0] == '/' || s[0] == '\\':
			return 1
		}
		return -1
	}
	if n := slash(s); n >= 0 {
		return n, false
	}
	if second := dot(s); second > 0 {
		if n := slash(s[second:]); n >= 0 {
			return second + n, true
		}
	}
	return -1, false
}

// toPreviousSlash cuts the last segment of a path that ends with a slash.
func toPreviousSlash(b []byte) []byte {
	i := len(b) - 1
	if i <= 0 {
		return b
	}
	for i > 0 && b[i-1] != '/' {
		i--
	}
	return b[:max(i, 1)]
}

// mergedSlashes makes one slash of several. Of a path that has nothing else Envoy
// leaves two.
func mergedSlashes(path string) string {
	if len(path) > 1 && strings.Trim(path, "/") == "" {
		return "//"
	}
	return string(slices.CompactFunc([]byte(path), func(a, b byte) bool { return a == '/' && b == '/' }))
}

// splitQuery cuts a path at its query, whose question mark stays with it.
func splitQuery(path string) (before, query string) {
	if i := strings.IndexAny(path, "?#"); i >= 0 {
		return path[:i], path[i:]
	}
	return path, ""
}

// firstParameter is the first value of a query parameter. Escapes are not undone.
func firstParameter(path, name string) (value string, present bool) {
	_, query, _ := strings.Cut(path, "?")
	for pair := range strings.SplitSeq(query, "&") {
		if key, value, _ := strings.Cut(pair, "="); key == name && pair != "" {
			return value, true
		}
	}
	return "", false
}

// plainly is the character that an escape of these digits stands for, if that
// needs no escape; else 0.
func plainly(hi, lo byte) byte {
	if digit(hi) < 0 || digit(lo) < 0 {
		return 0
	}
	c := byte(digit(hi)<<4 | digit(lo))
	if u := upper(c); u >= 'A' && u <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '~' {
		return c
	}
	return 0
}

func digit(c byte) int { return strings.IndexByte(hex, upper(c)) }

func upper(c byte) byte {
	if c >= 'a' && c <= 'z' {
		return c - 'a' + 'A'
	}
	return c
}
