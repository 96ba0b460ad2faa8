package audit

import (
	"context"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/evermesh/evermesh/internal/audit/segment"
	"github.com/evermesh/evermesh/internal/store"
)

const (
	// gather is how long events gather before they are moved together.
	gather = 100 * time.Millisecond
	// sweepEvery is how often the outbox is read for events that nobody moved, and
	// orphaned how old they are then: whoever wrote them had the time to.
	sweepEvery = 30 * time.Second
	orphaned   = time.Minute
	// page is how many events are read at once.
	page = 500
)

// Outbox is where events of writes wait; *store.Store is one.
type Outbox interface {
	Outgoing() <-chan struct{}
	Committed() []store.Event
	Outbox(ctx context.Context, after string, limit int) (events []store.Event, more bool, err error)
	Moved(ctx context.Context, keys []string) error
}

// Mover takes events of writes from the outbox to the segments. Each replica moves
// what it committed; what a replica left behind, any other does. An event leaves
// the outbox after it is on a disk: if that is interrupted it is on two, under one
// id, which lookups tell.
type Mover struct {
	Store Outbox
	Log   *segment.Log
	// Alone says that no other replica can be there: what is in the outbox at the
	// start is nobody else's.
	Alone  bool
	Logger *slog.Logger
	Now    func() time.Time

	moved, waits atomic.Int64
	kept         []string // keys of events that are on the disk, and in the outbox yet
}

// Moved is how many events were moved.
func (m *Mover) Moved() int64 { return m.moved.Load() }

// Waiting is how many events waited in the outbox, by the last look at it.
func (m *Mover) Waiting() int64 { return m.waits.Load() }

// Run moves events until ctx ends, and then what this replica has committed.
func (m *Mover) Run(ctx context.Context) error {
	wake := m.Store.Outgoing()
	sweep := time.NewTicker(sweepEvery)
	defer sweep.Stop()
	m.sweep(ctx, m.Alone)
	for {
		select {
		case <-wake:
			if pause(ctx, gather); ctx.Err() == nil {
				m.take(ctx)
			}
		case <-sweep.C:
			m.sweep(ctx, false)
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWait)
			defer cancel()
			m.take(last)
			return nil
		}
	}
}

// lastWait bounds how long a replica that ends waits for its store; what is left
// there is moved by another, or after the next start.
const lastWait = 2 * time.Second

// take moves what this process committed.
func (m *Mover) take(ctx context.Context) { m.move(ctx, m.Store.Committed()) }

// sweep moves what is left in the outbox: all of it, or what is old.
func (m *Mover) sweep(ctx context.Context, all bool) {
	var waits int64
	oldest := m.Now().Add(-orphaned).UnixMicro()
	for after := ""; ; {
		events, more, err := m.Store.Outbox(ctx, after, page)
		if err != nil {
			if ctx.Err() == nil {
				m.Logger.Warn("outbox was not read", "err", err)
			}
			return
		}
		var left []store.Event
		for _, e := range events {
			after = e.Key
			entries, _ := unpacked(e.Value)
			if all || len(entries) == 0 || entries[0].At < oldest {
				left = append(left, e)
			}
		}
		waits += int64(len(events) - m.move(ctx, left))
		if !more {
			break
		}
	}
	m.waits.Store(waits)
}

// move keeps events and removes them from the outbox, and says how many.
func (m *Mover) move(ctx context.Context, events []store.Event) int {
	var entries []segment.Entry
	var keys []string
	for _, e := range events {
		of, err := unpacked(e.Value)
		if err != nil {
			// A newer release has other lines: what cannot be read is left to it.
			m.Logger.Error("event in the outbox cannot be read and stays there", "key", e.Key, "err", err)
			continue
		}
		if !slices.Contains(m.kept, e.Key) {
			entries = append(entries, of...)
		}
		keys = append(keys, e.Key)
	}
	// What is begun is ended: the disk does not take long.
	if err := m.Log.Append(context.WithoutCancel(ctx), entries...); err != nil {
		return 0 // the log has said why; a sweep finds them in the outbox
	}
	keys = append(keys, m.kept...)
	if err := m.Store.Moved(ctx, keys); err != nil {
		if ctx.Err() == nil {
			m.Logger.Warn("events that are kept were not removed from the outbox", "err", err)
		}
		m.kept = keys[max(0, len(keys)-page):] // of more than that, a sweep keeps some twice
		return 0
	}
	m.kept = nil
	m.moved.Add(int64(len(keys)))
	return len(keys)
}
