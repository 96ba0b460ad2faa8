package mesh_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
)

// Of each quota that is about resources: the last that is taken, and the first
// that is not.
func TestQuotas(t *testing.T) {
	t.Parallel()
	many := func(n int, line string) string {
		lines := []string{"mesh apps {}", "virtualRouter r {}", "virtualRouter other {}", "virtualGateway g {}", "virtualGateway other {}"}
		for i := range n {
			lines = append(lines, fmt.Sprintf(line, i))
		}
		return strings.Join(lines, "\n")
	}
	backends := func(n int) string {
		list := make([]string, n)
		for i := range list {
			list[i] = fmt.Sprintf(`{"virtualService": {"virtualServiceName": "s%d"}}`, i)
		}
		return `{"backends": [` + strings.Join(list, ", ") + `]}`
	}
	for _, c := range []struct {
		name  string
		holds int // of the kind, before
		line  string
		now   string
		want  string
	}{
		{"QUOTA-004 fifteen meshes", 13, "mesh m%d {}", "mesh new {}", ""},
		{"QUOTA-004 a sixteenth mesh", 14, "mesh m%d {}", "mesh new {}", "LimitExceededException: You've reached the limit on number of Meshes(15) for the account 111111111111."},
		{"QUOTA-005 two hundred nodes", 199, "virtualNode n%d {}", "virtualNode new {}", ""},
		{"QUOTA-005 QUOTA-009 one node more", 200, "virtualNode n%d {}", "virtualNode new {}", "LimitExceededException: You've reached the limit on number of VirtualNodes(200) for the mesh apps."},
		{"QUOTA-005 two hundred routers", 197, "virtualRouter r%d {}", "virtualRouter new {}", ""},
		{"QUOTA-005 one router more", 198, "virtualRouter r%d {}", "virtualRouter new {}", "LimitExceededException: You've reached the limit on number of VirtualRouters(200) for the mesh apps."},
		{"QUOTA-005 two hundred services", 199, "virtualService s%d {}", "virtualService new {}", ""},
		{"QUOTA-005 one service more", 200, "virtualService s%d {}", "virtualService new {}", "LimitExceededException: You've reached the limit on number of VirtualServices(200) for the mesh apps."},
		{"QUOTA-006 fifty routes", 49, "route r/x%d {}", "route r/new {}", ""},
		{"QUOTA-006 one route more", 50, "route r/x%d {}", "route r/new {}", "LimitExceededException: You've reached the limit on number of Routes(50) for the virtual router r."},
		{"QUOTA-006 another router has its own", 50, "route r/x%d {}", "route other/new {}", ""},
		{"QUOTA-007 fifty backends", 0, "", "virtualNode new " + backends(50), ""},
		{"QUOTA-007 one backend more", 0, "", "virtualNode new " + backends(51), "LimitExceededException: You've reached the limit on number of Backends(50) for the virtual node new."},
		{"QUOTA-008 three gateways", 0, "", "virtualGateway new {}", ""},
		{"QUOTA-008 one gateway more", 1, "virtualGateway g%d {}", "virtualGateway new {}", "LimitExceededException: You've reached the limit on number of VirtualGateways(3) for the mesh apps."},
		{"QUOTA-008 ten gateway routes", 9, "gatewayRoute g/x%d {}", "gatewayRoute g/new {}", ""},
		{"QUOTA-008 one gateway route more", 10, "gatewayRoute g/x%d {}", "gatewayRoute g/new {}", "LimitExceededException: You've reached the limit on number of GatewayRoutes(10) for the virtual gateway g."},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := held(t, ruleAccountA, many(c.holds, c.line))
			now := written(t, ruleAccountA, c.now)
			refusedWith(t, mesh.CheckQuotas(mesh.AppMeshQuotas(), s, nil, now), c.want)
			refusedWith(t, mesh.CheckQuotas(mesh.Quotas{}, s, nil, now), "")
			refusedWith(t, mesh.CheckQuotas(mesh.AppMeshQuotas(), s, now, now), "") // what is there is changed
		})
	}
	for _, c := range []struct {
		name       string
		has, wants int
		refused    bool
	}{
		{"QUOTA-007 an update to more than fifty", 50, 51, true},
		{"QUOTA-007 one that had more already", 60, 60, false},
		{"QUOTA-007 one that had more already has still more", 60, 61, true},
		{"QUOTA-007 one that had more already has fewer", 60, 55, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := held(t, ruleAccountA, "mesh apps {}")
			err := mesh.CheckQuotas(mesh.AppMeshQuotas(), s, written(t, ruleAccountA, "virtualNode n "+backends(c.has)), written(t, ruleAccountA, "virtualNode n "+backends(c.wants)))
			if (err != nil) != c.refused {
				t.Errorf("got %v", err)
			}
		})
	}
	t.Run("an account's meshes are its own", func(t *testing.T) {
		t.Parallel()
		s := held(t, ruleAccountA, "mesh m {}")
		q := mesh.Quotas{Meshes: 1}
		refusedWith(t, mesh.CheckQuotas(q, s, nil, written(t, ruleAccountB, "mesh new {}")), "")
		refusedWith(t, mesh.CheckQuotas(q, s, nil, written(t, ruleAccountA, "mesh new {}")), "LimitExceededException: You've reached the limit on number of Meshes(1) for the account 111111111111.")
	})
	if all := len(api.Kinds()); all != 7 {
		t.Errorf("%d kinds: give the new one a quota, or say why it has none", all)
	}
}
