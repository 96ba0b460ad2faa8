package policy

import (
	"strings"
	"unicode/utf8"
)

// template is a text of a policy with its variables, ${aws:username}. One without
// variables is ready.
type template struct {
	ready  glob
	pieces []piece // nil when ready
}

// piece is a coded text, or a variable.
type piece struct {
	coded string
	// key is a condition key, in lower case; empty for a text.
	key string
	// instead is the value of a key that is not there, where the variable has one.
	instead    string
	hasInstead bool
}

// dialect says what of a text is special.
type dialect struct {
	variables bool // ${…}: since version 2012-10-17
	wildcards bool // * and ?
}

func (d dialect) template(text string) template {
	var t template
	var coded strings.Builder
	variables := false
	for len(text) > 0 {
		i := strings.Index(text, "${")
		end := -1
		if d.variables && i >= 0 {
			end = strings.IndexByte(text[i:], '}')
		}
		if end < 0 {
			coded.WriteString(d.code(text))
			break
		}
		coded.WriteString(d.code(text[:i]))
		inside := text[i+2 : i+end]
		text = text[i+end+1:]
		if inside == "*" || inside == "?" || inside == "$" { // meant as such
			coded.WriteString(inside)
			continue
		}
		variables = true
		t.pieces = append(t.pieces, piece{coded: coded.String()}, variable(inside))
		coded.Reset()
	}
	if !variables {
		t.ready = newGlob(coded.String())
		return t
	}
	t.pieces = append(t.pieces, piece{coded: coded.String()})
	return t
}

func (d dialect) code(text string) string {
	if !d.wildcards {
		return text
	}
	return coder.Replace(text)
}

// variable reads what is between ${ and }: a key, and perhaps a value for when it is
// not there: aws:username, 'nobody'.
func variable(inside string) piece {
	key, instead, has := strings.Cut(inside, ",")
	p := piece{key: KeyName(strings.TrimSpace(key))}
	if has {
		instead = strings.TrimSpace(instead)
		if len(instead) >= 2 && instead[0] == '\'' && instead[len(instead)-1] == '\'' {
			p.instead, p.hasInstead = instead[1:len(instead)-1], true
		}
	}
	return p
}

// glob is the pattern for a request; false when a variable has no value, or more
// than one.
func (t *template) glob(keys Keys) (glob, bool) {
	if t.pieces == nil {
		return t.ready, true
	}
	var coded strings.Builder
	for _, p := range t.pieces {
		if p.key == "" {
			coded.WriteString(p.coded)
			continue
		}
		values := lookup(keys, p.key)
		switch {
		case len(values) == 1 && utf8.ValidString(values[0]):
			coded.WriteString(values[0])
		case len(values) == 0 && p.hasInstead:
			coded.WriteString(p.instead)
		default:
			return nil, false
		}
	}
	return newGlob(coded.String()), true
}

// arnTemplate is a pattern of ARNs: each of the six parts is compared by itself, so
// that no wildcard and no variable reaches over a colon, but within the last part.
type arnTemplate struct {
	all       bool // it is *
	variables bool // any part has one
	parts     [6]template
}

// arn makes a pattern of ARNs; parts that are left out at the end are *.
func (d dialect) arn(text string) arnTemplate {
	d.wildcards = true
	var t arnTemplate
	whole := d.template(text)
	t.all = whole.pieces == nil && whole.ready.everything()
	parts := splitARN(text, d.variables)
	for i := range t.parts {
		part := "*"
		if i < len(parts) {
			part = parts[i]
		}
		t.parts[i] = d.template(part)
		t.variables = t.variables || t.parts[i].pieces != nil
	}
	return t
}

// splitARN cuts a pattern at its first five colons that are not in a variable.
func splitARN(text string, variables bool) []string {
	var parts []string
	start := 0
	for i := 0; i < len(text) && len(parts) < 5; i++ {
		if variables && strings.HasPrefix(text[i:], "${") {
			if end := strings.IndexByte(text[i:], '}'); end >= 0 {
				i += end
				continue
			}
		}
		if text[i] == ':' {
			parts = append(parts, text[start:i])
			start = i + 1
		}
	}
	return append(parts, text[start:])
}

// match says whether an ARN fits; known is false when a variable has no value.
func (t *arnTemplate) match(arn *arn, keys Keys) (fits, known bool) {
	if t.all {
		return true, true
	}
	if !arn.ok {
		return false, true
	}
	// The last part tells most.
	fits, known = true, true
	for i := 5; i >= 0 && (fits || t.variables); i-- {
		g, ok := t.parts[i].glob(keys)
		known = known && ok
		fits = fits && ok && g.match(arn.parts[i])
	}
	return fits, known
}

// arn is an ARN cut into its six parts; ok is false for what is none, such as *.
type arn struct {
	parts [6]string
	ok    bool
}

func newARN(text string) (a arn) {
	for i := range 5 {
		part, rest, ok := strings.Cut(text, ":")
		if !ok {
			return a
		}
		a.parts[i], text = part, rest
	}
	a.parts[5] = text
	a.ok = a.parts[0] == "arn"
	return a
}
