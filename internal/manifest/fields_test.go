package manifest_test

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/evermesh/evermesh/internal/manifest"
)

// notInSpec are fields that do not arrive in a spec of the API, each with what
// becomes of it.
var notInSpec = map[string]string{
	"awsName":              "the resource's name",
	"meshOwner":            "the mesh's owner",
	"meshRef":              "the resource's mesh",
	"podSelector":          "chooses pods",
	"namespaceSelector":    "chooses objects",
	"gatewayRouteSelector": "chooses gateway routes",
	"virtualGatewayRef":    "the resource's gateway",
	"backendGroups[]":      "becomes backends",
	"virtualservices[]":    "becomes backends of nodes",
	"routes[].name":        "the route's name",
}

// Every field of the controller's definitions is known, and arrives in a spec of
// the API, or is named above.
func TestFields_VN_038(t *testing.T) {
	t.Parallel()
	m := appMesh(t)
	text, err := os.ReadFile("testdata/fields.txt")
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		if words[0] == "#" {
			continue
		}
		count++
		kind, path, what := words[0], strings.TrimPrefix(words[1], "spec."), words[2]
		var leaf any
		switch what {
		case "text":
			leaf = "value"
			if strings.HasSuffix(path, "ARN") {
				leaf = "arn:aws:appmesh:us-east-1:000000000000:mesh/m/" + arnKind(path) + "/value"
			}
		case "integer":
			leaf = 4321
		case "truth":
			leaf = true
		case "selector":
			leaf = map[string]any{"matchLabels": map[string]any{"a": "b"}}
		default:
			t.Fatalf("%s: no such type", line)
		}
		steps := strings.Split(path, ".")
		for i := range slices.Backward(steps) {
			name, list := strings.CutSuffix(steps[i], "[]")
			if list {
				leaf = []any{leaf}
			}
			object := map[string]any{name: leaf}
			// What a reference or a route cannot be without.
			if strings.HasSuffix(name, "Ref") || slices.Contains([]string{"backendGroups", "virtualservices"}, name) {
				required(leaf)
			}
			if name == "routes" {
				required(leaf)
			}
			leaf = object
		}
		manifestText, err := json.Marshal(map[string]any{
			"apiVersion": "appmesh.k8s.aws/v1beta2", "kind": kind, "metadata": map[string]any{"name": "x"}, "spec": leaf,
		})
		if err != nil {
			t.Fatal(err)
		}
		const others = `{"apiVersion":"appmesh.k8s.aws/v1beta2","kind":"List","items":[
			{"apiVersion":"appmesh.k8s.aws/v1beta2","kind":"VirtualGateway","metadata":{"name":"g"}},
			{"apiVersion":"appmesh.k8s.aws/v1beta2","kind":"BackendGroup","metadata":{"name":"value"}}]}`
		var r manifest.Reader
		r.Add("field.json", manifestText)
		r.Add("others.json", []byte(others))
		result := r.Resolve(m, manifest.Options{Mesh: "m"})
		for _, n := range result.Notes {
			if strings.Contains(n.Message, "is not a member") {
				t.Errorf("%s %s: %s", kind, path, n)
			}
		}
		elsewhere := false
		for field := range notInSpec {
			elsewhere = elsewhere || path == field || strings.HasPrefix(path, field+".")
		}
		arrived := false
		for _, found := range result.Resources {
			spec, err := json.Marshal(found.Doc["spec"])
			if err != nil {
				t.Fatal(err)
			}
			want := map[string]string{"text": "value", "integer": "4321", "truth": "true"}[what]
			if strings.HasSuffix(path, "Ref.namespace") {
				want = "x" // of the name
			}
			arrived = arrived || found.File == "field.json" && want != "" && strings.Contains(string(spec), want)
		}
		if arrived == elsewhere {
			t.Errorf("%s %s: in the spec: %v; named as elsewhere: %v\n%s", kind, path, arrived, elsewhere, manifestText)
		}
	}
	if count != 313 {
		t.Errorf("%d fields", count)
	}
}

// required gives the object, or the first of a list, a name if it has none.
func required(v any) {
	if list, ok := v.([]any); ok {
		v = list[0]
	}
	if object, ok := v.(map[string]any); ok && object["name"] == nil {
		object["name"] = "x"
	}
}

// arnKind is the kind of the resource that a field names by its ARN.
func arnKind(path string) string {
	name := path[strings.LastIndexByte(path, '.')+1:]
	return strings.TrimSuffix(name, "ARN")
}
