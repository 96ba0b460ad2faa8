package cloudformation

import (
	"maps"
	"slices"
)

// condition is a condition of the template.
type condition struct {
	at      Position
	value   *node
	asked   bool // worked out, or being so
	settled bool
	holds   bool
	known   bool
}

// named is what the condition of that name comes to; known is false when that
// could not be said, and has been told.
func (s *stack) named(name string, at Position, path string) (holds, known bool) {
	c := s.conditions[name]
	switch {
	case c == nil:
		s.faults.add(at, path, "the template has no condition %s%s", name, alike(s, name, s.conditions))
		return false, false
	case c.settled:
		return c.holds, c.known
	case c.asked:
		s.faults.add(c.at, "Conditions."+name, "depends on itself")
		return false, false
	}
	c.asked = true
	inside := s.inCondition
	s.inCondition = true
	c.holds, c.known = s.holds(c.value, "Conditions."+name)
	s.inCondition = inside
	c.settled = true
	return c.holds, c.known
}

// holds works a condition out.
func (s *stack) holds(n *node, path string) (holds, known bool) {
	if !s.enter(n, path) {
		return false, false
	}
	defer s.leave()
	if n.form == isBroken {
		return false, false
	}
	if n.form != isObject || len(n.members) != 1 {
		s.faults.add(n.at, path, "is no condition: want one of Fn::Equals, Fn::And, Fn::Or, Fn::Not, Condition")
		return false, false
	}
	switch call := n.members[0]; call.name {
	case "Condition":
		if call.value.form != isText {
			s.faults.add(call.at, path, "Condition wants the name of a condition")
			return false, false
		}
		return s.named(call.value.text, call.value.at, path)
	case "Fn::Equals":
		return s.equals(call, path)
	case "Fn::Not":
		args, ok := s.arguments(call, path, 1, 1)
		if !ok {
			return false, false
		}
		holds, known := s.holds(args[0], path)
		return !holds, known
	case "Fn::And", "Fn::Or":
		args, ok := s.arguments(call, path, 2, 10)
		if !ok {
			return false, false
		}
		all, some, known := true, false, true
		for _, a := range args {
			h, k := s.holds(a, path)
			all, some, known = all && h, some || h, known && k
		}
		if call.name == "Fn::And" {
			return all, known
		}
		return some, known
	default:
		s.faults.add(call.at, path, "%s is no condition: want one of Fn::Equals, Fn::And, Fn::Or, Fn::Not, Condition", call.name)
		return false, false
	}
}

func (s *stack) equals(call member, path string) (holds, known bool) {
	args, ok := s.arguments(call, path, 2, 2)
	if !ok {
		return false, false
	}
	a, b := s.text(args[0], path), s.text(args[1], path)
	for _, v := range []*node{a, b} {
		if v.form == isUnknown {
			s.need(v, call.at, path)
		}
	}
	return a.text == b.text, a.form == isText && b.form == isText
}

// mostAlike is how many names are looked through for one that was meant.
// CloudFormation takes 500 resources in a template.
const mostAlike = 2000

// alike is the end of a message about a name that is not among the keys of a
// map. It is not looked for when it would not be told, nor among more than
// mostAlike.
func alike[V any](s *stack, name string, among map[string]V) string {
	if len(s.faults.found) >= mostFaults || len(among) > mostAlike {
		return ""
	}
	return meant(name, keys(among))
}

// keys are the keys of a map, sorted: messages say the same every time.
func keys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
