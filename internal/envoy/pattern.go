package envoy

import (
	"fmt"
	"regexp"
	"regexp/syntax"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
)

// pattern is a regular expression for Envoy. It is tried first: one that Envoy
// refuses would make it refuse everything that comes with it.
func pattern(expr string) (*matcherv3.RegexMatcher, error) {
	size, err := programSize(expr)
	if err != nil {
		return nil, err
	}
	if size > maxProgramSize {
		return nil, fmt.Errorf("the pattern is too large: %d steps, Envoy takes %d", size, maxProgramSize)
	}
	return &matcherv3.RegexMatcher{Regex: expr}, nil
}

// maxProgramSize is what the agent's bootstrap allows a pattern, as AWS's did.
const maxProgramSize = 1000

// programSize is about the size of RE2's program for a pattern, and not less.
// Newer Envoys compile patterns byte by byte, older ones (1.36) as UTF-8, where
// a class of characters takes more steps; a proxy of either may get the
// pattern, so the larger size counts.
func programSize(expr string) (int, error) {
	text, err := stepsOf(expr, utf8Steps)
	if err != nil {
		return 0, err
	}
	if escape := foreignEscape(expr); escape != "" {
		return 0, fmt.Errorf("%s is not known to Envoy: write the characters themselves", escape)
	}
	bytes := make([]rune, len(expr))
	for i := range len(expr) {
		bytes[i] = rune(expr[i])
	}
	single, err := stepsOf(string(bytes), byteSteps)
	if err != nil {
		return 0, err
	}
	return max(text, single), nil
}

// foreignEscape finds an escape that Go takes and Envoy does not: by a number of
// more than a byte, such as \x{20ac} or \400, and of a class under another name
// than RE2's, such as \p{greek}, \p{Letter} or \pn. It is empty when there is none.
// The pattern is one that could be parsed.
func foreignEscape(expr string) string {
	for {
		i := strings.IndexByte(expr, '\\')
		if i < 0 {
			return ""
		}
		expr = expr[i:]
		m := escapes.FindStringSubmatch(expr)
		if m == nil { // the next character stands for itself or for a class
			expr = expr[min(2, len(expr)):]
			continue
		}
		hex, _ := strconv.ParseInt(m[1], 16, 32)
		octal, _ := strconv.ParseInt(m[2], 8, 32)
		if class := m[3] + m[4]; max(hex, octal) > 0xff || class != "" && !knownClass(class) {
			return m[0]
		}
		expr = expr[len(m[0]):]
	}
}

// escapes are those by number or name, and quoted text, which holds none.
var escapes = regexp.MustCompile(`^\\(?:x\{([0-9A-Fa-f]+)\}|([0-7]{2,3})|[pP](?:\{\^?([^}]*)\}|([^{]))|(?s:Q.*?(?:\\E|$)))`)

// knownClass says whether RE2 knows a class of Unicode by that name.
func knownClass(name string) bool {
	_, script := unicode.Scripts[name]
	_, category := unicode.Categories[name]
	return script || name == "Any" || category && len(name) <= 2 && name != "LC" && name != "Cn"
}

// stepsOf sums up the steps of a pattern's program. RE2 adds four around, and
// joints to some alternatives.
func stepsOf(expr string, steps func(*syntax.Inst) int) (int, error) {
	parsed, err := syntax.Parse(expr, syntax.Perl)
	if err != nil {
		return 0, err
	}
	parsed = parsed.Simplify()
	program, err := syntax.Compile(parsed)
	if err != nil {
		return 0, err
	}
	size, alternatives := 2, 0
	for i := range program.Inst {
		if program.Inst[i].Op == syntax.InstAlt {
			alternatives++
		}
		size += max(1, steps(&program.Inst[i]))
	}
	if alternatives > 0 {
		size += 3 + alternatives/4
	}
	return size + 2*joints(parsed), nil
}

// joints are the loops around more than one character: RE2 joins their ends to
// what is around with up to two steps each.
func joints(re *syntax.Regexp) int {
	n := 0
	switch re.Op {
	case syntax.OpStar, syntax.OpPlus, syntax.OpQuest:
		switch sub := re.Sub[0]; sub.Op {
		case syntax.OpCharClass, syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		case syntax.OpLiteral:
			if len(sub.Rune) > 1 {
				n++
			}
		default:
			n++
		}
	}
	for _, sub := range re.Sub {
		n += joints(sub)
	}
	return n
}

// byteSteps are one step for each range of bytes.
func byteSteps(i *syntax.Inst) int {
	n := 0
	for x := 0; x+1 < len(i.Rune); x += 2 {
		if i.Rune[x] <= 0xff {
			n++
		}
	}
	return n
}

// utf8Steps are the steps that read one of the instruction's characters from
// UTF-8.
func utf8Steps(i *syntax.Inst) int {
	ranges := i.Rune
	if len(ranges) == 1 {
		ranges = []rune{ranges[0], ranges[0]}
		if syntax.Flags(i.Arg)&syntax.FoldCase != 0 {
			for r := unicode.SimpleFold(i.Rune[0]); r != i.Rune[0]; r = unicode.SimpleFold(r) {
				ranges = append(ranges, r, r)
			}
			if len(ranges) == 4 && ranges[0] < utf8.RuneSelf && ranges[2] < utf8.RuneSelf {
				return 1 // RE2 folds ASCII within a step
			}
		}
	}
	c := class{endings: map[ending]int{}}
	for x := 0; x+1 < len(ranges); x += 2 {
		c.add(ranges[x], ranges[x+1])
	}
	return c.steps
}

// class counts the steps that read one of a class of characters as RE2's
// compiler makes them: each reads a byte of a range, and the same endings are
// shared. That RE2 also joins some beginnings is left out: the count is not
// less, and of Unicode's larger classes up to twice as much.
type class struct {
	steps   int
	endings map[ending]int
}

// ending is a step that several characters may share: a range of bytes, and the
// number of the step after it, 0 for none.
type ending struct {
	lo, hi byte
	next   int
}

func (c *class) add(lo, hi rune) {
	if lo > hi {
		return
	}
	if lo == utf8.RuneSelf && hi == utf8.MaxRune {
		c.steps += 6 // all but ASCII is read less strictly
		return
	}
	// First into ranges whose encodings are equally long,
	for _, last := range []rune{0x7f, 0x7ff, 0xffff} {
		if lo <= last && last < hi {
			c.add(lo, last)
			c.add(last+1, hi)
			return
		}
	}
	if hi < utf8.RuneSelf {
		c.steps++
		return
	}
	// then into those of which every byte is a range by itself.
	for n := 1; n < utf8.UTFMax; n++ {
		mask := rune(1)<<(6*n) - 1
		switch {
		case lo&^mask == hi&^mask:
			continue
		case lo&mask != 0:
			c.add(lo, lo|mask)
			c.add(lo|mask+1, hi)
			return
		case hi&mask != mask:
			c.add(lo, hi&^mask-1)
			c.add(hi&^mask, hi)
			return
		}
	}
	first, last := encodeRune(lo), encodeRune(hi)
	next := 0
	for n, lo := range slices.Backward(first) {
		e := ending{lo, last[n], next}
		shared := n == len(first)-1 || n > 0 && lo < last[n]
		if id, ok := c.endings[e]; ok && shared {
			next = id
			continue
		}
		c.steps++
		next = c.steps
		if shared {
			c.endings[e] = next
		}
	}
}

// encodeRune is UTF-8 also of surrogates, which classes may span.
func encodeRune(r rune) []byte {
	switch {
	case r <= 0x7ff:
		return []byte{0xc0 | byte(r>>6), 0x80 | byte(r&0x3f)}
	case r <= 0xffff:
		return []byte{0xe0 | byte(r>>12), 0x80 | byte(r>>6&0x3f), 0x80 | byte(r&0x3f)}
	}
	return []byte{0xf0 | byte(r>>18), 0x80 | byte(r>>12&0x3f), 0x80 | byte(r>>6&0x3f), 0x80 | byte(r&0x3f)}
}
