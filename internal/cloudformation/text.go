package cloudformation

import (
	"encoding/base64"
	"regexp"
	"strings"
)

// mostMade bounds what all functions of a template make: bytes of texts, and
// items of lists.
const mostMade = 16 << 20

// mostEntered bounds how many values of a template are worked out, each time that
// it is used.
const mostEntered = 1 << 20

// make is a text that a function made.
func (s *stack) make(at Position, path string, secret bool, text string) *node {
	if s.made += len(text); s.made > mostMade {
		return s.tooMuch(at, path)
	}
	return &node{at: at, text: text, secret: secret}
}

func (s *stack) tooMuch(at Position, path string) *node {
	return s.broken(at, path, "the template's functions make more than %d MiB of text", mostMade>>20)
}

func (s *stack) base64(call member, path string) *node {
	v := s.text(call.value, path)
	if v.form != isText {
		return v
	}
	return s.make(call.at, path, v.secret, base64.StdEncoding.EncodeToString([]byte(v.text)))
}

func (s *stack) join(call member, path string) *node {
	args, ok := s.arguments(call, path, 2, 2)
	if !ok {
		return &node{form: isBroken, at: call.at}
	}
	between, list := s.text(args[0], path), s.list(args[1], path)
	for _, v := range []*node{between, list} {
		if v.form == isUnknown || v.form == isBroken {
			return v
		}
	}
	secret := between.secret
	texts := make([]string, len(list.items))
	size := 0
	for i, item := range list.items {
		switch item.form {
		case isText:
			texts[i] = item.text
			size += len(item.text) + len(between.text)
			secret = secret || item.secret
		case isUnknown, isBroken:
			return item
		default:
			return s.broken(item.at, path, "Fn::Join joins texts, and this is %s", item.what())
		}
	}
	if size > mostMade {
		return s.tooMuch(call.at, path)
	}
	return s.make(call.at, path, secret, strings.Join(texts, between.text))
}

func (s *stack) split(call member, path string) *node {
	args, ok := s.arguments(call, path, 2, 2)
	if !ok {
		return &node{form: isBroken, at: call.at}
	}
	between, text := s.text(args[0], path), s.text(args[1], path)
	for _, v := range []*node{between, text} {
		if v.form != isText {
			return v
		}
	}
	if between.text == "" {
		return s.broken(args[0].at, path, "Fn::Split wants a delimiter that is not empty")
	}
	out := &node{form: isList, at: call.at}
	for part := range strings.SplitSeq(text.text, between.text) {
		v := s.make(call.at, path, text.secret, part)
		s.made++ // also an empty part takes room
		out.items = append(out.items, v)
	}
	return out
}

// variable is what Fn::Sub replaces, and what it only takes the mark from.
var variable = regexp.MustCompile(`\$\{([^{}]*)\}`)

var variableName = regexp.MustCompile(`^[A-Za-z0-9_.:]+$`)

func (s *stack) sub(call member, path string) *node {
	format, own := call.value, (*node)(nil)
	if format.form == isList {
		args, ok := s.arguments(call, path, 2, 2)
		if !ok {
			return &node{form: isBroken, at: call.at}
		}
		if format, own = args[0], args[1]; own.form != isObject {
			return s.broken(own.at, path, "Fn::Sub wants the variables as an object")
		}
	}
	if format.form != isText {
		return s.broken(call.at, path, "Fn::Sub wants a text, or a list of a text and its variables")
	}
	var out strings.Builder
	secret, last := false, 0
	for _, at := range variable.FindAllStringSubmatchIndex(format.text, -1) {
		name := format.text[at[2]:at[3]]
		out.WriteString(format.text[last:at[0]])
		last = at[1]
		if literal, ok := strings.CutPrefix(name, "!"); ok {
			out.WriteString("${" + literal + "}")
			continue
		}
		if !variableName.MatchString(name) {
			return s.broken(format.at, path, "${%s} is no variable: want letters, digits and _ . : only, or ${!…} for the text itself", name)
		}
		v := s.variable(own, name, format.at, path)
		if v.form != isText {
			return v
		}
		secret = secret || v.secret
		out.WriteString(v.text)
		if out.Len() > mostMade {
			break
		}
	}
	out.WriteString(format.text[last:])
	return s.make(call.at, path, secret, out.String())
}

// variable is the value of a variable in a text.
func (s *stack) variable(own *node, name string, at Position, path string) *node {
	if v := own.get(name); v != nil {
		return s.text(v, path)
	}
	var v *node
	if id, attribute, ok := strings.Cut(name, "."); ok {
		v = s.attributeOf(id, attribute, at, path)
	} else {
		v = s.ref(name, at, path)
	}
	switch v.form {
	case isText, isUnknown, isBroken:
		return v
	}
	return s.broken(at, path, "${%s} is no text", name)
}
