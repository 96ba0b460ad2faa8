package store_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
	"github.com/evermesh/evermesh/internal/store"
	"github.com/evermesh/evermesh/internal/store/storetest"
	"github.com/evermesh/evermesh/internal/testenv"
)

// A transaction is what the rules read.
var _ mesh.Reader = (*store.Tx)(nil)

func TestMain(m *testing.M) {
	// The members of a test's cluster speak HTTP with each other and let their
	// connections idle out. Nothing of ours speaks HTTP.
	testenv.VerifyTestMain(
		storetest.WithEtcd{M: m},
		goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"),
		goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"),
		goleak.IgnoreAnyFunction("net/http.(*conn).serve"),
		goleak.IgnoreAnyFunction("net/http.(*connReader).backgroundRead"),
	)
}

const owner = "111122223333"

func meshKey(name string) api.Key {
	return api.Key{Owner: owner, Mesh: name, Kind: api.KindMesh, Name: name}
}

func nodeKey(mesh, name string) api.Key { return meshKey(mesh).In(api.KindVirtualNode, "", name) }

// resource is one with an empty spec.
func resource(t rapid.TB, key api.Key, version int64) *api.Resource {
	t.Helper()
	spec, err := api.DecodeSpec(key.Kind, []byte("{}"))
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 1, 2, 3, 4, 5, 678000000, time.UTC)
	return &api.Resource{
		Key: key, UID: fmt.Sprintf("uid of %s", key), Version: version, Created: at, Updated: at.Add(time.Duration(version) * time.Second),
		Owner: key.Owner, Document: []byte("{}"), Spec: spec,
	}
}

// put writes resources of one mesh and returns the revision.
func put(t testing.TB, s *store.Store, all ...*api.Resource) int64 {
	t.Helper()
	revision, err := s.Update(context.Background(), []store.Scope{store.MeshScope(all[0].Key.Owner, all[0].Key.Mesh)}, func(tx *store.Tx) error {
		for _, r := range all {
			tx.Put(r)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return revision
}

// get reads a resource; its revision is not compared.
func get(t testing.TB, s *store.Store, key api.Key) *api.Resource {
	t.Helper()
	r, err := s.Get(context.Background(), key)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestWhatIsPutIsReadByEveryReplica(t *testing.T) {
	replicas := storetest.Replicas(t, 2)
	want := resource(t, nodeKey("m", "n"), 1)
	want.Document = []byte(`{"listeners":[{"portMapping":{"port":80,"protocol":"http"}}],"a":"<&> "}`)
	want.Tags = []api.TagRef{{Key: "z", Value: "1"}, {Key: "a", Value: ""}}
	var err error
	if want.Spec, err = api.DecodeSpec(api.KindVirtualNode, want.Document); err != nil {
		t.Fatal(err)
	}
	want.Revision = put(t, replicas[0], want)
	for i, s := range replicas {
		if diff := cmp.Diff(want, get(t, s, want.Key)); diff != "" {
			t.Errorf("replica %d reads (-want +got):\n%s", i, diff)
		}
	}
	if got := get(t, replicas[1], nodeKey("m", "other")); got != nil {
		t.Errorf("got %v for a key that was never put", got)
	}
}
