package ledger_test

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/store"
	"github.com/evermesh/evermesh/internal/store/storetest"
)

// counted counts reads of nodes' rows.
type counted struct {
	*store.Store
	reads atomic.Int64
}

func (c *counted) Read(ctx context.Context, prefix string) (map[string][]byte, error) {
	if strings.HasPrefix(prefix, "ledger/rows/") {
		c.reads.Add(1)
	}
	return c.Store.Read(ctx, prefix)
}

// However many watch rollouts of a mesh, its rows are read once after each flush.
func TestWatchersShareWhatIsRead(t *testing.T) {
	s := storetest.New(t)
	revision := resource(t, s, theRoute, anyRoute)
	w := newWorld(s, "a")
	w.Applied(revision - 1)
	w.connect(node("n"), w.proxy(node("n"), "i"))
	w.flush(t)
	c := &counted{Store: s}
	r := reader(s, start)
	now := start
	r.Store, r.Flushed, r.Now = c, w.Changed, func() time.Time { return now }
	watch := func(want string) {
		t.Helper()
		var watchers sync.WaitGroup
		for range 20 {
			watchers.Go(func() {
				if got, err := r.Rollout(t.Context(), theRoute); err != nil || string(got.State) != want {
					t.Errorf("rollout is %v, error %v, want %s", got.State, err, want)
				}
			})
		}
		watchers.Wait()
	}
	watch("WAITING")
	if got := c.reads.Load(); got != 1 {
		t.Errorf("%d reads for 20 watchers", got)
	}
	w.Applied(revision)
	w.flush(t)
	watch("DONE")
	if got := c.reads.Load(); got != 2 {
		t.Errorf("%d reads after a flush", got)
	}
	now = now.Add(time.Second) // what other replicas wrote is seen, too
	watch("DONE")
	if got := c.reads.Load(); got != 3 {
		t.Errorf("%d reads a second later", got)
	}
}

// One watcher that leaves takes nothing from the others.
func TestAWatcherThatLeavesHarmsNobody(t *testing.T) {
	s := storetest.New(t)
	revision := resource(t, s, theRoute, anyRoute)
	w := newWorld(s, "a")
	w.Applied(revision)
	w.flush(t)
	r := reader(s, start)
	gone, leave := context.WithCancel(t.Context())
	r.Store = leaving{s, leave}
	if _, err := r.Rollout(gone, theRoute); err == nil {
		t.Fatal("a watcher that left is answered")
	}
	if got, _ := rollout(t, r); got != "DONE 0/0" {
		t.Errorf("rollout is %s", got)
	}
}

// leaving is a store whose reader leaves while it reads.
type leaving struct {
	*store.Store
	leave func()
}

func (l leaving) Read(ctx context.Context, prefix string) (map[string][]byte, error) {
	l.leave()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return l.Store.Read(ctx, prefix)
}
