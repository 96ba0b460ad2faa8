package audit_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/audit"
	"github.com/evermesh/evermesh/internal/audit/segment"
	"github.com/evermesh/evermesh/internal/service"
	"github.com/evermesh/evermesh/internal/store"
	"github.com/evermesh/evermesh/internal/testenv"
)

// away is a store that fails when it is told to.
type away struct {
	*store.Store
	reads, removes atomic.Bool
	removed        atomic.Int64
}

var errAway = errors.New("the store is away")

// Outbox satisfies audit.Outbox.
func (a *away) Outbox(ctx context.Context, after string, limit int) ([]store.Event, bool, error) {
	if a.reads.Load() {
		return nil, false, errAway
	}
	return a.Store.Outbox(ctx, after, limit)
}

// Moved satisfies audit.Outbox.
func (a *away) Moved(ctx context.Context, keys []string) error {
	if a.removes.Load() {
		return errAway
	}
	a.removed.Add(1)
	return a.Store.Moved(ctx, keys)
}

func waiting(t testing.TB, s *store.Store) int {
	t.Helper()
	events, _, err := s.Outbox(context.Background(), "", 1000)
	if err != nil {
		t.Fatal(err)
	}
	return len(events)
}

// recently is a call that was made just now.
func recently(operation string) (r service.Record) {
	r = call(0, operation)
	r.At = time.Now()
	return r
}

func TestEventsOfWritesAreMovedTogether(t *testing.T) {
	r := replicas(t, 1)[0]
	held := &away{Store: r.store}
	r.mover.Store = held
	stop := running(t, r.mover.Run)
	testenv.Eventually(t, "events are moved", func() bool {
		r.commit(t, recently("First"))
		return r.mover.Moved() > 0
	})
	before, groups, began := r.mover.Moved(), held.removed.Load(), time.Now()
	for i := range 200 {
		r.commit(t, recently(fmt.Sprint("Call", i)))
	}
	testenv.Eventually(t, "all are moved", func() bool { return waiting(t, r.store) == 0 })
	stop()
	moved, in := r.mover.Moved()-before, held.removed.Load()-groups
	t.Logf("%d events were moved in %d batches", moved, in)
	// They gather for 100 ms, however long a busy machine takes to write them.
	if most := 3 + int64(time.Since(began)/(100*time.Millisecond)); moved < 200 || in > most {
		t.Errorf("%d events were moved in %d batches, want at most %d", moved, in, most)
	}
	seen := map[any]int{}
	for _, e := range all(t, r.log, account) {
		seen[e["eventName"]]++
	}
	for i := range 200 {
		if n := seen[fmt.Sprint("Call", i)]; n != 1 {
			t.Errorf("Call%d is there %d times", i, n)
		}
	}
}

func TestTheLastWriteIsMovedAtTheEnd(t *testing.T) {
	r := replicas(t, 1)[0]
	stop := running(t, r.mover.Run)
	testenv.Eventually(t, "the mover works", func() bool {
		r.commit(t, recently("First"))
		return r.mover.Moved() > 0
	})
	r.commit(t, recently("Last"))
	stop()
	if n := waiting(t, r.store); n != 0 {
		t.Errorf("%d events are left", n)
	}
	if last := all(t, r.log, account)[0]; last["eventName"] != "Last" {
		t.Errorf("the last event is %v", last["eventName"])
	}
}

// A store that is away keeps nothing from being moved; what is moved twice is
// found once.
func TestEventsThatCannotBeRemovedAreFoundOnce(t *testing.T) {
	r := replicas(t, 1)[0]
	held := &away{Store: r.store}
	r.mover.Store = held
	held.removes.Store(true)
	stop := running(t, r.mover.Run)
	testenv.Eventually(t, "the mover works", func() bool {
		r.commit(t, recently("First"))
		return r.log.Stats().Entries > 0
	})
	r.commit(t, recently("Second"))
	testenv.Eventually(t, "it is on the disk", func() bool { return len(named(t, r, "Second")) == 1 })
	if waiting(t, r.store) == 0 {
		t.Error("nothing waits")
	}
	if got, _, err := r.lookup(t, account, map[string]any{"LookupAttributes": []any{map[string]any{"AttributeKey": "EventName", "AttributeValue": "Second"}}}); err != nil || len(got) != 1 {
		t.Errorf("a lookup finds %q, error %v", got, err)
	}
	stop() // as if it were killed
	held.removes.Store(false)
	again := &audit.Mover{Store: r.store, Log: r.log, Alone: true, Logger: quiet(), Now: time.Now}
	running(t, again.Run)
	testenv.Eventually(t, "the next start moves them", func() bool { return waiting(t, r.store) == 0 })
	if got := named(t, r, "Second"); len(got) != 1 {
		t.Errorf("it is found %d times", len(got))
	}
}

func named(t testing.TB, r *replica, operation string) (out []map[string]any) {
	for _, e := range all(t, r.log, account) {
		if e["eventName"] == operation {
			out = append(out, e)
		}
	}
	return out
}

// What a replica left that is gone, others move when it is old, and not before.
func TestEventsOfAReplicaThatIsGoneAreMovedByAnother(t *testing.T) {
	of := replicas(t, 2)
	old, young := call(0, "Old"), recently("Young")
	of[0].commit(t, old) // and is gone
	of[0].commit(t, young)
	running(t, of[1].mover.Run)
	testenv.Eventually(t, "the old one is moved", func() bool { return waiting(t, of[1].store) == 1 })
	if got := named(t, of[1], "Old"); len(got) != 1 || len(named(t, of[1], "Young")) != 0 {
		t.Errorf("moved are %v", all(t, of[1].log, account))
	}
	testenv.Eventually(t, "the young one is counted", func() bool { return of[1].mover.Waiting() == 1 })
}

// An event that this release cannot read stays for one that can.
func TestAnEventThatCannotBeReadStays(t *testing.T) {
	r := replicas(t, 1)[0]
	r.mover.Alone = true
	scope := store.AccountScope(account)
	if _, err := r.store.Update(context.Background(), []store.Scope{scope}, func(tx *store.Tx) error {
		tx.Outbox([]byte("of a newer release"))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	r.commit(t, call(0, "Call"))
	running(t, r.mover.Run)
	testenv.Eventually(t, "the other is moved", func() bool { return r.mover.Moved() == 1 })
	if n := waiting(t, r.store); n != 1 {
		t.Errorf("%d events wait", n)
	}
	var found []segment.Entry
	if got, err := r.log.Scan(context.Background(), segment.Query{Account: account, Limit: 10}); err != nil || len(got.Entries) != 1 {
		t.Errorf("found are %v, error %v", found, err)
	}
}
