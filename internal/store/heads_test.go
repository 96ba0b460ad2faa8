package store_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/evermesh/evermesh/internal/store"
	"github.com/evermesh/evermesh/internal/store/storetest"
)

// Whoever waits for a watch of records to reach its head waits for changes of these
// records and for nothing else, whichever replica writes them.
func TestHeadsAreChangesThatWatchesTell(t *testing.T) {
	t.Parallel()
	replicas := storetest.Replicas(t, 2)
	ctx := context.Background()
	tails := []string{"mesh/", "account/", "service/ram/", "service/other/"}
	thing := store.Type{Name: "thing", Schema: 1}
	account, share, other := store.AccountScope(owner), store.HeadedScope("ram", owner), store.ServiceScope("other", owner)
	want := make([]int64, len(tails))
	is := func(when string) {
		t.Helper()
		got, err := replicas[1].Heads(ctx, tails...)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s, the heads of %q differ: %s", when, tails, diff)
		}
	}
	update := func(fn func(tx *store.Tx), scopes ...store.Scope) int64 {
		t.Helper()
		revision, err := replicas[0].Update(ctx, scopes, func(tx *store.Tx) error { fn(tx); return nil })
		if err != nil {
			t.Fatal(err)
		}
		return revision
	}
	is("before the first write")
	want[0] = put(t, replicas[0], resource(t, nodeKey("m", "n"), 1))
	is("after a write of a resource")
	want[1] = update(func(tx *store.Tx) { tx.PutRecord(thing, account.Tail("x"), struct{}{}) }, account)
	is("after a write of an account")
	update(func(tx *store.Tx) { tx.Outbox([]byte("event")) }, account)
	update(func(tx *store.Tx) { tx.DeleteRecord(thing, account.Tail("none")) }, account)
	update(func(tx *store.Tx) { tx.PutRecord(thing, other.Tail("x"), struct{}{}) }, other, account)
	is("after writes that change no record of an account")
	both := update(func(tx *store.Tx) {
		for _, s := range []store.Scope{share, store.HeadedScope("ram", "another"), account} {
			tx.PutRecord(thing, s.Tail("y"), struct{}{})
		}
	}, share, store.HeadedScope("ram", "another"), account)
	want[1], want[2] = both, both
	is("after a write of a few scopes")

	// A watch that has taken the batch at the head has all.
	told := make(chan int64, 16)
	watching, stop := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = replicas[1].WatchRecords(watching, "account/", func(b store.RecordBatch) error { told <- b.Revision; return nil })
	}()
	defer func() { stop(); <-ended }()
	if first := <-told; first < want[1] {
		t.Errorf("the watch begins at %d, before the head %d", first, want[1])
	}
	for _, tail := range []string{"x", "y"} { // the last one leaves the scope empty
		want[1] = update(func(tx *store.Tx) { tx.DeleteRecord(thing, account.Tail(tail)) }, account)
		is(fmt.Sprintf("after the delete of %s", tail))
		if got := <-told; got != want[1] {
			t.Errorf("the watch tells of %d, the head is %d", got, want[1])
		}
	}
}
