package meshdns_test

import (
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
	"github.com/evermesh/evermesh/internal/meshdns"
)

// Names are those of all meshes of all accounts, in any case; they are read anew
// when there is another snapshot, and not at every query while there are many.
func TestNames(t *testing.T) {
	t.Parallel()
	service := func(owner, mesh, name string) *api.Resource {
		return &api.Resource{Key: api.Key{Owner: owner, Mesh: mesh, Kind: api.KindVirtualService, Name: name}, Owner: owner, Spec: &api.VirtualServiceSpec{}}
	}
	var snapshot *mesh.Snapshot
	now := time.Now()
	n := meshdns.NewNames(func() *mesh.Snapshot { return snapshot }, func() time.Time { return now })
	if has, known := n.Has("a.local"); has || known {
		t.Error("without a snapshot something is known")
	}
	first := service(account, "one", "serviceB.apps.local")
	snapshot = mesh.NewSnapshot(1, []*api.Resource{first, service(other, "two", "a.local")})
	for name, want := range map[string]bool{"a.local": true, "serviceb.apps.local": true, "serviceB.apps.local": false, "b.local": false} {
		if has, known := n.Has(name); has != want || !known {
			t.Errorf("%s: %v, known: %v", name, has, known)
		}
	}
	snapshot = snapshot.Apply(2, []api.Change{{Key: first.Key}, {Key: service(account, "one", "b.local").Key, New: service(account, "one", "b.local")}})
	if has, _ := n.Has("b.local"); has {
		t.Error("names are read again at once")
	}
	now = now.Add(time.Second)
	for name, want := range map[string]bool{"b.local": true, "serviceb.apps.local": false, "a.local": true} {
		if has, _ := n.Has(name); has != want {
			t.Errorf("a second later %s: %v", name, has)
		}
	}
}
