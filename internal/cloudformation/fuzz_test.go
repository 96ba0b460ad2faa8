package cloudformation

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/evermesh/evermesh/internal/model"
)

// seeds are small: the fuzzer takes minutes to make a large one smaller.
var seeds = []string{
	"Resources: {M: {Type: AWS::AppMesh::Mesh, Properties: {MeshName: !Ref P}}}\nParameters: {P: {Type: Number, Default: 1}}",
	`{"Resources": {"M": {"Type": "AWS::AppMesh::Mesh", "Properties": {"MeshName": {"Ref": "AWS::Region"}}}}}`,
	"Resources: {N: {Type: AWS::AppMesh::VirtualNode, Properties: {MeshName: !GetAtt N.Arn, Spec: {Listeners: [{PortMapping: {Port: 1, Protocol: http}}]}}}}",
	"Resources: {M: {Type: AWS::AppMesh::Mesh, Condition: C}}\nConditions: {C: !Not [!Equals [a, !Select [0, [b]]]]}",
	"Resources: {}\nOutputs: {O: {Value: !Sub [\"${a}${!b}${AWS::Region}\", {a: !Join [x, !Split [y, zyz]]}]}}",
	"Resources: {}\nMappings: {A: {b: {c: &x d}}}\nOutputs: {O: {Value: !FindInMap [A, b, c]}, P: {Value: *x}}",
	"Resources: {S: {Type: AWS::ServiceDiscovery::Service, Properties: {Name: !If [C, a, !ImportValue b]}}}",
}

// What comes out of a template without faults is what the API takes.
func FuzzParse(f *testing.F) {
	for _, c := range seeds {
		f.Add([]byte(c))
	}
	m, err := model.AppMesh()
	if err != nil {
		f.Fatal(err)
	}
	o := Options{Partition: "aws", Region: "eu-west-1", Account: "111122223333", Stack: "shop"}
	f.Fuzz(func(t *testing.T, text []byte) {
		out, faults := parse(m, "t", text, o)
		if again, _ := parse(m, "t", text, o); len(again.Resources) != len(out.Resources) {
			t.Error("the second time it is another")
		}
		lines := strings.Count(string(text), "\n") + strings.Count(string(text), "\r") + strings.Count(string(text), "\u2028") + strings.Count(string(text), "\u2029") + strings.Count(string(text), "\u0085") + 2
		for _, p := range faults {
			if p.Line < 0 || p.Line > lines || p.Text == "" {
				t.Errorf("%q: %d lines: %s", text, lines, p)
			}
		}
		if len(faults) > 0 {
			return
		}
		for _, r := range out.Resources {
			row, _ := r.Kind.Row()
			if vs := m.Check("Create"+row.Type+"Input", r.Doc); len(vs) > 0 {
				t.Errorf("%q: %s", text, model.Message(vs))
			}
			if _, err := json.Marshal(r.Doc); err != nil {
				t.Errorf("%q: %v", text, err)
			}
		}
	})
}
