package wire

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/evermesh/evermesh/internal/model"
)

// Body writes a request's body from a checked document, in a protocol whose Read reads
// it: what goes on to another place is what was checked, and nothing beside it. Of
// rest-json it is the whole document.
func (p Protocol) Body(m *model.Model, op *model.Operation, doc map[string]any) []byte {
	switch p.Name {
	case CBOR:
		if op.Input.Shape == "" {
			return appendHead(nil, majorMap, 0)
		}
		return appendCBOR(nil, m, m.Shapes[op.Input.Shape], doc)
	case Query:
		form := url.Values{"Action": {op.Name}, "Version": {m.Metadata.APIVersion}}
		if op.Input.Shape != "" {
			fill(form, "", m, op.Input.Shape, doc)
		}
		return []byte(form.Encode())
	}
	return Encode(doc)
}

// fill puts a value into a form, under names that readQuery reads.
func fill(form url.Values, name string, m *model.Model, of string, v any) {
	shape := m.Shapes[of]
	under := func(step string) string {
		if name == "" {
			return step
		}
		return name + "." + step
	}
	switch v := v.(type) {
	case map[string]any:
		if shape.Type == "map" {
			for i, key := range slices.Sorted(maps.Keys(v)) {
				entry := under("entry." + strconv.Itoa(i+1))
				form.Set(entry+".key", key)
				fill(form, entry+".value", m, shape.Value.Shape, v[key])
			}
			return
		}
		for member, value := range v {
			ref := shape.Members[member]
			step := member
			if ref.LocationName != "" {
				step = ref.LocationName
			}
			fill(form, under(step), m, ref.Shape, value)
		}
	case []any:
		if len(v) == 0 {
			form.Set(name, "")
		}
		step := "member"
		if shape.Member.LocationName != "" {
			step = shape.Member.LocationName
		}
		for i, item := range v {
			fill(form, under(step+"."+strconv.Itoa(i+1)), m, shape.Member.Shape, item)
		}
	case json.Number:
		text := v.String()
		if seconds, err := v.Float64(); shape.Type == "timestamp" && err == nil {
			text = time.UnixMilli(int64(seconds * 1000)).UTC().Format(time.RFC3339Nano)
		}
		form.Set(name, text)
	default:
		form.Set(name, fmt.Sprint(v))
	}
}
