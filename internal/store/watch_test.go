package store_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/evermesh/evermesh/internal/store"
	"github.com/evermesh/evermesh/internal/store/storetest"
)

// patience is how long a test waits for what must happen; much, because a machine may be busy.
const patience = 30 * time.Second

// watched is a watch that a test reads batch by batch.
type watched struct {
	batches chan store.Batch
	stop    context.CancelFunc
	done    chan error
}

// watch starts a watch that ends with the test. It holds one batch at a time.
func watch(t testing.TB, s *store.Store) *watched {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	w := &watched{batches: make(chan store.Batch), stop: stop, done: make(chan error, 1)}
	go func() {
		w.done <- s.Watch(ctx, func(b store.Batch) error {
			select {
			case w.batches <- b:
			case <-ctx.Done():
			}
			return nil
		})
	}()
	t.Cleanup(func() {
		stop()
		if err := <-w.done; !errors.Is(err, context.Canceled) {
			t.Errorf("Watch returned %v", err)
		}
	})
	return w
}

func (w *watched) next(t testing.TB) store.Batch {
	t.Helper()
	select {
	case b := <-w.batches:
		return b
	case <-time.After(patience):
		t.Fatal("no batch came")
		return store.Batch{}
	}
}

// brief writes a batch in a few words.
func brief(b store.Batch) string {
	text := ""
	if b.Reset {
		text = "reset"
	}
	for _, c := range b.Changes {
		if c.New == nil {
			text += fmt.Sprintf(" -%s", c.Key.Name)
		} else {
			text += fmt.Sprintf(" +%s%d", c.Key.Name, c.New.Version)
		}
	}
	return text
}

func TestWatchTellsEverythingAndThenEachRevision(t *testing.T) {
	replicas := storetest.Replicas(t, 2)
	s, other := replicas[0], replicas[1]
	put(t, s, resource(t, nodeKey("m", "a"), 1), resource(t, nodeKey("m", "b"), 1))
	w := watch(t, s)
	first := w.next(t)
	if got := brief(first); got != "reset +a1 +b1" {
		t.Fatalf("first batch is %q", got)
	}
	// Rows and tokens are no changes of resources.
	if err := s.Write(context.Background(), false, []store.Op{{Key: "endpoints/x", Value: []byte("1")}}); err != nil {
		t.Fatal(err)
	}
	var want []string
	var revisions []int64
	for i := range 30 {
		r := put(t, other, resource(t, nodeKey("m", "a"), int64(i)), resource(t, nodeKey("m", "b"), int64(i)))
		want, revisions = append(want, fmt.Sprintf(" +a%d +b%d", i, i)), append(revisions, r)
	}
	r, err := other.Update(context.Background(), scopes("m"), func(tx *store.Tx) error {
		tx.Delete(nodeKey("m", "a"))
		tx.Put(resource(t, nodeKey("m", "c"), 1))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	want, revisions = append(want, " -a +c1"), append(revisions, r)
	for i := range want {
		b := w.next(t)
		if brief(b) != want[i] || b.Reset || b.Revision != revisions[i] {
			t.Fatalf("batch %d is %q at %d, reset %v, want %q at %d", i, brief(b), b.Revision, b.Reset, want[i], revisions[i])
		}
		for _, c := range b.Changes {
			if c.New != nil && c.New.Revision != b.Revision {
				t.Errorf("resource of revision %d in batch %d", c.New.Revision, b.Revision)
			}
		}
	}
	if first.Revision >= revisions[0] {
		t.Errorf("reset is at %d, the next change at %d", first.Revision, revisions[0])
	}
}

func TestWatchOfAnEmptyStoreBeginsWithAReset(t *testing.T) {
	s := storetest.New(t)
	if b := watch(t, s).next(t); !b.Reset || len(b.Changes) != 0 {
		t.Errorf("first batch is %+v", b)
	}
}

// A watcher that missed what was compacted away starts over, and is told of
// what is gone by its absence.
func TestWatchResetsAfterCompaction(t *testing.T) {
	s := storetest.New(t)
	client, _ := s.Etcd()
	put(t, s, resource(t, nodeKey("m", "gone"), 1), resource(t, nodeKey("m", "stays"), 1))
	blocked := make(chan struct{})
	batches := make(chan store.Batch, 100)
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	done := make(chan error, 1)
	first := true
	go func() {
		done <- s.Watch(ctx, func(b store.Batch) error {
			batches <- b
			if first {
				first = false
				<-blocked // between the reset and the watch: the slowest of readers
			}
			return nil
		})
	}()
	<-batches
	var last int64
	if _, err := s.Update(ctx, scopes("m"), func(tx *store.Tx) error { tx.Delete(nodeKey("m", "gone")); return nil }); err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		last = put(t, s, resource(t, nodeKey("m", "stays"), int64(i)))
	}
	if _, err := client.Compact(ctx, last); err != nil {
		t.Fatal(err)
	}
	close(blocked)
	select {
	case b := <-batches:
		if got := brief(b); got != "reset +stays4" || b.Revision < last {
			t.Errorf("after compaction comes %q at %d", got, b.Revision)
		}
	case <-time.After(patience):
		t.Fatal("no reset came")
	}
	next := put(t, s, resource(t, nodeKey("m", "stays"), 9))
	if b := <-batches; brief(b) != " +stays9" || b.Revision != next {
		t.Errorf("after the reset comes %q at %d, want the change at %d", brief(b), b.Revision, next)
	}
	stop()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("Watch returned %v", err)
	}
}

func TestWatchEndsWithTheFunctionsError(t *testing.T) {
	s := storetest.New(t)
	no := errors.New("no")
	if err := s.Watch(context.Background(), func(store.Batch) error { return no }); !errors.Is(err, no) {
		t.Errorf("a refused reset: Watch returned %v", err)
	}
	done := make(chan error, 1)
	ready := make(chan struct{})
	go func() {
		done <- s.Watch(context.Background(), func(b store.Batch) error {
			if b.Reset {
				close(ready)
				return nil
			}
			return no
		})
	}()
	<-ready
	put(t, s, resource(t, nodeKey("m", "n"), 1))
	if err := <-done; !errors.Is(err, no) {
		t.Errorf("a refused change: Watch returned %v", err)
	}
}

// Whoever waits for the watch to reach the head, as a fresh stream does, waits
// for changes of resources and for nothing else.
func TestTheHeadIsAChangeThatTheWatchTells(t *testing.T) {
	s := storetest.New(t)
	ctx := context.Background()
	head := func() int64 {
		t.Helper()
		h, err := s.Head(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	if got := head(); got != 0 {
		t.Errorf("head of an empty store is %d", got)
	}
	revision := put(t, s, resource(t, nodeKey("m", "n"), 1))
	if got := head(); got != revision {
		t.Errorf("head is %d after a change at %d", got, revision)
	}
	if err := s.Write(ctx, true, []store.Op{{Key: "ledger/x", Value: []byte("1")}}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Update(ctx, []store.Scope{store.AccountScope(owner)}, func(tx *store.Tx) error {
		tx.PutRecord(store.Type{Name: "thing", Schema: 1}, store.AccountScope(owner).Tail("x"), struct{}{})
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if got := head(); got != revision {
		t.Errorf("head is %d after writes that change no resource, was %d", got, revision)
	}
	w := watch(t, s)
	if b := w.next(t); b.Revision < revision {
		t.Errorf("reset is at %d, head at %d", b.Revision, revision)
	}
	gone, err := s.Update(ctx, scopes("m"), func(tx *store.Tx) error { tx.Delete(nodeKey("m", "n")); return nil })
	if err != nil {
		t.Fatal(err)
	}
	if got := head(); got != gone {
		t.Errorf("head is %d after the delete at %d", got, gone)
	}
	if b := w.next(t); b.Revision != gone {
		t.Errorf("batch is at %d, head at %d", b.Revision, gone)
	}
}

// What only a newer release can read is left as it was.
func TestWatchLeavesOutWhatItCannotRead(t *testing.T) {
	s := storetest.New(t)
	key := nodeKey("m", "n")
	put(t, s, resource(t, key, 1))
	w := watch(t, s)
	w.next(t)
	rewrite(t, s, "mesh/"+key.String(), func(value map[string]any) { value["schema"], value["body"] = 2, "?" })
	if b := w.next(t); len(b.Changes) != 0 || b.Reset {
		t.Errorf("batch is %q", brief(b))
	}
	put(t, s, resource(t, nodeKey("other", "n"), 1))
	if got := brief(w.next(t)); got != " +n1" {
		t.Errorf("batch is %q", got)
	}
	if got := brief(watch(t, s).next(t)); got != "reset +n1" {
		t.Errorf("a new watch begins with %q", got)
	}
}

func TestRecordsAreWatched(t *testing.T) {
	s := storetest.New(t)
	scope := store.AccountScope(owner)
	kind := store.Type{Name: "thing", Schema: 1, Members: []string{"a"}}
	update := func(fn func(tx *store.Tx)) {
		t.Helper()
		if _, err := s.Update(context.Background(), []store.Scope{scope}, func(tx *store.Tx) error { fn(tx); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	update(func(tx *store.Tx) { tx.PutRecord(kind, scope.Tail("x"), map[string]int{"a": 1}) })
	ctx, stop := context.WithCancel(context.Background())
	got, done := make(chan string), make(chan error, 1)
	go func() {
		done <- s.WatchRecords(ctx, "account/", func(b store.RecordBatch) error {
			text := fmt.Sprintf("%v", b.Reset)
			for _, r := range b.Records {
				text += " " + r.Key + "=" + string(r.Body)
			}
			for _, tail := range b.Gone {
				text += " -" + tail
			}
			got <- text
			return nil
		})
	}()
	if diff := cmp.Diff("true account/"+owner+`/x={"a":1}`, <-got); diff != "" {
		t.Error(diff)
	}
	update(func(tx *store.Tx) {
		tx.PutRecord(kind, scope.Tail("y"), map[string]int{"a": 2})
		tx.DeleteRecord(kind, scope.Tail("x"))
		if tx.Record(scope.Tail("x")) != nil || string(tx.Record(scope.Tail("y")).Body) != `{"a":2}` {
			t.Error("a transaction does not read its own writes")
		}
	})
	if diff := cmp.Diff("false account/"+owner+`/y={"a":2} -account/`+owner+"/x", <-got); diff != "" {
		t.Error(diff)
	}
	stop()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("WatchRecords returned %v", err)
	}
}
