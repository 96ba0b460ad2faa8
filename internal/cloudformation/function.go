package cloudformation

import (
	"fmt"
	"strconv"
	"strings"
)

// deepest is how far values may be made of values of others.
const deepest = 500

func unknown(at Position, format string, args ...any) *node {
	return &node{form: isUnknown, at: at, text: fmt.Sprintf(format, args...)}
}

// need tells that a value is needed which is not known: where the parameter
// stands whose value it is, or where it is needed.
func (s *stack) need(n *node, at Position, path string) {
	if n.members != nil {
		at, path = n.members[0].at, n.members[0].name
	}
	s.faults.add(at, path, "%s", n.text)
}

func (s *stack) broken(at Position, path, format string, args ...any) *node {
	s.faults.add(at, path, format, args...)
	return &node{form: isBroken, at: at}
}

func (s *stack) notSupported(at Position, path, name string) *node {
	return s.broken(at, path, "%s is not supported", name)
}

// enter keeps count of how deep values lie in values; leave ends it.
func (s *stack) enter(n *node, path string) bool {
	switch {
	case s.depth >= deepest:
		s.faults.add(n.at, path, "its value is made of too many others in turn")
		return false
	case s.entered >= mostEntered:
		s.faults.add(n.at, path, "the template's functions use values more than %d times", mostEntered)
		return false
	}
	s.depth++
	s.entered++
	return true
}

func (s *stack) leave() { s.depth-- }

// resolve returns the node with values in the place of all functions in it. It
// is the node itself where there are none.
func (s *stack) resolve(n *node, path string) *node {
	if !s.enter(n, path) {
		return &node{form: isBroken, at: n.at}
	}
	defer s.leave()
	switch n.form {
	case isText:
		if strings.Contains(n.text, "{{resolve:") {
			return unknown(n.at, "dynamic references ({{resolve:…}}) are not followed: write the value, or a parameter")
		}
	case isList:
		out := &node{form: isList, at: n.at, items: make([]*node, 0, len(n.items))}
		for i, item := range n.items {
			if v := s.resolve(item, fmt.Sprintf("%s[%d]", path, i)); v.form != isNothing {
				out.items = append(out.items, v)
			}
		}
		return out
	case isObject:
		for _, m := range n.members {
			if m.name != "Ref" && !strings.HasPrefix(m.name, "Fn::") {
				continue
			}
			if len(n.members) > 1 {
				return s.broken(m.at, path, "%s stands beside other members: a function is alone in its object", m.name)
			}
			return s.usedAt(s.call(m, path), m, path)
		}
		out := &node{form: isObject, at: n.at, members: make([]member, 0, len(n.members))}
		for _, m := range n.members {
			if v := s.resolve(m.value, path+"."+m.name); v.form != isNothing {
				out.members = append(out.members, member{m.name, m.at, v})
			}
		}
		return out
	}
	return n
}

// usedAt is a value that a function gave, where the function stands; what is
// chosen by Fn::If stands where it is written.
func (s *stack) usedAt(n *node, call member, path string) *node {
	if call.name == "Fn::If" || n.at == call.at {
		return n
	}
	if s.made += len(n.items); s.made > mostMade {
		return s.tooMuch(call.at, path)
	}
	moved := *n
	moved.at, moved.plain, moved.items = call.at, false, nil
	for _, item := range n.items {
		moved.items = append(moved.items, s.usedAt(item, call, path))
	}
	return &moved
}

// call works one function out.
func (s *stack) call(call member, path string) *node {
	switch call.name {
	case "Ref":
		if call.value.form != isText {
			return s.broken(call.at, path, "Ref wants a name")
		}
		return s.ref(call.value.text, call.at, path)
	case "Fn::GetAtt":
		return s.getAtt(call, path)
	case "Fn::Sub":
		return s.sub(call, path)
	case "Fn::Join":
		return s.join(call, path)
	case "Fn::Split":
		return s.split(call, path)
	case "Fn::Select":
		return s.selectItem(call, path)
	case "Fn::FindInMap":
		return s.findInMap(call, path)
	case "Fn::If":
		return s.choose(call, path)
	case "Fn::ImportValue":
		return s.importValue(call, path)
	case "Fn::Base64":
		return s.base64(call, path)
	case "Fn::GetAZs", "Fn::Cidr":
		return unknown(call.at, "%s is worked out by AWS and not known here: write the value, or a parameter", call.name)
	case "Fn::Transform", "Fn::Length", "Fn::ToJsonString":
		return s.broken(call.at, path, "%s is a macro's, which AWS runs: give the template as it leaves it (aws cloudformation get-template --template-stage Processed)", call.name)
	case "Fn::Equals", "Fn::And", "Fn::Or", "Fn::Not":
		return s.broken(call.at, path, "%s is for conditions: name one, and ask for it with Fn::If", call.name)
	}
	return s.broken(call.at, path, "%s is no function of CloudFormation%s", call.name, meant(call.name, valueFunctions))
}

var valueFunctions = []string{
	"Fn::GetAtt", "Fn::Sub", "Fn::Join", "Fn::Split", "Fn::Select", "Fn::FindInMap", "Fn::If", "Fn::ImportValue", "Fn::Base64",
}

// arguments are a function's arguments, which stand in the template as a list.
func (s *stack) arguments(call member, path string, least, most int) (args []*node, ok bool) {
	if call.value.form == isBroken {
		return nil, false
	}
	if n := len(call.value.items); call.value.form != isList || n < least || n > most {
		want := strconv.Itoa(least)
		if most != least {
			want += " to " + strconv.Itoa(most)
		}
		s.faults.add(call.at, path, "%s wants a list of %s", call.name, want)
		return nil, false
	}
	return call.value.items, true
}

// text resolves a node that is to be a text: a text, unknown or broken.
func (s *stack) text(n *node, path string) *node {
	v := s.resolve(n, path)
	switch v.form {
	case isText, isUnknown, isBroken:
		return v
	case isNothing:
		return s.broken(n.at, path, "AWS::NoValue stands where a text is wanted")
	}
	return s.broken(n.at, path, "is %s: want a text", v.what())
}

// list resolves a node that is to be a list: a list, unknown or broken.
func (s *stack) list(n *node, path string) *node {
	v := s.resolve(n, path)
	switch v.form {
	case isList, isUnknown, isBroken:
		return v
	case isNothing:
		return s.broken(n.at, path, "AWS::NoValue stands where a list is wanted")
	}
	return s.broken(n.at, path, "is %s: want a list", v.what())
}

func (s *stack) selectItem(call member, path string) *node {
	args, ok := s.arguments(call, path, 2, 2)
	if !ok {
		return &node{form: isBroken, at: call.at}
	}
	which, list := s.text(args[0], path), s.list(args[1], path)
	for _, v := range []*node{which, list} {
		if v.form == isUnknown || v.form == isBroken {
			return v
		}
	}
	i, err := strconv.Atoi(which.text)
	if err != nil || i < 0 || i >= len(list.items) {
		return s.broken(call.at, path, "Fn::Select wants the place of an item, from 0 to %d", len(list.items)-1)
	}
	return list.items[i]
}

func (s *stack) findInMap(call member, path string) *node {
	args, ok := s.arguments(call, path, 3, 3)
	if !ok {
		return &node{form: isBroken, at: call.at}
	}
	at, names := (*node)(nil), make([]string, 3)
	for i, a := range args {
		v := s.text(a, path)
		if v.form != isText {
			return v
		}
		names[i] = v.text
		next := at.get(v.text)
		if i == 0 {
			next = s.mappings[v.text]
		}
		if next == nil {
			known := s.mappings
			if i > 0 {
				known = at.named()
			}
			return s.broken(call.at, path, "Mappings has no %s%s", strings.Join(names[:i+1], "."), alike(s, v.text, known))
		}
		at = next
	}
	if at.form == isObject {
		return s.broken(at.at, "Mappings."+strings.Join(names, "."), "is an object: want a text or a list")
	}
	return at
}

func (s *stack) choose(call member, path string) *node {
	args, ok := s.arguments(call, path, 3, 3)
	if !ok {
		return &node{form: isBroken, at: call.at}
	}
	if args[0].form != isText {
		return s.broken(args[0].at, path, "Fn::If wants the name of a condition")
	}
	holds, known := s.named(args[0].text, args[0].at, path)
	switch {
	case !known:
		return &node{form: isBroken, at: call.at}
	case holds:
		return s.resolve(args[1], path)
	}
	return s.resolve(args[2], path)
}

func (s *stack) importValue(call member, path string) *node {
	name := s.text(call.value, path)
	if name.form != isText {
		return name
	}
	v, given := s.options.Imports[name.text]
	if !given {
		return unknown(call.at, "the value of the export %s is not known here: give it (--imports FILE)", name.text)
	}
	return s.make(call.at, path, false, v)
}

func (s *stack) getAtt(call member, path string) *node {
	arg := call.value
	if arg.form == isText {
		id, attribute, ok := strings.Cut(arg.text, ".")
		if !ok {
			return s.broken(call.at, path, "Fn::GetAtt wants a resource and its attribute, as ID.Attribute")
		}
		return s.attributeOf(id, attribute, arg.at, path)
	}
	args, ok := s.arguments(call, path, 2, 2)
	if !ok {
		return &node{form: isBroken, at: call.at}
	}
	if args[0].form != isText {
		return s.broken(args[0].at, path, "Fn::GetAtt wants the logical id of a resource")
	}
	attribute := s.text(args[1], path)
	if attribute.form != isText {
		return attribute
	}
	return s.attributeOf(args[0].text, attribute.text, args[0].at, path)
}
