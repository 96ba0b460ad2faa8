package store_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/store"
	"github.com/evermesh/evermesh/internal/store/storetest"
)

// pages lists everything in pages of a size.
func pages(t *testing.T, s *store.Store, kind api.Kind, key api.Key, size int) (names []string) {
	t.Helper()
	after := ""
	for range 1000 {
		items, more, err := s.List(context.Background(), kind, key, after, size)
		if err != nil {
			t.Fatal(err)
		}
		if size > 0 && len(items) > size || more && len(items) == 0 {
			t.Fatalf("a page of %d has %d items, more %v", size, len(items), more)
		}
		for _, r := range items {
			names = append(names, r.Key.Name)
		}
		if !more {
			return names
		}
		after = items[len(items)-1].Key.String()
	}
	t.Fatal("the list does not end")
	return nil
}

func TestListsInPages(t *testing.T) {
	s := storetest.New(t)
	odd := []string{"a", "a b", "a%2Fb", "a-b", "a.b", "a/b", "a_b", "A", "b", "ä", "*.example.com", "..", "~", "a\x00b"}
	m := meshKey("m")
	for i, name := range odd {
		put(t, s, resource(t, m.In(api.KindVirtualService, "", name), 1))
		put(t, s, resource(t, meshKey(name), 1))
		put(t, s, resource(t, m.In(api.KindRoute, "r", name), 1))
		// Neighbours that are in none of the lists.
		put(t, s, resource(t, m.In(api.KindRoute, "r2", fmt.Sprint(i)), 1), resource(t, m.In(api.KindVirtualNode, "", name), 1))
		put(t, s, resource(t, api.Key{Owner: "1111222233334", Mesh: name, Kind: api.KindMesh, Name: name}, 1))
	}
	for _, c := range []struct {
		kind api.Kind
		key  api.Key
	}{
		{api.KindVirtualService, m.In(api.KindVirtualService, "", "")},
		{api.KindRoute, m.In(api.KindRoute, "r", "")},
		{api.KindMesh, api.Key{Owner: owner, Kind: api.KindMesh}},
	} {
		all := pages(t, s, c.kind, c.key, 0)
		seen := map[string]int{}
		for _, name := range all {
			seen[name]++
		}
		for _, name := range odd {
			if seen[name] != 1 {
				t.Errorf("%s: %q is listed %d times", c.kind, name, seen[name])
			}
		}
		if len(all) != len(odd) {
			t.Errorf("%s: %d are listed of %d: %q", c.kind, len(all), len(odd), all)
		}
		for _, size := range []int{1, 2, 3, len(odd) - 1, len(odd), len(odd) + 1, 100} {
			if diff := cmp.Diff(all, pages(t, s, c.kind, c.key, size)); diff != "" {
				t.Errorf("%s in pages of %d:\n%s", c.kind, size, diff)
			}
		}
	}
}

// A mesh's scope outlives the mesh for a moment in no list.
func TestListMeshesWithoutTheirMesh(t *testing.T) {
	s := storetest.New(t)
	for i := range 250 {
		put(t, s, resource(t, nodeKey(fmt.Sprintf("orphan-%03d", i), "n"), 1))
	}
	put(t, s, resource(t, meshKey("z"), 1))
	if diff := cmp.Diff([]string{"z"}, pages(t, s, api.KindMesh, api.Key{Owner: owner}, 1)); diff != "" {
		t.Error(diff)
	}
}

// A list that changes between its pages neither repeats nor skips what stays.
func TestListsThatChangeBetweenPages(t *testing.T) {
	s := storetest.New(t)
	for _, name := range []string{"a", "c", "e", "g"} {
		put(t, s, resource(t, nodeKey("m", name), 1))
	}
	key := nodeKey("m", "")
	items, more, err := s.List(context.Background(), api.KindVirtualNode, key, "", 2)
	if err != nil || !more || len(items) != 2 {
		t.Fatalf("first page: %v, more %v, error %v", items, more, err)
	}
	if _, err := s.Update(context.Background(), scopes("m"), func(tx *store.Tx) error {
		tx.Delete(nodeKey("m", "c")) // the last of the first page
		tx.Put(resource(t, nodeKey("m", "b"), 1))
		tx.Put(resource(t, nodeKey("m", "d"), 1))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	items, more, err = s.List(context.Background(), api.KindVirtualNode, key, items[1].Key.String(), 100)
	if err != nil || more {
		t.Fatalf("second page: more %v, error %v", more, err)
	}
	var got []string
	for _, r := range items {
		got = append(got, r.Key.Name)
	}
	if diff := cmp.Diff([]string{"d", "e", "g"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestForeignPageTokens(t *testing.T) {
	s := storetest.New(t)
	put(t, s, resource(t, nodeKey("m", "n"), 1))
	route := meshKey("m").In(api.KindRoute, "r", "x")
	for name, c := range map[string]struct {
		kind  api.Kind
		key   api.Key
		after string
	}{
		"no key":        {api.KindVirtualNode, nodeKey("m", ""), "what"},
		"another mesh":  {api.KindVirtualNode, nodeKey("m", ""), nodeKey("other", "n").String()},
		"another kind":  {api.KindVirtualNode, nodeKey("m", ""), meshKey("m").In(api.KindVirtualRouter, "", "n").String()},
		"another owner": {api.KindMesh, api.Key{Owner: owner}, "444455556666/m/mesh/m"},
		"other parent":  {api.KindRoute, meshKey("m").In(api.KindRoute, "q", ""), route.String()},
	} {
		if items, _, err := s.List(context.Background(), c.kind, c.key, c.after, 10); !isAPI(err, api.CodeBadRequest) {
			t.Errorf("%s: got %v, error %v", name, items, err)
		}
	}
}
