package mesh_test

import (
	"testing"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
)

// Whose resource it is decides who changes it; whose mesh it is, who deletes it too.
func TestOwners(t *testing.T) {
	t.Parallel()
	const stranger = "333333333333"
	node := func(owner string) *api.Resource {
		r := written(t, ruleAccountA, "virtualNode one {}")
		r.Owner = owner
		return r
	}
	cases := []struct {
		name, by, of string
		deletes      bool
		want         string
	}{
		{"SHARE-006 the mesh's owner updates its own", ruleAccountA, ruleAccountA, false, ""},
		{"SHARE-006 a consumer updates its own", ruleAccountB, ruleAccountB, false, ""},
		{"SHARE-006 the mesh's owner does not update a consumer's", ruleAccountA, ruleAccountB, false, "VirtualNode one in mesh apps belongs to account 222222222222: only that account changes it."},
		{"SHARE-006 a consumer does not update the owner's", ruleAccountB, ruleAccountA, false, "VirtualNode one in mesh apps belongs to account 111111111111: only that account changes it."},
		{"SHARE-007 a consumer deletes its own", ruleAccountB, ruleAccountB, true, ""},
		{"SHARE-007 the mesh's owner deletes a consumer's", ruleAccountA, ruleAccountB, true, ""},
		{"SHARE-007 a consumer does not delete the owner's", ruleAccountB, ruleAccountA, true, "VirtualNode one in mesh apps belongs to account 111111111111: only that account and the owner of the mesh delete it."},
		{"SHARE-007 nor another consumer's", stranger, ruleAccountB, true, "VirtualNode one in mesh apps belongs to account 222222222222: only that account and the owner of the mesh delete it."},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			old, now := node(c.of), node(c.of)
			if c.deletes {
				now = nil
			}
			forbids(t, mesh.CheckOwner(c.by, old, now), c.want)
		})
	}
	if err := mesh.CheckOwner(ruleAccountB, nil, node(ruleAccountB)); err != nil {
		t.Errorf("what is new is its creator's: %v", err)
	}
}

// What a consumer may create, and where.
func TestCreators(t *testing.T) {
	t.Parallel()
	ground := mesh.NewSnapshot(1, func() (out []*api.Resource) {
		for _, line := range []string{"mesh apps {}", "virtualNode one {}", "virtualRouter router {}", "virtualGateway gate {}", "virtualService s {}"} {
			out = append(out, written(t, ruleAccountA, line))
		}
		theirs := written(t, ruleAccountA, "virtualRouter theirs {}")
		theirs.Owner = ruleAccountB
		return append(out, theirs)
	}())
	const (
		route = ` {"httpRoute": {"match": {"prefix": "/"}, "action": {"weightedTargets": [{"virtualNode": "one", "weight": 1}]}}}`
		way   = ` {"httpRoute": {"match": {"prefix": "/"}, "action": {"target": {"virtualService": {"virtualServiceName": "s"}}}}}`
		gate  = ` {"listeners": [{"portMapping": {"port": 80, "protocol": "http"}}]}`
	)
	for _, c := range []struct{ name, by, line, want string }{
		{"SHARE-010 a consumer makes nodes", ruleAccountB, "virtualNode n {}", ""},
		{"SHARE-010 routers", ruleAccountB, "virtualRouter r {}", ""},
		{"SHARE-010 services", ruleAccountB, "virtualService x {}", ""},
		{"SHARE-010 no gateways", ruleAccountB, "virtualGateway g" + gate, "Mesh apps belongs to account 111111111111: only that account creates a VirtualGateway in it."},
		{"SHARE-010 no gateway routes", ruleAccountB, "gatewayRoute gate/g" + way, "Mesh apps belongs to account 111111111111: only that account creates a GatewayRoute in it."},
		{"SHARE-010 the owner makes gateways", ruleAccountA, "virtualGateway g" + gate, ""},
		{"GR-019 and gateway routes", ruleAccountA, "gatewayRoute gate/g" + way, ""},
		{"RT-040 routes in a router of one's own", ruleAccountB, "route theirs/r" + route, ""},
		{"RT-040 and in no other", ruleAccountB, "route router/r" + route, "VirtualRouter router in mesh apps belongs to account 111111111111: only that account creates routes in it."},
		{"RT-040 the mesh's owner neither", ruleAccountA, "route theirs/r" + route, "VirtualRouter theirs in mesh apps belongs to account 222222222222: only that account creates routes in it."},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			made := written(t, ruleAccountA, c.line)
			made.Owner = c.by
			forbids(t, mesh.Check(ground, nil, made), c.want)
		})
	}
}

// forbids checks that the rule's answer is a ForbiddenException with the text, or nil.
func forbids(t *testing.T, err error, want string) {
	t.Helper()
	switch refusal, ok := err.(*api.Error); { //nolint:errorlint // as the rules return it
	case err == nil && want == "":
	case !ok || refusal.Code != api.CodeForbidden || refusal.Message != want:
		t.Errorf("got %v, want %q", err, want)
	}
}
