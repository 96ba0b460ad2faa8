package audit

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/evermesh/evermesh/internal/audit/segment"
	"github.com/evermesh/evermesh/internal/store"
)

const (
	// budget bounds how much of its segments a replica reads for one page.
	budget = 64 << 20
	// peerWait bounds how long another replica is waited for.
	peerWait = 5 * time.Second
	// mostWaiting bounds how many events of the outbox a lookup reads.
	mostWaiting = 5000
)

// Lookups finds events on all replicas.
type Lookups struct {
	// Logs are this replica's segments.
	Logs  []*segment.Log
	Store Outbox
	// Peers are the other replicas; nil when there are none.
	Peers  *Peers
	Logger *slog.Logger
	Now    func() time.Time

	incomplete atomic.Int64
	// scanning is held by the one lookup that reads segments: however many ask, they
	// do not take the processors from everything else.
	scanning sync.Mutex
}

// Incomplete is how many lookups were answered without some replica.
func (l *Lookups) Incomplete() int64 { return l.incomplete.Load() }

// missing collects the names of replicas that did not answer, and "store" for
// events of writes that are not moved yet.
type missing struct {
	mu    sync.Mutex
	names []string
}

type missingKey struct{}

// watch has the names of replicas that a lookup misses collected; they are to be
// told to who asked.
func watch(ctx context.Context) (_ context.Context, names func() []string) {
	m := &missing{}
	return context.WithValue(ctx, missingKey{}, m), func() []string {
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.names
	}
}

// all asks every replica and puts the answers together. One that does not answer
// is left out, and that is said: who looks for what happened gets what is there.
func (l *Lookups) all(ctx context.Context, q query) (segment.Found, error) {
	// The outbox is read before the segments: an event that is moved meanwhile is
	// seen twice, and counts once.
	newest := segment.Newest{Limit: q.Limit}
	var silent []string
	if err := l.waiting(ctx, q, &newest); err != nil {
		silent = append(silent, "store")
	}
	var answers []segment.Found
	if l.Peers != nil {
		found, others := l.Peers.ask(ctx, q)
		answers, silent = found, append(silent, others...)
	}
	l.tell(ctx, silent)
	own, err := l.own(ctx, q)
	if err != nil {
		return segment.Found{}, err
	}
	return together(newest, append(answers, own)...), nil
}

// together are the newest of several answers, up to where all of them looked.
func together(newest segment.Newest, answers ...segment.Found) segment.Found {
	var until int64
	for _, found := range answers {
		until = max(until, found.Until)
		for _, e := range found.Entries {
			newest.Add(e, false)
		}
	}
	out := segment.Found{Entries: newest.Entries, Until: until}
	for len(out.Entries) > 0 && out.Entries[len(out.Entries)-1].At <= until {
		out.Entries = out.Entries[:len(out.Entries)-1] // others of that time are not known yet
	}
	return out
}

// tell says what a lookup misses.
func (l *Lookups) tell(ctx context.Context, silent []string) {
	if len(silent) == 0 {
		return
	}
	l.incomplete.Add(1)
	l.Logger.Warn("events are missing in a lookup, as not all answer that have some", "replicas", silent)
	if m, ok := ctx.Value(missingKey{}).(*missing); ok {
		m.mu.Lock()
		m.names = append(m.names, silent...)
		m.mu.Unlock()
	}
}

// own are the events of this replica's segments.
func (l *Lookups) own(ctx context.Context, q query) (segment.Found, error) {
	l.scanning.Lock()
	defer l.scanning.Unlock()
	var answers []segment.Found
	for _, log := range l.Logs {
		found, err := log.Scan(ctx, q.scan(budget/int64(len(l.Logs))))
		if err != nil {
			return segment.Found{}, err
		}
		answers = append(answers, found)
	}
	return together(segment.Newest{Limit: q.Limit}, answers...), nil
}

// waiting adds events of writes that nobody has moved yet.
func (l *Lookups) waiting(ctx context.Context, q query, newest *segment.Newest) error {
	wants := q.scan(0)
	for after, read := "", 0; read < mostWaiting; {
		events, more, err := l.Store.Outbox(ctx, after, page)
		if err != nil {
			return err
		}
		for _, e := range events {
			after = e.Key
			entries, _ := unpacked(e.Value)
			for _, e := range entries {
				if wants.Wants(e) {
					newest.Add(e, false)
				}
			}
		}
		if read += len(events); !more {
			break
		}
	}
	return nil
}

var _ Outbox = (*store.Store)(nil)
