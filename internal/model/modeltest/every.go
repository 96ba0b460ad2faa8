package modeltest

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/evermesh/evermesh/internal/model"
)

// Broken is a document with one constraint broken.
type Broken struct {
	Path string // under which Check must say so
	What string // was done: required, too long, …
	Doc  any
}

// Every lists, for every constraint of a shape and of all shapes below it, a
// smallest document that keeps all but this one. A constraint that the model
// gains is in the list by itself.
func Every(m *model.Model, shape string) []Broken {
	e := &every{m: m}
	e.walk(shape, "", func(v any) any { return v })
	return e.out
}

type every struct {
	m   *model.Model
	out []Broken
}

// walk lists what can be wrong at one place; whole makes the document around it.
func (e *every) walk(shape, path string, whole func(any) any) {
	s := e.m.Shapes[shape]
	for _, w := range e.wrong(shape, s) {
		at := path
		if w.below != "" {
			at = join(path, w.below)
		}
		if at != "" {
			e.out = append(e.out, Broken{Path: at, What: w.what, Doc: whole(w.value)})
		}
	}
	switch s.Type {
	case "structure":
		for _, name := range slices.Sorted(maps.Keys(s.Members)) {
			e.walk(s.Members[name].Shape, join(path, name), func(v any) any {
				doc := e.structure(shape)
				if s.Union {
					clear(doc)
				}
				doc[name] = v
				return whole(doc)
			})
		}
	case "list":
		e.walk(s.Member.Shape, join(path, "1.member"), func(v any) any { return whole(e.items(s, v)) })
	}
}

func (e *every) structure(shape string) map[string]any {
	doc, _ := least(e.m, shape).(map[string]any)
	return doc
}

// items is a shortest list whose first item is v.
func (e *every) items(s *model.Shape, v any) []any {
	low, _ := bounds(s, 0, 0)
	items := slices.Repeat([]any{least(e.m, s.Member.Shape)}, int(max(low, 1)))
	items[0] = v
	return items
}

// wrong is a value that breaks one constraint at its place, or at a member below.
type wrong struct {
	what, below string
	value       any
}

func (e *every) wrong(shape string, s *model.Shape) []wrong {
	out := []wrong{{"wrong type", "", wrongType(s.Type)}}
	switch s.Type {
	case "structure":
		for _, name := range s.Required {
			absent, null := e.structure(shape), e.structure(shape)
			delete(absent, name)
			null[name] = nil
			out = append(out, wrong{"required", name, absent}, wrong{"null", name, null})
		}
		if s.Union {
			out = append(out, wrong{"no member of a union", "", map[string]any{}})
			for _, name := range slices.Sorted(maps.Keys(s.Members))[1:] {
				two := e.structure(shape) // has the first
				two[name] = least(e.m, s.Members[name].Shape)
				out = append(out, wrong{"two members of a union", "", two})
			}
		}
	case "list":
		if s.Min != nil && *s.Min > 0 {
			out = append(out, wrong{"too few", "", e.items(s, least(e.m, s.Member.Shape))[:*s.Min-1]})
		}
		if s.Max != nil {
			out = append(out, wrong{"too many", "", slices.Repeat([]any{least(e.m, s.Member.Shape)}, int(*s.Max)+1)})
		}
		out = append(out, wrong{"null item", "1.member", e.items(s, nil)})
	default:
		out = append(out, wrongScalars(s)...)
	}
	return out
}

// wrongScalars are the texts or numbers that break a constraint of the shape.
func wrongScalars(s *model.Shape) []wrong {
	var out []wrong
	switch s.Type {
	case "string":
		if s.Min != nil && *s.Min > 0 {
			out = append(out, wrong{"too short", "", strings.Repeat("x", int(*s.Min)-1)})
		}
		if s.Max != nil {
			out = append(out, wrong{"too long", "", strings.Repeat("é", int(*s.Max)+1)})
		}
		if s.Enum != nil {
			out = append(out, wrong{"enum", "", "no value of " + fmt.Sprint(len(s.Enum))})
		}
		if s.Pattern != "" {
			out = append(out, wrong{"pattern", "", "\n"})
		}
	case "integer", "long":
		low, high := int64(math.MinInt32), int64(math.MaxInt32)
		if s.Type == "long" {
			low, high = math.MinInt64, math.MaxInt64
		}
		low, high = bounds(s, low, high)
		if low > math.MinInt64 {
			out = append(out, wrong{"too small", "", number(low - 1)})
		}
		if high < math.MaxInt64 {
			out = append(out, wrong{"too large", "", number(high + 1)})
		}
		out = append(out, wrong{"no whole number", "", json.Number("1.5")}, wrong{"beyond all numbers", "", json.Number("99999999999999999999")})
	}
	return out
}
