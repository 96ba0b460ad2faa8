package store_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/store"
	"github.com/evermesh/evermesh/internal/store/storetest"
)

// rewrite plays another release: it edits what is stored.
func rewrite(t *testing.T, s *store.Store, tail string, edit func(value map[string]any)) {
	t.Helper()
	ctx := context.Background()
	client, name := s.Etcd()
	resp, err := client.Get(ctx, name(tail))
	if err != nil || len(resp.Kvs) != 1 {
		t.Fatalf("%s: %v, error %v", tail, resp, err)
	}
	var value map[string]any
	if err := json.Unmarshal(resp.Kvs[0].Value, &value); err != nil {
		t.Fatal(err)
	}
	edit(value)
	text, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	// As a transaction of the other release does, with the scope's lock.
	scope := strings.Join(strings.Split(tail, "/")[:3], "/")
	if strings.HasPrefix(tail, "account/") {
		scope = strings.Join(strings.Split(tail, "/")[:2], "/")
	}
	if _, err := client.Put(ctx, name(tail), string(text)); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Put(ctx, name("lock/"+scope), ""); err != nil {
		t.Fatal(err)
	}
}

// stored reads what is stored, as JSON.
func stored(t *testing.T, s *store.Store, tail string) map[string]any {
	t.Helper()
	all, err := s.Read(context.Background(), tail)
	if err != nil || all[tail] == nil {
		t.Fatalf("%s is not stored: %v, error %v", tail, all, err)
	}
	var value map[string]any
	if err := json.Unmarshal(all[tail], &value); err != nil {
		t.Fatal(err)
	}
	return value
}

func TestUnknownMembersSurviveARewrite(t *testing.T) {
	replicas := storetest.Replicas(t, 2)
	s := replicas[0]
	key := nodeKey("m", "n")
	tail := "mesh/" + key.String()
	first := resource(t, key, 1)
	first.Tags = []api.TagRef{{Key: "a", Value: "b"}}
	put(t, s, first)
	rewrite(t, s, tail, func(value map[string]any) {
		value["checksum"] = "x"
		value["body"].(map[string]any)["region"] = map[string]any{"deep": []any{1.5, nil}}
	})
	for i, s := range replicas { // once with and once without a memory of the first form
		second := resource(t, key, int64(i+2)) // without tags: a known member that goes away
		put(t, s, second)
		put(t, s, second) // from what the replica remembers of its own write
		got := stored(t, s, tail)
		body := got["body"].(map[string]any)
		if got["checksum"] != "x" || cmp.Diff(body["region"], map[string]any{"deep": []any{1.5, nil}}) != "" {
			t.Errorf("replica %d lost members: %v", i, got)
		}
		if _, ok := body["tags"]; ok || body["version"] != float64(i+2) {
			t.Errorf("replica %d kept what it knows: %v", i, got)
		}
	}
}

func TestUnknownMembersOfOtherRecordsSurvive(t *testing.T) {
	s := storetest.New(t)
	ctx := context.Background()
	scope := store.AccountScope(owner)
	kind := store.Type{Name: "thing", Schema: 1, Members: []string{"a"}}
	write := func(a any) {
		t.Helper()
		if _, err := s.Update(ctx, []store.Scope{scope}, func(tx *store.Tx) error {
			tx.PutRecord(kind, scope.Tail("thing", "x/y"), map[string]any{"a": a})
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	write(1)
	rewrite(t, s, "account/"+owner+"/thing/x%2Fy", func(value map[string]any) { value["body"].(map[string]any)["b"] = 2 })
	write(3)
	write(4)
	records, _, err := s.Records(ctx, "account/")
	if err != nil || len(records) != 1 {
		t.Fatalf("records are %v, error %v", records, err)
	}
	if r := records[0]; string(r.Body) != `{"a":4,"b":2}` || r.Type != "thing" || r.Schema != 1 || r.Key != "account/"+owner+"/thing/x%2Fy" || r.Revision == 0 {
		t.Errorf("got %+v with body %s", r, r.Body)
	}
}

// A replica shows what a newer release wrote as far as it understands it, and
// never writes over it (D12).
func TestANewerSchemaIsNotWritten(t *testing.T) {
	s := storetest.New(t)
	ctx := context.Background()
	key, other := nodeKey("m", "n"), nodeKey("m", "other")
	put(t, s, resource(t, key, 1), resource(t, other, 1))
	rewrite(t, s, "mesh/"+key.String(), func(value map[string]any) { value["schema"] = 2 })
	before := stored(t, s, "mesh/"+key.String())
	if got := get(t, s, key); got == nil || got.Version != 1 {
		t.Errorf("what can be read is %v", got)
	}
	for name, touch := range map[string]func(tx *store.Tx){
		"put":    func(tx *store.Tx) { tx.Put(resource(t, key, 2)) },
		"delete": func(tx *store.Tx) { tx.Delete(key) },
	} {
		_, err := s.Update(ctx, scopes("m"), func(tx *store.Tx) error { touch(tx); return nil })
		if !isAPI(err, api.CodeServiceUnavailable) || !strings.Contains(err.Error(), "schema 2") {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if diff := cmp.Diff(before, stored(t, s, "mesh/"+key.String())); diff != "" {
		t.Errorf("it was written over:\n%s", diff)
	}
	if err := raise(s, other); err != nil {
		t.Errorf("a resource beside it: %v", err)
	}
}

// What a replica cannot read at all stops its writes in that mesh, as rules
// would decide without seeing everything; the other meshes go on.
func TestWhatCannotBeReadStopsWritesInItsMesh(t *testing.T) {
	for name, edit := range map[string]func(t *testing.T, s *store.Store){
		"another form of the body": func(t *testing.T, s *store.Store) {
			rewrite(t, s, "mesh/"+nodeKey("m", "n").String(), func(value map[string]any) {
				value["schema"], value["body"] = 2, map[string]any{"spec": "compressed"}
			})
		},
		"an eighth kind": func(t *testing.T, s *store.Store) {
			rewrite(t, s, "mesh/"+nodeKey("m", "n").String(), func(map[string]any) {})
			client, name := s.Etcd()
			if _, err := client.Put(context.Background(), name("mesh/"+owner+"/m/eighth/x"), `{"type":"eighth","schema":1,"body":{}}`); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := storetest.New(t)
			put(t, s, resource(t, nodeKey("m", "n"), 1), resource(t, nodeKey("m", "other"), 1))
			put(t, s, resource(t, nodeKey("quiet", "n"), 1))
			edit(t, s)
			_, err := s.Update(context.Background(), scopes("m"), func(tx *store.Tx) error { tx.Delete(nodeKey("m", "other")); return nil })
			if !isAPI(err, api.CodeServiceUnavailable) {
				t.Errorf("a write to the mesh gets %v", err)
			}
			if err := raise(s, nodeKey("quiet", "n")); err != nil {
				t.Errorf("a write to another mesh gets %v", err)
			}
			if get(t, s, nodeKey("m", "other")) == nil {
				t.Error("what can be read is not shown any more")
			}
		})
	}
}

// A transaction lists records as it sees them: with its own writes on top.
func TestATransactionListsRecords(t *testing.T) {
	t.Parallel()
	s, scope, kind := storetest.New(t), store.AccountScope("111122223333"), store.Type{Name: "user", Schema: 1, Members: []string{"n"}}
	keys := func(list []store.Record) (out []string) {
		for _, r := range list {
			out = append(out, strings.TrimPrefix(r.Key, scope.String()+"/"))
		}
		return out
	}
	if _, err := s.Update(context.Background(), []store.Scope{scope}, func(tx *store.Tx) error {
		for _, name := range []string{"b", "a", "c"} {
			tx.PutRecord(kind, scope.Tail("user", name), map[string]int{"n": 1})
		}
		tx.PutRecord(kind, scope.Tail("users"), map[string]int{"n": 1})
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Update(context.Background(), []store.Scope{scope}, func(tx *store.Tx) error {
		tx.DeleteRecord(kind, scope.Tail("user", "b"))
		tx.PutRecord(kind, scope.Tail("user", "aa"), map[string]int{"n": 1})
		if diff := cmp.Diff([]string{"user/a", "user/aa", "user/c"}, keys(tx.Records(scope.Tail("user")+"/"))); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}
