package store_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/store"
	"github.com/evermesh/evermesh/internal/store/storetest"
)

func scopes(mesh string) []store.Scope { return []store.Scope{store.MeshScope(owner, mesh)} }

// raise counts a resource's version up by one, as an update does.
func raise(s *store.Store, key api.Key) error {
	_, err := s.Update(context.Background(), scopes(key.Mesh), func(tx *store.Tx) error {
		made := *tx.Get(key)
		made.Version++
		tx.Put(&made)
		return nil
	})
	return err
}

func isAPI(err error, code string) bool {
	var refusal *api.Error
	return errors.As(err, &refusal) && refusal.Code == code
}

// No update is lost, whichever replica it went through.
func TestConflictingUpdatesAllHappen(t *testing.T) {
	const each = 50
	key, replicas := nodeKey("m", "n"), storetest.Replicas(t, 2)
	put(t, replicas[0], resource(t, key, 0))
	var writers sync.WaitGroup
	for _, s := range replicas {
		for range 2 {
			writers.Go(func() {
				for range each {
					if err := raise(s, key); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
	writers.Wait()
	if got := get(t, replicas[0], key).Version; got != 4*each {
		t.Errorf("version is %d after %d updates", got, 4*each)
	}
}

// A transaction runs again on what another replica wrote after it read.
func TestAConflictIsRunAgain(t *testing.T) {
	server, prefix := storetest.Server(t)
	conflicts := -1
	s := storetest.Open(t, store.Options{Server: server, Prefix: prefix, Observe: func(_ time.Duration, n int) { conflicts = n }})
	rival := storetest.Open(t, store.Options{Server: server, Prefix: prefix})
	key := nodeKey("m", "n")
	put(t, s, resource(t, key, 0))
	var seen []int64
	if _, err := s.Update(context.Background(), scopes("m"), func(tx *store.Tx) error {
		made := *tx.Get(key)
		if seen = append(seen, made.Version); len(seen) < 3 {
			if err := raise(rival, key); err != nil {
				return err
			}
		}
		made.Version += 100
		tx.Put(&made)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]int64{0, 1, 2}, seen); diff != "" || conflicts != 2 {
		t.Errorf("%d conflicts; versions that the function saw (-want +got):\n%s", conflicts, diff)
	}
	if got := get(t, rival, key).Version; got != 102 {
		t.Errorf("version is %d, want 102", got)
	}
}

func TestAWriteWithoutARivalIsOneRoundTrip(t *testing.T) {
	replicas := storetest.Replicas(t, 2)
	s := replicas[0]
	key := nodeKey("m", "n")
	put(t, s, resource(t, key, 0))
	trips := s.RoundTrips()
	for _, c := range []struct {
		name string
		want int64
		do   func() error
	}{
		{"update", 1, func() error { return raise(s, key) }},
		{"refusal", 1, func() error {
			_, err := s.Update(context.Background(), scopes("m"), func(*store.Tx) error { return errors.New("no") })
			if err == nil || err.Error() != "no" {
				return fmt.Errorf("got %w, want no", err)
			}
			return nil
		}},
		{"update behind another replica's: one that fails, one to see why, one to write", 3, func() error {
			if err := raise(replicas[1], key); err != nil {
				return err
			}
			return raise(s, key)
		}},
		{"update again", 1, func() error { return raise(s, key) }},
	} {
		before := trips.Load()
		if err := c.do(); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if got := trips.Load() - before; got != c.want {
			t.Errorf("%s: %d round trips, want %d", c.name, got, c.want)
		}
	}
}

// What a replica remembers is never the reason of a refusal.
func TestARefusalComesFromTheNewestState(t *testing.T) {
	replicas := storetest.Replicas(t, 2)
	a, b := replicas[0], replicas[1]
	key := nodeKey("m", "n")
	put(t, a, resource(t, key, 1))
	exists := func(s *store.Store, key api.Key) (found bool) {
		_, err := s.Update(context.Background(), scopes("m"), func(tx *store.Tx) error {
			if found = tx.Get(key) != nil; !found {
				return errors.New("absent")
			}
			return nil
		})
		if found != (err == nil) {
			t.Fatalf("found %v, error %v", found, err)
		}
		return found
	}
	if !exists(b, key) {
		t.Fatal("replica b does not see what a made")
	}
	if _, err := a.Update(context.Background(), scopes("m"), func(tx *store.Tx) error { tx.Delete(key); return nil }); err != nil {
		t.Fatal(err)
	}
	if exists(b, key) {
		t.Error("replica b decides by what it remembered, though a deleted it")
	}
	put(t, a, resource(t, key, 1), resource(t, nodeKey("m", "other"), 1))
	if !exists(b, key) || !exists(b, nodeKey("m", "other")) {
		t.Error("replica b decides by what it remembered, though a made it")
	}
}

func TestARefusedTransactionWritesNothing(t *testing.T) {
	s := storetest.New(t)
	refusal := errors.New("no")
	if _, err := s.Update(context.Background(), scopes("m"), func(tx *store.Tx) error {
		tx.Put(resource(t, nodeKey("m", "n"), 1))
		tx.Claim(store.Token{Key: "k", Result: json.RawMessage("1")})
		return refusal
	}); !errors.Is(err, refusal) {
		t.Errorf("got error %v", err)
	}
	all, err := s.Read(context.Background(), "")
	if err != nil || len(all) != 0 {
		t.Errorf("stored %v, error %v", all, err)
	}
}

func TestATransactionReadsItsOwnWrites(t *testing.T) {
	s := storetest.New(t)
	m := meshKey("m")
	route := func(router, name string) api.Key { return m.In(api.KindRoute, router, name) }
	put(t, s, resource(t, m, 1), resource(t, route("r", "b"), 1), resource(t, route("r", "d"), 1), resource(t, route("other", "x"), 1))
	_, err := s.Update(context.Background(), scopes("m"), func(tx *store.Tx) error {
		tx.Put(resource(t, route("r", "c"), 1))
		tx.Put(resource(t, route("r", "a"), 1))
		tx.Put(resource(t, route("r", "b"), 2))
		tx.Delete(route("r", "d"))
		tx.Delete(route("r", "d")) // twice is as once
		tx.Put(resource(t, route("r", "never"), 1))
		tx.Delete(route("r", "never"))
		tx.Delete(route("r", "absent"))
		var got []string
		for _, r := range tx.List(api.KindRoute, m.In(api.KindVirtualRouter, "", "r")) {
			got = append(got, fmt.Sprintf("%s %d", r.Key.Name, r.Version))
		}
		if diff := cmp.Diff([]string{"a 1", "b 2", "c 1"}, got); diff != "" {
			t.Errorf("routes of r (-want +got):\n%s", diff)
		}
		if tx.Get(route("r", "d")) != nil || tx.Get(route("r", "never")) != nil || tx.Get(route("r", "b")).Version != 2 {
			t.Error("Get does not see the transaction's writes")
		}
		if got := tx.List(api.KindMesh, api.Key{Owner: owner}); len(got) != 1 || got[0].Key != m {
			t.Errorf("meshes are %v", got)
		}
		if got := tx.List(api.KindMesh, api.Key{Owner: "000000000000"}); len(got) != 0 {
			t.Errorf("meshes of another account are %v", got)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	items, more, err := s.List(context.Background(), api.KindRoute, route("r", ""), "", 0)
	if err != nil || more || len(items) != 3 {
		t.Errorf("stored are %v, more %v, error %v", items, more, err)
	}
}

func TestATransactionStaysInItsScopes(t *testing.T) {
	s := storetest.New(t)
	for name, touch := range map[string]func(tx *store.Tx){
		"get":         func(tx *store.Tx) { tx.Get(nodeKey("mm", "n")) },
		"put":         func(tx *store.Tx) { tx.Put(resource(t, nodeKey("mm", "n"), 1)) },
		"delete":      func(tx *store.Tx) { tx.Delete(nodeKey("mm", "n")) },
		"list":        func(tx *store.Tx) { tx.List(api.KindVirtualNode, meshKey("mm")) },
		"other owner": func(tx *store.Tx) { tx.Get(api.Key{Owner: "000000000000", Mesh: "m", Kind: api.KindMesh, Name: "m"}) },
	} {
		if _, err := s.Update(context.Background(), scopes("m"), func(tx *store.Tx) error { touch(tx); return nil }); err == nil {
			t.Errorf("%s outside of the scopes is accepted", name)
		}
	}
}

func TestTwoScopesChangeTogether(t *testing.T) {
	s := storetest.New(t)
	a, b := nodeKey("a", "n"), nodeKey("b", "n")
	// Both orders, at once: they must not wait for each other.
	var writers sync.WaitGroup
	for _, names := range [][]string{{"a", "b"}, {"b", "a"}} {
		for range 20 {
			writers.Go(func() {
				_, err := s.Update(context.Background(), append(scopes(names[0]), append(scopes(names[1]), scopes(names[0])...)...), func(tx *store.Tx) error {
					for _, key := range []api.Key{a, b} {
						version := int64(0)
						if r := tx.Get(key); r != nil {
							version = r.Version
						}
						tx.Put(resource(t, key, version+1))
					}
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
	}
	writers.Wait()
	one, two := get(t, s, a), get(t, s, b)
	if one.Version != 40 || two.Version != 40 || one.Revision != two.Revision {
		t.Errorf("versions %d and %d, revisions %d and %d", one.Version, two.Version, one.Revision, two.Revision)
	}
}

// Meshes of equal names in two accounts never meet.
func TestEqualNamesOfTwoAccounts(t *testing.T) {
	s := storetest.New(t)
	mine := resource(t, nodeKey("m", "n"), 1)
	theirs := resource(t, mine.Key, 7)
	theirs.Key.Owner, theirs.Owner = "444455556666", "444455556666"
	put(t, s, mine)
	put(t, s, theirs)
	if one, two := get(t, s, mine.Key), get(t, s, theirs.Key); one.Version != 1 || two.Version != 7 || one.UID == two.UID && one.Owner == two.Owner {
		t.Errorf("got %+v and %+v", one, two)
	}
	if _, err := s.Update(context.Background(), []store.Scope{store.MeshScope("444455556666", "m")}, func(tx *store.Tx) error { tx.Delete(theirs.Key); return nil }); err != nil {
		t.Fatal(err)
	}
	if get(t, s, mine.Key) == nil || get(t, s, theirs.Key) != nil {
		t.Error("a delete in one account shows in the other")
	}
}

func TestClientTokens(t *testing.T) {
	replicas := storetest.Replicas(t, 2)
	ctx := context.Background()
	key := nodeKey("m", "n")
	claim := func(s *store.Store, fingerprint string) (int64, error) {
		return s.Update(ctx, scopes("m"), func(tx *store.Tx) error {
			tx.Put(resource(t, key, 1))
			tx.Claim(store.Token{Key: "token of/an account", Fingerprint: fingerprint, Result: json.RawMessage(`{"a":"<b>"}`)})
			return nil
		})
	}
	if got, err := replicas[0].Token(ctx, "token of/an account"); got != nil || err != nil {
		t.Fatalf("a token that nobody claimed is %v, error %v", got, err)
	}
	revision, err := claim(replicas[0], "f")
	if err != nil {
		t.Fatal(err)
	}
	want := store.Token{Key: "token of/an account", Fingerprint: "f", Result: json.RawMessage(`{"a":"<b>"}`), Revision: revision}
	for i, s := range replicas {
		var taken *store.TokenTaken
		if _, err := claim(s, "g"); !errors.As(err, &taken) {
			t.Fatalf("replica %d: got error %v, want TokenTaken", i, err)
		}
		if diff := cmp.Diff(want, taken.Token); diff != "" {
			t.Errorf("replica %d: token (-want +got):\n%s", i, diff)
		}
		got, err := s.Token(ctx, want.Key)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(&want, got); diff != "" {
			t.Errorf("replica %d: token (-want +got):\n%s", i, diff)
		}
		if got := get(t, s, key); got.Revision != revision {
			t.Errorf("replica %d: a write with a taken token happened at %d", i, got.Revision)
		}
	}
	client, name := replicas[0].Etcd()
	resp, err := client.Get(ctx, name("token/"+want.Key))
	if err != nil {
		t.Fatal(err)
	}
	lease, err := client.TimeToLive(ctx, clientv3.LeaseID(resp.Kvs[0].Lease))
	if err != nil {
		t.Fatal(err)
	}
	if kept := time.Duration(lease.TTL) * time.Second; kept < 8*time.Hour || kept > 9*time.Hour {
		t.Errorf("the token is kept for %v, want 8 to 9 hours", kept)
	}
}

// A claim takes the place of the token that it names, of no other, and is refused when
// that one is another or none by now.
func TestClaimsThatReplace(t *testing.T) {
	replicas := storetest.Replicas(t, 2)
	ctx := context.Background()
	claim := func(s *store.Store, replaces int64, result string) (int64, error) {
		return s.Update(ctx, scopes("m"), func(tx *store.Tx) error {
			tx.Claim(store.Token{Key: "k", Result: json.RawMessage(result), Revision: replaces})
			return nil
		})
	}
	taken := func(err error) store.Token {
		t.Helper()
		var taken *store.TokenTaken
		if !errors.As(err, &taken) {
			t.Fatalf("got error %v, want TokenTaken", err)
		}
		return taken.Token
	}
	if _, err := claim(replicas[0], 7, "0"); taken(err).Revision != 0 {
		t.Errorf("a claim that replaces what is not there: %v", err)
	}
	first, err := claim(replicas[0], 0, "1")
	if err != nil {
		t.Fatal(err)
	}
	second, err := claim(replicas[1], first, "2")
	if err != nil {
		t.Fatal(err)
	}
	for _, replaces := range []int64{0, first} {
		_, err := claim(replicas[0], replaces, "3")
		if diff := cmp.Diff(store.Token{Key: "k", Result: json.RawMessage("2"), Revision: second}, taken(err)); diff != "" {
			t.Errorf("a claim that replaces %d (-want +got):\n%s", replaces, diff)
		}
	}
}

// A lease that is gone, after a restored backup say, is replaced.
func TestTokensOutliveALostLease(t *testing.T) {
	s := storetest.New(t)
	ctx := context.Background()
	claim := func(key string) error {
		_, err := s.Update(ctx, scopes("m"), func(tx *store.Tx) error {
			tx.Claim(store.Token{Key: key, Result: json.RawMessage("1")})
			return nil
		})
		return err
	}
	if err := claim("a"); err != nil {
		t.Fatal(err)
	}
	client, name := s.Etcd()
	resp, err := client.Get(ctx, name("token/a"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Revoke(ctx, clientv3.LeaseID(resp.Kvs[0].Lease)); err != nil {
		t.Fatal(err)
	}
	if err := claim("b"); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Token(ctx, "b"); err != nil || got == nil {
		t.Errorf("token b is %v, error %v", got, err)
	}
}

func TestTheQueueOfAScopeIsBounded(t *testing.T) {
	s := storetest.New(t)
	inside, finish := make(chan struct{}), make(chan struct{})
	results := make(chan error, store.QueueLimit+2)
	go func() {
		_, err := s.Update(context.Background(), scopes("m"), func(*store.Tx) error {
			close(inside)
			<-finish
			return nil
		})
		results <- err
	}()
	<-inside
	for range store.QueueLimit + 1 {
		go func() {
			_, err := s.Update(context.Background(), scopes("m"), func(*store.Tx) error { return nil })
			results <- err
		}()
	}
	if err := <-results; !isAPI(err, api.CodeTooManyRequests) {
		t.Errorf("one writer too many gets %v, want %s", err, api.CodeTooManyRequests)
	}
	if _, err := s.Update(context.Background(), scopes("other"), func(*store.Tx) error { return nil }); err != nil {
		t.Errorf("a writer of another mesh gets %v", err)
	}
	gone, give := context.WithCancel(context.Background())
	give()
	if _, err := s.Update(gone, scopes("m"), func(*store.Tx) error { return nil }); !isAPI(err, api.CodeTooManyRequests) && !errors.Is(err, context.Canceled) {
		t.Errorf("a writer who gave up gets %v", err)
	}
	close(finish)
	for range store.QueueLimit + 1 {
		if err := <-results; err != nil {
			t.Errorf("a writer that waited gets %v", err)
		}
	}
}

// Names that do not exist cost no memory, and a mesh that is gone leaves
// nothing in etcd.
func TestEmptyScopesLeaveNothing(t *testing.T) {
	s := storetest.New(t)
	ctx := context.Background()
	for i := range 100 {
		name := fmt.Sprintf("guessed-%d", i)
		if _, err := s.Update(ctx, scopes(name), func(tx *store.Tx) error { return errors.New("absent") }); err == nil {
			t.Fatal("no error")
		}
	}
	put(t, s, resource(t, meshKey("m"), 1))
	put(t, s, resource(t, nodeKey("m", "n"), 1))
	for _, key := range []api.Key{nodeKey("m", "n"), meshKey("m")} {
		if _, err := s.Update(ctx, scopes("m"), func(tx *store.Tx) error { tx.Delete(key); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	if got := s.Remembered(); got != 0 {
		t.Errorf("%d scopes are remembered", got)
	}
	all, err := s.Read(ctx, "")
	if err != nil {
		t.Fatal(err)
	}
	delete(all, "head")
	if len(all) != 0 {
		t.Errorf("left behind: %v", all)
	}
}

func TestAnEventIsCommittedThoughNothingElseIs(t *testing.T) {
	s := storetest.New(t)
	if _, err := s.Update(context.Background(), scopes("m"), func(tx *store.Tx) error {
		tx.Outbox([]byte("event"))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	got, err := s.Read(context.Background(), "")
	if err != nil || len(got) != 1 {
		t.Errorf("the store holds %v, error %v, want the event alone", got, err)
	}
}

func TestTheOutboxIsCommittedWithTheWrite(t *testing.T) {
	s := storetest.New(t)
	if _, err := s.Update(context.Background(), scopes("m"), func(tx *store.Tx) error {
		tx.Put(resource(t, nodeKey("m", "n"), 1))
		tx.Outbox([]byte("event"))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	got, err := s.Read(context.Background(), "outbox/")
	if err != nil || len(got) != 1 {
		t.Fatalf("outbox holds %v, error %v", got, err)
	}
	for _, value := range got {
		if string(value) != "event" {
			t.Errorf("outbox holds %q", value)
		}
	}
}
