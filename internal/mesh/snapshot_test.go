package mesh_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
)

func resource(owner, meshName string, kind api.Kind, parent, name, resourceOwner string) *api.Resource {
	row, _ := kind.Row()
	return &api.Resource{Key: api.Key{Owner: owner, Mesh: meshName, Kind: kind, Parent: parent, Name: name}, Owner: resourceOwner, Spec: row.Spec()}
}

func TestSnapshotReads(t *testing.T) {
	const a, b = "111111111111", "222222222222"
	s := mesh.NewSnapshot(7, []*api.Resource{
		resource(a, "shop", api.KindMesh, "", "shop", a),
		resource(b, "shop", api.KindMesh, "", "shop", b),
		resource(a, "apps", api.KindMesh, "", "apps", a),
		resource(a, "shop", api.KindVirtualNode, "", "web", a),
		resource(a, "shop", api.KindVirtualNode, "", "api", a),
		resource(b, "shop", api.KindVirtualNode, "", "web", b),
		resource(a, "shop", api.KindRoute, "r", "two", a),
		resource(a, "shop", api.KindRoute, "r", "one", a),
		resource(a, "shop", api.KindRoute, "other", "three", a),
	})
	if s.Revision() != 7 {
		t.Errorf("revision %d, want 7", s.Revision())
	}
	names := func(list []*api.Resource) []string {
		out := []string{}
		for _, r := range list {
			out = append(out, r.Key.Name)
		}
		return out
	}
	router := api.Key{Owner: a, Mesh: "shop", Kind: api.KindVirtualRouter, Name: "r"}
	for _, test := range []struct {
		name   string
		kind   api.Kind
		parent api.Key
		want   []string
	}{
		{"nodes by name", api.KindVirtualNode, router.MeshKey(), []string{"api", "web"}},
		{"routes of one router", api.KindRoute, router, []string{"one", "two"}},
		{"meshes of one account", api.KindMesh, api.Key{Owner: a}, []string{"apps", "shop"}},
		{"nothing", api.KindVirtualGateway, router.MeshKey(), []string{}},
		{"no such mesh", api.KindVirtualNode, api.Key{Owner: b, Mesh: "apps"}, []string{}},
	} {
		if diff := cmp.Diff(test.want, names(s.List(test.kind, test.parent))); diff != "" {
			t.Errorf("%s: %s", test.name, diff)
		}
	}
}

// TestApplySharesWhatStays looks at whether the lists that a change did not
// touch are the very same, and whether the old snapshot stays as it was.
func TestApplySharesWhatStays(t *testing.T) {
	const a = "111111111111"
	web := resource(a, "shop", api.KindVirtualNode, "", "web", a)
	route := resource(a, "shop", api.KindRoute, "r", "one", a)
	old := mesh.NewSnapshot(1, []*api.Resource{resource(a, "shop", api.KindMesh, "", "shop", a), web, route})
	changed := resource(a, "shop", api.KindRoute, "r", "one", a)
	now := old.Apply(2, []api.Change{{Key: changed.Key, New: changed}})
	if now.Revision() != 2 || now.Get(changed.Key) != changed || old.Get(changed.Key) != route || old.Revision() != 1 {
		t.Error("the change is not in the new snapshot alone")
	}
	if &old.List(api.KindVirtualNode, web.Key.MeshKey())[0] != &now.List(api.KindVirtualNode, web.Key.MeshKey())[0] {
		t.Error("the list of nodes was copied, though no node changed")
	}
	empty := now.Apply(3, []api.Change{{Key: changed.Key}, {Key: web.Key}, {Key: web.Key.MeshKey()}, {Key: web.Key}})
	if empty.Get(web.Key) != nil || empty.Get(web.Key.MeshKey()) != nil || empty.List(api.KindRoute, changed.Key.In(api.KindVirtualRouter, "", "r")) != nil {
		t.Error("what was deleted is still there")
	}
	again := now.Apply(3, []api.Change{{Key: web.Key}, {Key: web.Key, New: web}})
	if again.Get(web.Key) != web {
		t.Error("what was deleted and made again in one batch is missing")
	}
}

// TestFind resolves what proxies call themselves (D1).
func TestFind(t *testing.T) {
	const a, b, c = "111111111111", "222222222222", "333333333333"
	s := mesh.NewSnapshot(1, []*api.Resource{
		resource(a, "shop", api.KindVirtualNode, "", "web", a),
		resource(a, "shop", api.KindVirtualNode, "", "lent", b), // b's node in a's shared mesh
		resource(a, "shop", api.KindVirtualGateway, "", "in", a),
		resource(b, "own", api.KindVirtualNode, "", "web", b),
		resource(c, "shop", api.KindVirtualNode, "", "web", c),
		resource(c, "shop", api.KindVirtualRouter, "", "r", c),
	})
	for _, test := range []struct {
		name, id, account string
		owner             string // of the mesh found; empty: none
	}{
		{"EMS-015 short form", "mesh/shop/virtualNode/web", a, a},
		{"EMS-015 short form of a gateway", "mesh/shop/virtualGateway/in", a, a},
		{"short form, equal names of another account", "mesh/shop/virtualNode/web", c, c},
		{"short form of another account's mesh", "mesh/shop/virtualNode/web", b, ""},
		{"short form never looks into shared meshes", "mesh/shop/virtualNode/lent", b, ""},
		{"EMS-016 short form with the owner", "mesh/shop@" + a + "/virtualNode/lent", b, a},
		{"full ARN", "arn:aws:appmesh:us-east-1:" + a + ":mesh/shop/virtualNode/web", c, a},
		{"ARN of a node in a shared mesh", "arn:aws:appmesh:us-east-1:" + b + ":mesh/shop/virtualNode/lent", b, a},
		{"ARN with the mesh's owner", "arn:aws:appmesh:us-east-1:" + b + ":mesh/shop@" + a + "/virtualNode/lent", b, a},
		{"ARN of a node that is another's", "arn:aws:appmesh:us-east-1:" + b + ":mesh/shop/virtualNode/web", b, ""},
		{"ARN with an owner who has none", "arn:aws:appmesh:us-east-1:" + b + ":mesh/shop@" + b + "/virtualNode/lent", b, ""},
		{"no such node", "mesh/shop/virtualNode/none", a, ""},
		{"a router is no proxy", "mesh/shop/virtualRouter/r", c, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			parse := api.ParseResourcePath
			if test.id[0] == 'a' {
				parse = api.ParseARN
			}
			arn, err := parse(test.id)
			if err != nil {
				t.Fatal(err)
			}
			key, ok := s.Find(arn, test.account)
			if ok != (test.owner != "") || key.Owner != test.owner {
				t.Errorf("found %v %v, want one of account %q", key, ok, test.owner)
			}
			if ok && s.Get(key) == nil {
				t.Errorf("found %v, which does not exist", key)
			}
		})
	}
}
