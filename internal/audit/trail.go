package audit

import (
	"cmp"
	"context"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/evermesh/evermesh/internal/audit/segment"
	"github.com/evermesh/evermesh/internal/service"
)

const (
	// Retention is how old an event becomes at most (AUDIT-003).
	Retention = 90 * 24 * time.Hour
	// DefaultBytes is how much a replica keeps, by default.
	DefaultBytes = 1 << 30
	// waiting bounds the events of connections that are not on the disk yet.
	waiting = 16 << 10
	// strangers is how many refused connections a second are kept of those whom
	// nobody knows: what they send must not fill the disk.
	strangers = 10
	// again is how long after a failure connections are tried again.
	again = time.Second
)

// Trail keeps events of this replica; it is a service.Auditor. Its methods may be
// called from any goroutine.
type Trail struct {
	// Log is where events of what was done are kept: of writes, of sessions that were
	// given, of proxies' streams.
	Log *segment.Log
	// Refusals has those of what was refused, Reads those of calls that only read:
	// whoever has a key can make these without end, and they push out none but their
	// like. Nil is Log.
	Refusals, Reads *segment.Log
	// Region is that of events; Account has those of nobody known.
	Region, Account string
	// WritesOnly leaves out calls that only read.
	WritesOnly bool
	Logger     *slog.Logger
	Now        func() time.Time
	NewID      func() string // UUIDs

	connections chan Connection
	lost        atomic.Int64
	refusals    refusals
	strange     struct {
		sync.Mutex
		second int64
		n      int
	}
}

// Init makes the Trail ready for its other methods.
func (t *Trail) Init() *Trail {
	t.connections = make(chan Connection, waiting)
	t.refusals.of = map[string]*refused{}
	t.Refusals, t.Reads = cmp.Or(t.Refusals, t.Log), cmp.Or(t.Reads, t.Log)
	return t
}

// Event is the event of a write as it travels with it. It satisfies
// service.Auditor.
func (t *Trail) Event(r service.Record) []byte {
	entries := t.entries(r)
	if len(entries) == 1 {
		return entries[0].Line()
	}
	var b []byte
	for _, e := range entries {
		b = append(b, e.Line()...)
	}
	return b
}

// Append keeps the event of a call on the disk. It satisfies service.Auditor.
func (t *Trail) Append(ctx context.Context, r service.Record) error {
	if t.WritesOnly && r.ReadOnly {
		return nil
	}
	entries := t.entries(r)
	switch {
	case len(entries) == 0:
		return nil
	case r.Code != "":
		if !t.refusals.whole(r.Principal, entries[0].Account, refusal{r.Operation, r.Code, r.SourceIP, r.At}) {
			return nil
		}
		return t.Refusals.Append(ctx, entries...)
	case r.ReadOnly && !strings.HasPrefix(r.Operation, "AssumeRole"): // which CloudTrail calls a read
		return t.Reads.Append(ctx, entries...)
	}
	return t.Log.Append(ctx, entries...)
}

// Connection takes what happened to a stream, to be kept within moments. It does
// not wait: a proxy gets its configuration whatever becomes of its event. When
// very many cannot be written, more are counted as Lost.
func (t *Trail) Connection(c Connection) {
	if c.Principal.Account == "" && !t.bearable(c.At) {
		t.lost.Add(1)
		return
	}
	if c.Refused && c.Principal.Account != "" &&
		!t.refusals.whole(c.Principal, c.Principal.Account, refusal{connectionName, clipped(c.Reason), connectionSource, c.At}) {
		return
	}
	select {
	case t.connections <- c:
	default:
		t.lost.Add(1)
	}
}

// Lost is how many connections' events were not kept.
func (t *Trail) Lost() int64 { return t.lost.Load() }

// bearable says whether one more stranger is kept in this second.
func (t *Trail) bearable(at time.Time) bool {
	t.strange.Lock()
	defer t.strange.Unlock()
	if second := at.Unix(); second != t.strange.second {
		t.strange.second, t.strange.n = second, 0
	}
	t.strange.n++
	return t.strange.n <= strangers
}

// Run keeps events of connections until ctx ends, and then those that wait, many
// with one fsync. What cannot be written is tried again while it runs.
func (t *Trail) Run(ctx context.Context) error {
	last := context.WithoutCancel(ctx)
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for {
		select {
		case c := <-t.connections:
			t.keepAll(ctx, c)
		case <-look.C:
			t.sumUp(last, t.Now().Add(-refusalSpan))
		case <-ctx.Done():
			for {
				select {
				case c := <-t.connections:
					t.keepAll(ctx, c)
				default:
					t.sumUp(last, t.Now().Add(refusalSpan)) // all
					return nil
				}
			}
		}
	}
}

// persist keeps events; until ctx ends it tries again.
func (t *Trail) persist(ctx context.Context, to *segment.Log, batch []segment.Entry) {
	for to.Append(context.WithoutCancel(ctx), batch...) != nil { // the log has said why
		if ctx.Err() == nil {
			pause(ctx, again)
		}
		if ctx.Err() != nil {
			t.lost.Add(int64(len(batch)))
			return
		}
	}
}

// keepAll keeps a connection's event and those that wait.
func (t *Trail) keepAll(ctx context.Context, c Connection) {
	streams, refused := t.batch(c)
	t.persist(ctx, t.Log, streams)
	t.persist(ctx, t.Refusals, refused)
}

// batch are a connection's events with those that wait.
func (t *Trail) batch(c Connection) (streams, refused []segment.Entry) {
	const most = 1000
	for {
		if c.Refused {
			refused = append(refused, t.connected(c)...)
		} else {
			streams = append(streams, t.connected(c)...)
		}
		if len(streams)+len(refused) >= most {
			return streams, refused
		}
		select {
		case c = <-t.connections:
		default:
			return streams, refused
		}
	}
}

// pause waits for the time or for ctx.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// unpacked are the entries of an event that travelled with a write, as parts of it.
// What is none is an error, after those before it.
func unpacked(value []byte) ([]segment.Entry, error) { return segment.Lines(value) }

var _ service.Auditor = (*Trail)(nil)
