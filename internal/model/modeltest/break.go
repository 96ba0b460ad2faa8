package modeltest

import (
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"

	"pgregory.net/rapid"

	"github.com/evermesh/evermesh/internal/model"
)

// Break breaks one constraint of a document that Draw drew, in place. It returns
// the path under which Check must say so and what was done; ok is false when the
// document has no constraint that could be broken.
func Break(t *rapid.T, m *model.Model, shape string, doc any) (path, what string, ok bool) {
	b := breaker{m: m}
	b.walk(shape, "", doc, nil)
	if len(b.breaks) == 0 {
		return "", "", false
	}
	// First the kind of constraint, so that rare ones have their turn.
	what = rapid.SampledFrom(slices.Sorted(maps.Keys(b.breaks))).Draw(t, "what")
	chosen := rapid.SampledFrom(b.breaks[what]).Draw(t, "where")
	chosen.do()
	return chosen.path, what, true
}

// breaks is one way to break a document.
type breaks struct {
	path string
	do   func()
}

// String is what rapid prints.
func (b breaks) String() string { return b.path }

type breaker struct {
	m      *model.Model
	breaks map[string][]breaks
}

func (b *breaker) add(what, path string, do func()) {
	if b.breaks == nil {
		b.breaks = map[string][]breaks{}
	}
	b.breaks[what] = append(b.breaks[what], breaks{path, do})
}

// walk collects the ways to break doc; set puts another value in its place.
func (b *breaker) walk(shape, path string, doc any, set func(any)) {
	s := b.m.Shapes[shape]
	if set != nil {
		b.add("wrong type", path, func() { set(wrongType(s.Type)) })
	}
	switch v := doc.(type) {
	case map[string]any:
		b.structure(s, path, v)
	case []any:
		b.list(s, path, v, set)
	case string, json.Number:
		b.scalar(s, path, set)
	}
}

func wrongType(typ string) any {
	switch typ {
	case "structure", "boolean":
		return "text"
	case "list":
		return map[string]any{}
	case "string":
		return json.Number("1")
	default:
		return []any{}
	}
}

func (b *breaker) structure(s *model.Shape, path string, v map[string]any) {
	for _, name := range s.Required {
		b.add("required", join(path, name), func() { delete(v, name) })
		b.add("null", join(path, name), func() { v[name] = nil })
	}
	if s.Union {
		b.add("no member of a union", path, func() { clear(v) })
		for name, ref := range s.Members {
			if _, has := v[name]; !has {
				b.add("two members of a union", path, func() { v[name] = least(b.m, ref.Shape) })
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(v)) {
		b.walk(s.Members[name].Shape, join(path, name), v[name], func(other any) { v[name] = other })
	}
}

func (b *breaker) list(s *model.Shape, path string, v []any, set func(any)) {
	if s.Min != nil && *s.Min > 0 {
		b.add("too few", path, func() { set(v[:*s.Min-1]) })
	}
	if s.Max != nil {
		b.add("too many", path, func() { set(slices.Repeat([]any{least(b.m, s.Member.Shape)}, int(*s.Max)+1)) })
	}
	for i := range v {
		at := join(path, strconv.Itoa(i+1)+".member")
		b.add("null item", at, func() { v[i] = nil })
		b.walk(s.Member.Shape, at, v[i], func(other any) { v[i] = other })
	}
}

// scalar adds what breaks a text or a number.
func (b *breaker) scalar(s *model.Shape, path string, set func(any)) {
	for _, w := range wrongScalars(s) {
		b.add(w.what, path, func() { set(w.value) })
	}
}

// Least is a smallest document that keeps every constraint of the shape: all that
// is optional is left out.
func Least(m *model.Model, shape string) any { return least(m, shape) }

func least(m *model.Model, shape string) any {
	s := m.Shapes[shape]
	low, _ := bounds(s, 0, 0)
	switch s.Type {
	case "structure":
		out := map[string]any{}
		for _, name := range s.Required {
			out[name] = least(m, s.Members[name].Shape)
		}
		if s.Union {
			name := slices.Sorted(maps.Keys(s.Members))[0]
			out[name] = least(m, s.Members[name].Shape)
		}
		return out
	case "list":
		return slices.Repeat([]any{least(m, s.Member.Shape)}, int(low))
	case "string":
		if s.Enum != nil {
			return s.Enum[0]
		}
		return strings.Repeat("x", int(max(low, 1)))
	case "boolean":
		return false
	default:
		return number(low)
	}
}

func join(path, member string) string {
	if path == "" {
		return member
	}
	return path + "." + member
}
