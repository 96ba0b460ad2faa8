package fields

import (
	"slices"
	"testing"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/model"
)

// leaves are the paths of all leaf fields of the seven specs: structures down to
// scalars, with [] for the elements of a list, such as
// RouteSpec.httpRoute.action.weightedTargets[].weight.
func leaves(t *testing.T) []string {
	t.Helper()
	m, err := model.AppMesh()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, kind := range api.Kinds() {
		out = append(out, leavesOf(m, kind.Type+"Spec", kind.Type+"Spec")...)
	}
	return out
}

func leavesOf(m *model.Model, shape, path string) []string {
	switch s := m.Shapes[shape]; s.Type {
	case "structure":
		var names, out []string
		for name := range s.Members {
			names = append(names, name)
		}
		slices.Sort(names)
		for _, name := range names {
			out = append(out, leavesOf(m, s.Members[name].Shape, path+"."+name)...)
		}
		return out
	case "list":
		return leavesOf(m, s.Member.Shape, path+"[]")
	}
	return []string{path}
}

func TestLeaves(t *testing.T) {
	count := map[string]int{}
	for _, leaf := range leaves(t) {
		spec := leaf
		for i, c := range leaf {
			if c == '.' {
				spec = leaf[:i]
				break
			}
		}
		count[spec]++
	}
	want := map[string]int{
		"MeshSpec": 2, "VirtualNodeSpec": 73, "VirtualServiceSpec": 2, "VirtualRouterSpec": 2,
		"RouteSpec": 87, "VirtualGatewaySpec": 34, "GatewayRouteSpec": 62,
	}
	for spec, n := range want {
		if count[spec] != n {
			t.Errorf("%s has %d leaves, want %d", spec, count[spec], n)
		}
	}
}
