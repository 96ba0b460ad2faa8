package cloudformation

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// longestParameter is how long a parameter's value may be, as in CloudFormation.
const longestParameter = 4096

// parameter is a parameter of the template, with its value.
type parameter struct {
	at    Position
	kind  string // String, Number, CommaDelimitedList, …
	body  *node
	value *node // a text, a list of texts, unknown or broken
}

var parameterMembers = []string{
	"Type", "Default", "Description", "AllowedValues", "AllowedPattern", "ConstraintDescription", "MinLength", "MaxLength",
	"MinValue", "MaxValue", "NoEcho",
}

var parameterTypes = []string{"String", "Number", "CommaDelimitedList", "List<Number>", "List<String>", "AWS::SSM::Parameter::Value<String>"}

const ssmValue = "AWS::SSM::Parameter::Value<"

// parameter declares a parameter and settles its value.
func (s *stack) parameter(name string, m member) {
	path := "Parameters." + name
	p := &parameter{at: m.at, body: m.value, value: &node{form: isBroken, at: m.at}}
	s.parameters[name] = p
	s.takes[name], s.ids[name] = true, true
	if !s.object(m.value, path) {
		return
	}
	for _, part := range m.value.members {
		if !slices.Contains(parameterMembers, part.name) {
			s.faults.add(part.at, path+"."+part.name, "unknown%s", meant(part.name, parameterMembers))
		}
	}
	kind, ok := s.literal(p.body, "Type", path)
	if !ok {
		s.faults.add(m.at, path, "has no Type")
		return
	}
	p.kind = kind
	if !slices.Contains(parameterTypes, kind) && !strings.HasPrefix(kind, "AWS::") && !strings.HasPrefix(kind, "List<AWS::") {
		s.faults.add(p.body.get("Type").at, path+".Type", "%s is no type of a parameter%s", kind, meant(kind, parameterTypes))
		return
	}
	p.value = s.settle(name, p, path)
}

// literal is a member that is a text, and no function; ok is false without it.
func (s *stack) literal(body *node, name, path string) (text string, ok bool) {
	n := body.get(name)
	if n == nil || n.form == isBroken {
		return "", false
	}
	if n.form != isText {
		s.faults.add(n.at, path+"."+name, "is %s: want a text", n.what())
		return "", false
	}
	return n.text, true
}

// settle works out a parameter's value.
func (s *stack) settle(name string, p *parameter, path string) *node {
	noEcho, _ := s.literal(p.body, "NoEcho", path)
	out := &node{form: isText, at: p.at, secret: strings.EqualFold(noEcho, "true") || strings.EqualFold(noEcho, "yes")}
	text, given := s.options.Parameters[name]
	if !given {
		if strings.HasPrefix(p.kind, ssmValue) {
			return s.unknownParameter(p, path, "is a value of SSM, which is not asked: give the value itself (--parameter %s=VALUE)", name)
		}
		if text, given = s.literal(p.body, "Default", path); !given {
			return s.unknownParameter(p, path, "has no value: give one (--parameter %s=VALUE)", name)
		}
	}
	if len(text) > longestParameter {
		s.faults.add(p.at, path, "its value is longer than %d bytes", longestParameter)
		return &node{form: isBroken, at: p.at}
	}
	out.text = text
	values := []string{text}
	list := p.kind == "CommaDelimitedList" || strings.HasPrefix(p.kind, "List<") || strings.HasPrefix(p.kind, ssmValue+"List<") ||
		p.kind == ssmValue+"CommaDelimitedList>"
	if list {
		values = strings.Split(text, ",")
		out.form, out.text = isList, ""
		for i, v := range values {
			values[i] = strings.TrimSpace(v)
			out.items = append(out.items, &node{at: p.at, text: values[i], secret: out.secret})
		}
		if strings.TrimSpace(text) == "" {
			values, out.items = nil, nil
		}
	}
	fine := true
	for _, v := range values {
		fine = s.allowed(p, v, out.secret, path) && fine
	}
	if !fine {
		return &node{form: isBroken, at: p.at}
	}
	return out
}

// unknownParameter is the value of a parameter that has none. It is told at the
// parameter, once, when something needs it.
func (s *stack) unknownParameter(p *parameter, path, format string, args ...any) *node {
	n := unknown(p.at, format, args...)
	n.members = []member{{name: path, at: p.at}}
	return n
}

// allowed checks a value against what the template says of the parameter.
func (s *stack) allowed(p *parameter, value string, secret bool, path string) bool {
	shown := " " + strconv.Quote(value)
	if secret {
		shown = ""
	}
	fine := true
	fault := func(format string, args ...any) {
		text := ""
		if d := p.body.get("ConstraintDescription"); d != nil && d.form == isText {
			text = ": " + d.text
		}
		s.faults.add(p.at, path, "its value%s "+format+"%s", append(append([]any{shown}, args...), text)...)
		fine = false
	}
	if strings.Contains(p.kind, "Number") {
		if v, err := strconv.ParseFloat(value, 64); err != nil {
			fault("is no number")
		} else {
			s.bounds(p, path, "MinValue", "MaxValue", func(low, high float64) {
				if v < low || v > high {
					fault("is outside of MinValue and MaxValue")
				}
			})
		}
	}
	s.bounds(p, path, "MinLength", "MaxLength", func(low, high float64) {
		if n := float64(utf8.RuneCountInString(value)); n < low || n > high {
			fault("has a length outside of MinLength and MaxLength")
		}
	})
	if among := p.body.get("AllowedValues"); among != nil && among.form == isList {
		if !slices.ContainsFunc(among.items, func(n *node) bool { return n.form == isText && n.text == value }) {
			fault("is none of AllowedValues")
		}
	}
	if pattern, ok := s.literal(p.body, "AllowedPattern", path); ok {
		// One that only Java's engine knows is not checked.
		if re, err := regexp.Compile(`^(?:` + pattern + `)$`); err == nil && !re.MatchString(value) {
			fault("does not match AllowedPattern %s", pattern)
		}
	}
	return fine
}

// bounds calls check with the two bounds when the parameter has one of them.
func (s *stack) bounds(p *parameter, path, low, high string, check func(low, high float64)) {
	const far = 1 << 62
	from, to := float64(-far), float64(far)
	var has bool
	for name, bound := range map[string]*float64{low: &from, high: &to} {
		text, ok := s.literal(p.body, name, path)
		if !ok {
			continue
		}
		v, err := strconv.ParseFloat(text, 64)
		if err != nil {
			s.faults.add(p.body.get(name).at, path+"."+name, "is no number")
			continue
		}
		*bound, has = v, true
	}
	if has {
		check(from, to)
	}
}
