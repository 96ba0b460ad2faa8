package cloudformation

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
	"pgregory.net/rapid"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/model"
	"github.com/evermesh/evermesh/internal/model/modeltest"
)

// asProperties is an input as the properties of a template would have it.
func asProperties(doc any, scalar func(json.Number) any) any {
	switch v := doc.(type) {
	case map[string]any:
		out := map[string]any{}
		for member, value := range v {
			out[property(member)] = asProperties(value, scalar)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, item := range v {
			out[i] = asProperties(item, scalar)
		}
		return out
	case json.Number:
		return scalar(v)
	}
	return doc
}

// templateOf is a template with one resource.
func templateOf(row api.KindRow, properties any) map[string]any {
	return map[string]any{"Resources": map[string]any{"R": map[string]any{"Type": appMesh + row.Type, "Properties": properties}}}
}

// asYAML writes a value as YAML, but for the few texts that the library does not
// read as it writes them.
func asYAML(asJSON []byte, v any) []byte {
	text, err := yaml.Marshal(v)
	if err != nil {
		return asJSON
	}
	var again any
	if err := yaml.Unmarshal(text, &again); err != nil {
		return asJSON
	}
	if back, err := json.Marshal(again); err != nil || string(back) != string(asJSON) {
		return asJSON
	}
	return text
}

// Whatever the API takes, a template can say.
func TestEveryInputFitsIntoATemplate_VN_038(t *testing.T) {
	t.Parallel()
	m, err := model.AppMesh()
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(rt *rapid.T) {
		row := rapid.SampledFrom(api.Kinds()).Draw(rt, "kind")
		doc := modeltest.Draw(rt, m, "Create"+row.Type+"Input").(map[string]any)
		delete(doc, "clientToken")
		texts := rapid.Bool().Draw(rt, "numbers as texts")
		template := templateOf(row, asProperties(doc, func(n json.Number) any {
			if texts {
				return n.String()
			}
			i, err := n.Int64()
			if err != nil {
				rt.Fatal(err)
			}
			return i
		}))
		text, err := json.Marshal(template)
		if err != nil {
			rt.Fatal(err)
		}
		if rapid.Bool().Draw(rt, "YAML") {
			text = asYAML(text, template)
		}
		out, faults := parse(m, "t", text, Options{})
		for _, f := range faults {
			rt.Errorf("%s\n%s", f, text)
		}
		if len(out.Resources) != 1 {
			rt.Fatalf("got %d resources of\n%s", len(out.Resources), text)
		}
		if diff := cmp.Diff(doc, out.Resources[0].Doc); diff != "" {
			rt.Errorf("(-want +got)\n%s\n%s", diff, text)
		}
	})
}

// Whatever the API refuses is told, at the property that it is about.
func TestEveryConstraintIsToldAtItsProperty(t *testing.T) {
	t.Parallel()
	m, err := model.AppMesh()
	if err != nil {
		t.Fatal(err)
	}
	tried := 0
	for _, row := range api.Kinds() {
		for _, b := range modeltest.Every(m, "Create"+row.Type+"Input") {
			switch {
			case strings.HasPrefix(b.Path, "clientToken"):
				continue // no property
			case b.Path == row.Name && b.What == "required" && row.Kind != api.KindVirtualService:
				continue // a name is made
			case b.What == "wrong type" && m.Shapes[shapeAt(m, row, b.Path)].Type == "string":
				continue // a number is a text, too
			}
			tried++
			text, err := json.Marshal(templateOf(row, asProperties(b.Doc, func(n json.Number) any { return n })))
			if err != nil {
				t.Fatal(err)
			}
			out, faults := parse(m, "t", text, Options{Stack: "s"})
			elsewhere := func(f Fault) bool { return f.Path != pathOf(b.Path) }
			if len(faults) == 0 || slices.ContainsFunc(faults, elsewhere) || len(out.Resources) != 0 {
				t.Errorf("%s %s, %s: got %v, want one at %s\n%s", row.Type, b.Path, b.What, faults, pathOf(b.Path), text)
			}
		}
	}
	if tried < 500 {
		t.Errorf("tried only %d", tried)
	}
}

// shapeAt is the shape of a member of an input.
func shapeAt(m *model.Model, row api.KindRow, path string) string {
	shape := "Create" + row.Type + "Input"
	for part := range strings.SplitSeq(path, ".") {
		s := m.Shapes[shape]
		if _, err := strconv.Atoi(part); err == nil {
			continue
		}
		if part == "member" && s.Type == "list" {
			shape = s.Member.Shape
		} else {
			shape = s.Members[part].Shape
		}
	}
	return shape
}

// pathOf is the place in a template of templateOf that an API's path means.
func pathOf(path string) string {
	out := "Resources.R.Properties"
	for part := range strings.SplitSeq(path, ".") {
		if i, err := strconv.Atoi(part); err == nil {
			out += fmt.Sprintf("[%d]", i-1)
		} else if part != "member" && part != "" {
			out += "." + property(part)
		}
	}
	return out
}
