package cloudformation_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"sigs.k8s.io/yaml"

	"github.com/evermesh/evermesh/internal/cloudformation"
)

const small = `
Parameters:
  MeshName: {Type: String, Default: shop}
Resources:
  Mesh: {Type: AWS::AppMesh::Mesh, Properties: {MeshName: {Ref: MeshName}}}
  Node:
    Type: AWS::AppMesh::VirtualNode
    Properties:
      MeshName: {Fn::GetAtt: [Mesh, MeshName]}
      VirtualNodeName: web
      Spec: {Listeners: [{PortMapping: {Port: 8080, Protocol: http}}], ServiceDiscovery: {DNS: {Hostname: web.local}}}
Outputs:
  Node: {Value: {Ref: Node}}
`

func parse(t *testing.T, text string, o cloudformation.Options) cloudformation.Template {
	t.Helper()
	out, faults := cloudformation.Parse("t", []byte(text), o)
	for _, p := range faults {
		t.Error(p)
	}
	return out
}

func docs(out cloudformation.Template) map[string]any {
	all := map[string]any{}
	for _, r := range out.Resources {
		all[r.LogicalID] = r.Doc
	}
	return all
}

func TestRepeatable(t *testing.T) {
	t.Parallel()
	t.Run("CFN-001 a template says the same as JSON and as YAML, and twice", func(t *testing.T) {
		t.Parallel()
		asJSON, err := yaml.YAMLToJSON([]byte(small))
		if err != nil {
			t.Fatal(err)
		}
		want := docs(parse(t, small, known()))
		if len(want) != 2 {
			t.Fatalf("got %v", want)
		}
		for _, text := range []string{small, string(asJSON), "\ufeff\r\n" + string(asJSON)} {
			if diff := cmp.Diff(want, docs(parse(t, text, known()))); diff != "" {
				t.Errorf("%.40s: (-want +got)\n%s", text, diff)
			}
		}
	})
	t.Run("CFN-001 a template fits any account, region and mesh", func(t *testing.T) {
		t.Parallel()
		here := parse(t, small, known())
		o := cloudformation.Options{Partition: "aws-cn", Region: "cn-north-1", Account: "444455556666", Parameters: map[string]string{"MeshName": "test"}}
		there := parse(t, small, o)
		got := docs(there)
		if want := "arn:aws-cn:appmesh:cn-north-1:444455556666:mesh/test/virtualNode/web"; there.Outputs[0].Value != want {
			t.Errorf("got %s, want %s", there.Outputs[0].Value, want)
		}
		for id, doc := range docs(here) {
			want := maps.Clone(doc.(map[string]any))
			want["meshName"] = "test"
			if diff := cmp.Diff(any(want), got[id]); diff != "" {
				t.Errorf("%s: (-want +got)\n%s", id, diff)
			}
		}
	})
}

func TestWhereThingsStand(t *testing.T) {
	t.Parallel()
	out := parse(t, small, known())
	node := out.Resources[1]
	for path, want := range map[string]string{
		"":          "t:9:7 Resources.Node.Properties",
		"meshName":  "t:9:18 Resources.Node.Properties.MeshName",
		"meshOwner": "t:9:7 Resources.Node.Properties",
		"spec.listeners.1.member.portMapping.port": "t:11:47 Resources.Node.Properties.Spec.Listeners[0].PortMapping.Port",
		"spec.listeners.1.member.tls.mode":         "t:11:26 Resources.Node.Properties.Spec.Listeners[0]",
		"spec.listeners.2.member":                  "t:11:25 Resources.Node.Properties.Spec.Listeners",
		"spec.backends.1.member":                   "t:11:13 Resources.Node.Properties.Spec",
	} {
		if at, property := node.At(path); fmt.Sprint(at, " ", property) != want {
			t.Errorf("%s: got %s %s, want %s", path, at, property, want)
		}
	}
}

func TestTextsThatAreNoTemplates(t *testing.T) {
	t.Parallel()
	bomb := "A: &a [x,x,x,x,x,x,x,x,x,x]\n"
	for c := 'b'; c < 'i'; c++ {
		bomb += fmt.Sprintf("%c: &%c [%s]\n", c, c, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*%c,", c-1), 10), ","))
	}
	for _, c := range []struct{ name, text, want string }{
		{"nothing", "# nothing\n", "t: is empty"},
		{"null", "null", "t:1:1: is null: give a value, or leave the member out (AWS::NoValue leaves out what a condition decides)"},
		{"a text", "hello", "t:1:1: is a text: want the sections of a template"},
		{"a list", "[]", "t:1:1: is a list: want the sections of a template"},
		{"another object", "{}", "t:1:1: has no section Resources: want a CloudFormation template"},
		{"two documents", "Resources: {}\n---\nResources: {}\n", "t:2:1: a second document begins: a template is one"},
		{"broken YAML", "Resources: {\n", "t:1: neither YAML nor JSON: did not find expected node content"},
		{"broken JSON", "{\"Resources\": {]}", "t:1: neither YAML nor JSON: did not find expected node content"},
		{"a section that is none", "Resources: [a]", "t:1:12: Resources: is a list: want an object"},
		{"a key twice", "Resources: {}\nResources: {}\n", "t:2:1: \"Resources\" stands twice in one object"},
		{"a merge", "Resources: {<<: {}}\n", "t:1:13: Resources: merges of YAML (<<) are not read: write the members out"},
		{"a key that is a list", "Resources: {[a]: b}\n", "t:1:13: Resources: a member's name is no text"},
		{"a null", "Resources:\n  Mesh: {Type: AWS::AppMesh::Mesh, Properties: {MeshName: }}\n", "t:2:59: Resources.Mesh.Properties.MeshName: is null: give a value, or leave the member out (AWS::NoValue leaves out what a condition decides)"},
		{"broken YAML, in its line", "Resources:\n  Mesh:\n    Type: AWS::AppMesh::Mesh\n    Properties: {}: {}\n", "t:4: neither YAML nor JSON: mapping values are not allowed in this context"},
		{"broken JSON, in its line", "{\"Resources\": {\n  \"A\": \"\\ud83d\\ude00\",\n  \"B\": ],\n  \"C\": 1}}", "t:3: neither YAML nor JSON: did not find expected node content"},
		{"a chart", "Resources:\n  {{- if .Values.mesh }}\n  Mesh: {}\n", "t:2: neither YAML nor JSON: did not find expected node content; it looks like a template of a chart: render it first (helm template)"},
		{"a foreign tag", "Resources: !Foo {}\n", "t:1:12: Resources: !Foo is no function of CloudFormation"},
		{"too deep", "Resources: " + strings.Repeat("[", 200) + strings.Repeat("]", 200), "t:1:112: is nested too deeply"},
		{"an alias of what it is in", "Resources: &x\n  a: *x\n", "t:1:12: is nested too deeply"},
		{"aliases of aliases", bomb + "Resources: [*h,*h]\n", "t:1:4: the template is too large, with what its aliases stand for"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, faults := cloudformation.Parse("t", []byte(c.text), known())
			if len(faults) == 0 || faults[0].String() != c.want {
				t.Errorf("got %v\nwant %s", faults, c.want)
			}
		})
	}
}

func TestAliasesStandForWhatTheyName(t *testing.T) {
	t.Parallel()
	out := parse(t, "Metadata: &name shop\nResources:\n  Mesh: {Type: AWS::AppMesh::Mesh, Properties: {MeshName: *name}}\n", known())
	if got := out.Resources[0].Doc["meshName"]; got != "shop" {
		t.Errorf("got %v", got)
	}
}

func TestEscapesOfJSON(t *testing.T) {
	t.Parallel()
	text := `{"Resources": {"Mesh": {"Type": "AWS::AppMesh::Mesh", "Properties": {"MeshName": "m", "Tags": [{"Key": "a\/b", "Value": "\\ud83d\u00e9\ud83d\ude00\t\u2028\\"}]}}}}`
	var want any
	if err := json.Unmarshal([]byte(`"\\ud83d\u00e9\ud83d\ude00\t\u2028\\"`), &want); err != nil {
		t.Fatal(err)
	}
	out := parse(t, text, known())
	got := out.Resources[0].Doc["tags"].([]any)[0]
	if diff := cmp.Diff(map[string]any{"key": "a/b", "value": want}, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// What a template can make of a few lines is bounded.
func TestBounds(t *testing.T) {
	t.Parallel()
	named := func(n int, name func(i int) string) string {
		var b strings.Builder
		b.WriteString("Resources:\n")
		for i := range n {
			fmt.Fprintf(&b, "  N%d: {Type: AWS::AppMesh::VirtualNode, Properties: {MeshName: m, Spec: {}, VirtualNodeName: %s}}\n", i, name(i))
		}
		return b.String()
	}
	double := func(i int) string {
		if i == 0 {
			return "x"
		}
		return fmt.Sprintf(`!Sub "${N%d.VirtualNodeName}${N%d.VirtualNodeName}"`, i-1, i-1)
	}
	tenfold := `""`
	for range 20 {
		tenfold = `{"Fn::Sub": ["` + strings.Repeat("${a}", 10) + `", {"a": ` + tenfold + `}]}`
	}
	for _, c := range []struct{ name, text, want string }{
		{"nothing, ten times in each of twenty turns", `{"Resources": {"M": {"Type": "AWS::AppMesh::Mesh", "Properties": {"MeshName": ` + tenfold + `}}}}`, "the template's functions use values more than"},
		{"texts that double", named(60, double), "the template's functions make more than 16 MiB of text"},
		{"a long chain", named(2000, func(i int) string {
			if i == 1999 {
				return "x"
			}
			return fmt.Sprintf("!GetAtt N%d.VirtualNodeName", i+1)
		}), "its value is made of too many others in turn"},
		{"many conditions", "Conditions:\n  C: " + strings.Repeat("!Not [", 60) + "!Equals [a, a]" + strings.Repeat("]", 60) + "\nResources: {}\n", ""},
		{"many names that are not there", named(30_000, func(i int) string { return fmt.Sprintf("!Ref Nobody%d", i) }), "and 29800 more faults, which are not told"},
		{"many faults", named(500, func(int) string { return "[]" }), "and 300 more faults, which are not told"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, faults := cloudformation.Parse("t", []byte(c.text), known())
			var texts []string
			for _, p := range faults {
				texts = append(texts, p.Text)
			}
			if all := strings.Join(texts, "\n"); !strings.Contains(all, c.want) || c.want == "" && all != "" {
				t.Errorf("got %.2000s\nwant %s", all, c.want)
			}
		})
	}
}

func TestSecretsAreNotTold(t *testing.T) {
	t.Parallel()
	const secret = "hunter2-is-long-enough"
	o := known()
	o.Parameters = map[string]string{"Password": secret, "Words": secret + ",b"}
	text := `
Parameters:
  Password: {Type: String, NoEcho: true}
  Words: {Type: CommaDelimitedList, NoEcho: "true"}
  Short: {Type: String, NoEcho: true, Default: ` + secret + `, MaxLength: 3}
  Number: {Type: Number, NoEcho: true, Default: ` + secret + `}
Resources:
  Mesh: {Type: AWS::AppMesh::Mesh, Properties: {MeshName: m}}
  Node:
    Type: AWS::AppMesh::VirtualNode
    Properties:
      MeshName: m
      VirtualNodeName: !Ref Password
      Spec:
        Listeners:
          - PortMapping: {Port: !Ref Password, Protocol: !Join ["", [a, !Ref Password]]}
          - PortMapping: {Port: !Select [0, !Ref Words], Protocol: http}
          - PortMapping: {Port: !Sub "1${Password}", Protocol: http}
          - PortMapping: {Port: !Select [1, !Split [-, !Ref Password]], Protocol: http}
        BackendDefaults: {ClientPolicy: {TLS: {Enforce: !Base64 {Ref: Password}, Validation: {Trust: {SDS: {SecretName: a}}}}}}
Outputs:
  Arn: {Value: !Ref Node}
  Ref: {Value: !Ref Password, Export: {Name: password}}
`
	out, faults := cloudformation.Parse("t", []byte(text), o)
	told := fmt.Sprint(out.Outputs, out.Skipped, faults)
	for _, word := range []string{secret, "hunter2", "long", "aHVudGVyMi1"} {
		if strings.Contains(told, word) {
			t.Errorf("%q is told: %s", word, told)
		}
	}
	if len(faults) != 8 {
		t.Errorf("got %d faults: %v", len(faults), faults)
	}
	ignore := cmpopts.IgnoreFields(cloudformation.Output{}, "Position")
	if diff := cmp.Diff([]cloudformation.Output{{Name: "Arn", Value: "****"}, {Name: "Ref", Value: "****"}}, out.Outputs, ignore); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}
