package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/evermesh/evermesh/internal/model"
)

const node = `{"meshName":"shop","virtualNodeName":"web","spec":{}}`

func TestReadFiles(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, file, text string
		want             []string // where, kind
		refusal          string
	}{
		{"one input a file", "n.json", node, []string{"n.json:1 VirtualNode"}, ""},
		{"kinds by their names", "all.json", `[
			{"meshName":"m"},
			{"meshName":"m","virtualNodeName":"n"},
			{"meshName":"m","virtualRouterName":"r"},
			{"meshName":"m","virtualRouterName":"r","routeName":"x"},
			{"meshName":"m","virtualServiceName":"s"},
			{"meshName":"m","virtualGatewayName":"g"},
			{"meshName":"m","virtualGatewayName":"g","gatewayRouteName":"x"}]`, []string{
			"all.json:1: item 1 Mesh", "all.json:1: item 2 VirtualNode", "all.json:1: item 3 VirtualRouter", "all.json:1: item 4 Route",
			"all.json:1: item 5 VirtualService", "all.json:1: item 6 VirtualGateway", "all.json:1: item 7 GatewayRoute",
		}, ""},
		{"one a line", "n.jsonl", "{\"meshName\":\"m\"}\n\n" + node + "\n", []string{"n.jsonl:1 Mesh", "n.jsonl:3 VirtualNode"}, ""},
		{"standard input", "-", node, []string{"standard input:1 VirtualNode"}, ""},
		{"with a byte order mark", "n.json", "\ufeff" + node, []string{"n.json:1 VirtualNode"}, ""},

		{"nothing", "n.json", " \n", nil, "n.json: holds no resource: want the inputs of aws appmesh create-… calls, a CloudFormation template, or Kubernetes manifests"},
		{"an empty list", "n.json", "[]", nil, "n.json: holds no resource: "},
		{"no JSON", "n.json", "hello", nil, "n.json:1: not valid JSON: "},
		{"half a file", "n.json", "{\"meshName\":\n\"m\"", nil, "n.json:2: not valid JSON: it ends too early"},
		{"a key twice", "n.json", "{\"meshName\":\"m\",\n\"meshName\":\"n\"}", nil, `n.json:2: not valid JSON: key "meshName" stands twice in one object`},
		{"too deep", "n.json", strings.Repeat("[", 99), nil, "n.json:1: not valid JSON: it is nested too deeply"},
		{"a number", "n.json", "[5]", nil, "n.json:1: item 1: is not a JSON object: "},
		{"no name", "n.json", `{"spec":{}}`, nil, "n.json:1: has none of the members that name a resource: want one of meshName, "},
		{"a name in another case", "n.json", `{"VirtualNodeName":"n"}`, nil, `n.json:1: has none of the members that name a resource ("VirtualNodeName" is written "virtualNodeName"): want one of `},
		{"two resources in one", "n.json", `{"meshName":"m","virtualNodeName":"n","virtualServiceName":"s"}`, nil, "n.json:1: names both a VirtualNode and a VirtualService: give each resource an object of its own"},

		{"CloudFormation as YAML", "stack.yaml", "Resources:\n  Mesh:\n    Type: AWS::AppMesh::Mesh\n    Properties:\n      MeshName: m\n", []string{"stack.yaml:2:3 Mesh"}, ""},
		{"CloudFormation as JSON", "stack.json", `{"Resources":{"Mesh":{"Type":"AWS::AppMesh::Mesh","Properties":{"MeshName":"m"}}}}`, []string{"stack.json:1:15 Mesh"}, ""},
		{"Kubernetes as YAML", "-", "---\napiVersion: appmesh.k8s.aws/v1beta2\nkind: Mesh\nmetadata: {name: m}\n", []string{"standard input:2:1 Mesh"}, ""},
		{"Kubernetes as JSON", "m.json", `{"apiVersion":"appmesh.k8s.aws/v1beta2","kind":"Mesh","metadata":{"name":"m"}}`, []string{"m.json:1:1 Mesh"}, ""},
		{"inputs as YAML", "shop.yaml", "meshName: shop\n---\n- meshName: shop\n  virtualNodeName: web\n", []string{"shop.yaml:1 Mesh", "shop.yaml:3 VirtualNode"}, ""},
		{"inputs as YAML on standard input", "-", "meshName: shop\nspec: {}\n", []string{"standard input:1 Mesh"}, ""},
		{"a list of manifests", "m.json", `[{"apiVersion":"appmesh.k8s.aws/v1beta2","kind":"Mesh","metadata":{"name":"m"}}]`, []string{"m.json:1:2 Mesh"}, ""},

		{"YAML of no resource", "n.yaml", "# nothing\n", nil, "n.yaml: holds no resource: "},
		{"no YAML", "n.yaml", "a: 'b\n", nil, "n.yaml:1: not valid YAML: found unexpected end of stream"},
		{"no YAML, in the line of the fault", "n.yaml", "meshName: m\nspec:\n  a: 1\n  b: c: d\n  e: 1\n", nil, "n.yaml:4: not valid YAML: mapping values are not allowed in this context"},
		{"a chart's template", "n.yaml", "\n{{- if .Values.mesh }}\nmeshName: m\n", nil, "n.yaml:2: not valid YAML; it looks like a template of a chart: render it first (helm template)"},
		{"a chart's template, further down", "n.yaml", "meshName: m\n{{- if .Values.mesh }}\nspec: {}\n", nil, "n.yaml:2: not valid YAML: could not find expected ':'; it looks like a template of a chart: render it first (helm template)"},
		{"a manifest among inputs", "n.json", node + `{"apiVersion":"v1","kind":"Pod"}`, nil, "n.json:1: is of another form than what is before it in the file, which is not read here: want the inputs of aws appmesh create-… calls, a CloudFormation template, or Kubernetes manifests"},
		{"Terraform", "main.tf", `resource "aws_appmesh_mesh" "m" {}`, nil, "main.tf: is a Terraform file, which"},
		{"Terraform by its text", "-", "# mesh\nresource \"aws_appmesh_mesh\" \"m\" {\n", nil, "standard input: is a Terraform file, which"},
		{"Terraform state", "s.json", `{"version":4,"terraform_version":"1.5.0"}`, nil, "s.json:1: is a Terraform file, which"},
		{"an answer of describe", "n.json", `{"virtualNode":{"meshName":"m","virtualNodeName":"n"}}`, nil, "n.json:1: is the answer of an aws appmesh describe-… or list-… call, which"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			name := tt.file
			if name != "-" {
				name = filepath.Join(dir, name)
				if err := os.WriteFile(name, []byte(tt.text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			found, err := readFiles([]string{name}, strings.NewReader(tt.text), fileOptions{})
			got := found.faults
			for _, in := range found.inputs {
				got = append(got, strings.TrimPrefix(in.where, dir+"/")+" "+in.row.Type)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("inputs (-want +got):\n%s", diff)
			}
			var exit *exitError
			switch {
			case tt.refusal == "" && err != nil:
				t.Errorf("got %v", err)
			case tt.refusal == "":
			case !errors.As(err, &exit) || exit.code != exitUsage || !strings.HasPrefix(strings.TrimPrefix(exit.text, dir+"/"), tt.refusal):
				t.Errorf("got  %v\nwant %s…, exit code 2", err, tt.refusal)
			}
		})
	}
}

func TestReadNoFile(t *testing.T) {
	t.Parallel()
	_, err := readFiles([]string{"/does/not/exist.json"}, nil, fileOptions{})
	if err == nil || err.Error() != "/does/not/exist.json: no such file or directory" {
		t.Errorf("got %v", err)
	}
}

func TestUnknownMembers(t *testing.T) {
	t.Parallel()
	m, err := model.AppMesh()
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		doc  map[string]any
		want []string
	}{
		{"none", map[string]any{"meshName": "m", "spec": map[string]any{"listeners": []any{map[string]any{"portMapping": map[string]any{"port": 1.0, "protocol": "http"}}}}}, nil},
		{"one in another case", map[string]any{"spec": map[string]any{"Listeners": []any{}}}, []string{
			`spec.Listeners is not a member that App Mesh knows, and is ignored: it is written "listeners"`,
		}},
		{"one that does not exist, in a list", map[string]any{"spec": map[string]any{"listeners": []any{map[string]any{}, map[string]any{"portMapping": map[string]any{"ports": 1}}}}}, []string{
			"spec.listeners[1].portMapping.ports is not a member that App Mesh knows, and is ignored: remove it, or choose from port, protocol",
		}},
		{"a null that is known", map[string]any{"spec": nil}, nil},
		{"one that stands at a wrong place", map[string]any{"spec": map[string]any{}, "metadata": map[string]any{}}, []string{
			"metadata is not a member that App Mesh knows, and is ignored: remove it, or choose from clientToken, meshName, meshOwner, spec, tags, virtualNodeName",
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var got []string
			for _, u := range unknownMembers(m, "CreateVirtualNodeInput", tt.doc) {
				got = append(got, u.text)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
