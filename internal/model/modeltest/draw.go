// Package modeltest draws documents for tests: any document that a shape of a
// model allows, and the same with one constraint broken. Since both follow from
// the model, no constraint can be forgotten.
package modeltest

import (
	"encoding/json"
	"maps"
	"math"
	"slices"
	"strconv"

	"pgregory.net/rapid"

	"github.com/evermesh/evermesh/internal/model"
)

// Draw draws a document that keeps every constraint of the shape, as
// json.Decoder.UseNumber would have decoded it.
func Draw(t *rapid.T, m *model.Model, shape string) any {
	s := m.Shapes[shape]
	switch s.Type {
	case "structure":
		return drawStructure(t, m, s)
	case "list":
		low, high := bounds(s, 0, 3)
		out := make([]any, rapid.Int64Range(low, min(high, low+2)).Draw(t, shape))
		for i := range out {
			out[i] = Draw(t, m, s.Member.Shape)
		}
		return out
	case "string":
		return drawString(t, s)
	case "boolean":
		return rapid.Bool().Draw(t, shape)
	default:
		low, high := bounds(s, math.MinInt32, math.MaxInt32)
		return number(rapid.Int64Range(low, high).Draw(t, shape))
	}
}

func drawStructure(t *rapid.T, m *model.Model, s *model.Shape) map[string]any {
	out := map[string]any{}
	names := slices.Sorted(maps.Keys(s.Members))
	if s.Union {
		names = []string{rapid.SampledFrom(names).Draw(t, "union")}
	}
	for _, name := range names {
		if s.Union || slices.Contains(s.Required, name) || rapid.Bool().Draw(t, name) {
			out[name] = Draw(t, m, s.Members[name].Shape)
		}
	}
	return out
}

func drawString(t *rapid.T, s *model.Shape) string {
	if s.Enum != nil {
		return rapid.SampledFrom(s.Enum).Draw(t, "enum")
	}
	low, high := bounds(s, 0, 20)
	high = min(high, low+20)
	if s.Pattern != "" {
		return rapid.StringOfN(rapid.RuneFrom([]rune("abcXYZ019!~-")), int(max(low, 1)), int(high), -1).Draw(t, "text")
	}
	return rapid.StringOfN(rapid.OneOf(rapid.RuneFrom([]rune("azAZ09-._ \"\\<>&é世")), rapid.Rune()), int(low), int(high), -1).Draw(t, "text")
}

func bounds(s *model.Shape, low, high int64) (int64, int64) {
	if s.Min != nil {
		low = *s.Min
	}
	if s.Max != nil {
		high = *s.Max
	} else {
		high = max(high, low)
	}
	return low, high
}

func number(v int64) json.Number { return json.Number(strconv.FormatInt(v, 10)) }
