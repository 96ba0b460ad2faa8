package store_test

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/store"
	"github.com/evermesh/evermesh/internal/store/storetest"
)

// A transaction reads the very resources that the watch told, so that a mesh is
// decoded and held once; where the watch is behind, it reads what is newer.
func TestATransactionReadsWhatTheWatchTold(t *testing.T) {
	t.Parallel()
	replicas := storetest.Replicas(t, 2)
	s, other := replicas[0], replicas[1]
	a, b := nodeKey("m", "a"), nodeKey("m", "b")
	put(t, other, resource(t, a, 1), resource(t, b, 1))
	w := watch(t, s)
	told := map[string]*api.Resource{}
	next := func() {
		t.Helper()
		for _, c := range w.next(t).Changes {
			told[c.Key.Name] = c.New
		}
	}
	next()
	read := func(key api.Key) (found *api.Resource) {
		t.Helper()
		if _, err := s.Update(context.Background(), scopes("m"), func(tx *store.Tx) error {
			found = tx.Get(key)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return found
	}
	if read(a) != told["a"] || read(b) != told["b"] {
		t.Error("the scope was read anew")
	}
	put(t, other, resource(t, a, 2))
	next()
	if got := read(a); got != told["a"] || got.Version != 2 || read(b) != told["b"] {
		t.Errorf("after a change by the other: read %v, told %v", got, told["a"])
	}

	// Now the watch stays where it is.
	w.stop()
	put(t, other, resource(t, a, 3))
	if got, want := read(a), get(t, other, a); cmp.Diff(want, got) != "" {
		t.Errorf("behind the watch:\n%s", cmp.Diff(want, got))
	}
	if _, err := other.Update(context.Background(), scopes("m"), func(tx *store.Tx) error { tx.Delete(b); return nil }); err != nil {
		t.Fatal(err)
	}
	if got := read(b); got != nil {
		t.Errorf("removed and read: %v", got)
	}
	put(t, other, resource(t, b, 7))
	if got, want := read(b), get(t, other, b); cmp.Diff(want, got) != "" {
		t.Errorf("made again:\n%s", cmp.Diff(want, got))
	}
}

// What a first writer takes from the watch keeps what neither of them knows.
func TestUnknownMembersThatTheWatchReadSurviveARewrite(t *testing.T) {
	t.Parallel()
	replicas := storetest.Replicas(t, 2)
	s, other := replicas[0], replicas[1]
	key := nodeKey("m", "n")
	tail := "mesh/" + key.String()
	put(t, other, resource(t, key, 1))
	rewrite(t, other, tail, func(value map[string]any) { value["body"].(map[string]any)["region"] = "far" })
	watch(t, s).next(t)
	put(t, s, resource(t, key, 2))
	if body := stored(t, s, tail)["body"].(map[string]any); body["region"] != "far" || body["version"] != 2.0 {
		t.Errorf("stored is %v", body)
	}
	rewrite(t, other, tail, func(value map[string]any) { value["schema"], value["body"] = 2, "?" })
	if _, err := s.Update(context.Background(), scopes("m"), func(tx *store.Tx) error { tx.Delete(key); return nil }); !isAPI(err, api.CodeServiceUnavailable) {
		t.Errorf("what a newer release wrote was removed: %v", err)
	}
}
