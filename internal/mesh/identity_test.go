package mesh_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
)

func settled(identity api.Identity) *api.Resource {
	return &api.Resource{Key: worldKey(api.KindMesh, "", ""), Spec: &api.MeshSpec{}, Settings: api.MeshSettings{Identity: identity}}
}

// nodesIn are the nodes of a snapshot, as they act.
func nodesIn(s *mesh.Snapshot) string {
	var out []string
	for _, r := range s.List(api.KindVirtualNode, worldKey(api.KindMesh, "", "")) {
		out = append(out, r.Key.Name+": "+heard(r))
	}
	return strings.Join(out, "; ")
}

func TestNodesActByTheirMesh(t *testing.T) {
	t.Parallel()
	stored := []*api.Resource{settled(""), listening("a", "80 http", "81 tcp"), listening("b", "80 http DISABLED"), listening("c", "80 http STRICT"), listening("d")}
	s := mesh.NewSnapshot(1, stored)
	const plain = "a: 80 http, 81 tcp; b: 80 http DISABLED; c: 80 http STRICT; d: "
	steps := []struct {
		identity api.Identity
		want     string
	}{
		{api.IdentityOff, plain},
		{api.IdentityPermissive, "a: 80 http PERMISSIVE acm, 81 tcp PERMISSIVE acm; b: 80 http DISABLED; c: 80 http STRICT; d: "},
		{api.IdentityStrict, "a: 80 http STRICT acm, 81 tcp STRICT acm; b: 80 http DISABLED; c: 80 http STRICT; d: "},
		{"", plain},
	}
	for i, step := range steps {
		before := s
		s = s.Apply(int64(i+2), []api.Change{{Key: settled("").Key, New: settled(step.identity)}})
		if got := nodesIn(s); got != step.want {
			t.Errorf("%q: got %s, want %s", step.identity, got, step.want)
		}
		for _, name := range []string{"b", "c", "d"} { // what acts as it is stored is what is stored
			if key := worldKey(api.KindVirtualNode, "", name); s.Get(key) != before.Get(key) {
				t.Errorf("%q: node %s was made anew", step.identity, name)
			}
		}
	}
	s = s.Apply(9, []api.Change{{Key: settled("").Key, New: settled(api.IdentityStrict)}, {Key: worldKey(api.KindVirtualNode, "", "e"), New: listening("e", "80 http")}})
	if got := nodesIn(s); !strings.HasSuffix(got, "e: 80 http STRICT acm") {
		t.Errorf("a new node is %s", got)
	}
	if !mesh.Identified(s.Get(worldKey(api.KindVirtualNode, "", "e")).VirtualNodeSpec().Listeners[0].TLS) {
		t.Error("its certificate is not its identity")
	}
	if stored[1].VirtualNodeSpec().Listeners[0].TLS != nil {
		t.Error("what is stored was changed")
	}
}

// However settings and nodes change, the nodes act as if all had been read at once.
func TestNodesActTheSameHoweverTheyCame(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		now := map[api.Key]*api.Resource{}
		s := mesh.NewSnapshot(0, nil)
		for revision := range rapid.IntRange(1, 12).Draw(t, "steps") {
			var changes []api.Change
			for range rapid.IntRange(1, 3).Draw(t, "changes") {
				var c api.Change
				if rapid.Bool().Draw(t, "mesh") {
					c.New = settled(rapid.SampledFrom([]api.Identity{"", api.IdentityOff, api.IdentityPermissive, api.IdentityStrict}).Draw(t, "identity"))
				} else {
					c.New = listening(fmt.Sprint(rapid.IntRange(0, 3).Draw(t, "node")), rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"80 http", "81 tcp", "82 http STRICT", "83 http DISABLED acm"}), 0, 3, rapid.ID).Draw(t, "listeners")...)
				}
				c.Key = c.New.Key
				if rapid.IntRange(0, 5).Draw(t, "gone") == 0 {
					c.New = nil
				}
				if slices.ContainsFunc(changes, func(o api.Change) bool { return o.Key == c.Key }) {
					continue // a revision has each key once
				}
				changes = append(changes, c)
				if now[c.Key] = c.New; c.New == nil {
					delete(now, c.Key)
				}
			}
			before := s
			s = s.Apply(int64(revision), changes)
			var all []*api.Resource
			for _, r := range now {
				all = append(all, r)
			}
			whole := mesh.NewSnapshot(int64(revision), all)
			if got, want := nodesIn(s), nodesIn(whole); got != want {
				t.Fatalf("got %s, want %s", got, want)
			}
			changed := map[api.Key]bool{}
			for _, c := range changes {
				changed[c.Key] = true
			}
			for _, c := range mesh.IdentityChanged(before, s, worldKey(api.KindMesh, "", "")) {
				changed[c.Key] = true
			}
			for _, r := range s.List(api.KindVirtualNode, worldKey(api.KindMesh, "", "")) {
				if before.Get(r.Key) != r && !changed[r.Key] {
					t.Fatalf("nobody is told that node %s acts otherwise", r.Key.Name)
				}
			}
		}
	})
}

func TestSettingsThatCannotAct(t *testing.T) {
	t.Parallel()
	key := api.Key{Owner: "111122223333", Mesh: "m", Kind: api.KindMesh, Name: "m"}
	const arn = "arn:aws:acm-pca:us-east-1:111122223333:certificate-authority/01234567-89ab-cdef-0123-456789abcdef"
	for authorities, want := range map[string]string{
		"":                      "",
		"built-in":              "",
		"built-in/2 built-in":   "",
		arn + " built-in":       "",
		"built-in/1":            "is no certificate authority",
		"built-in/02":           "is no certificate authority",
		"built-in2":             "is no certificate authority",
		"built-in built-in":     "is named twice",
		"arn:aws:acm-pca:x":     "is no certificate authority",
		arn + "/certificate/00": "is no certificate authority",
		strings.Replace(arn, "111122223333", "444455556666", 1): "is not one of account 111122223333, which owns the mesh",
	} {
		err := mesh.CheckSettings(key, api.MeshSettings{IdentityAuthorities: strings.Fields(authorities)})
		if known, ok := errors.AsType[*api.Error](err); (err != nil) != (want != "") || err != nil && (!ok || known.Code != api.CodeBadRequest || !strings.Contains(known.Message, want)) {
			t.Errorf("%q: got %v, want %q", authorities, err, want)
		}
	}
}
