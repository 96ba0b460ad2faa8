// Package ledger makes what each replica knows of its proxies readable on every
// replica. Where the streams are, it lives in memory (package ads); here each
// replica writes a row per node, not per proxy, and a row about itself, in
// batches of at most one every 250 ms (D8). Whoever asks, through any replica,
// reads the rows of all.
//
// A replica's rows outlast it for longer than any stream: a replica that lost the
// store may still have proxies, so it counts as unknown until it is back, has left
// (Writer.Leave), all its proxies are seen at other replicas, or all its streams
// must have ended (gone.go). One that has left may have noted whom it had (left.go).
//
// Writer writes; Reader answers for proxies and rollouts.
package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
	"github.com/evermesh/evermesh/internal/store"
)

const (
	rowPrefix     = "ledger/rows/"
	replicaPrefix = "ledger/replicas/"
	// flushEvery is the least time between two batches. One that took long is
	// followed by a pause of flushShare times that, but of at most flushMost: when
	// very many proxies take a change, the ledger leaves the processors to them.
	flushEvery = 250 * time.Millisecond
	flushShare = 10
	flushMost  = 2 * time.Second
	// aliveEvery is how often a replica's row is written although nothing
	// happened, and silentAfter when a replica that did not counts as unknown.
	aliveEvery  = 5 * time.Second
	silentAfter = 15 * time.Second
	// forgottenAfter is when a silent replica has no streams any more: they last
	// 33 minutes, and 20 seconds of draining (D12).
	forgottenAfter = 40 * time.Minute
	// lostAfter is how long this replica has not reached the store when it ends
	// streams that others cannot know of; lookFor bounds the look whether it does.
	lostAfter = 10 * time.Second
	lookFor   = 2 * time.Second
	// admission is how long a stream may have been open before its proxy is known.
	admission = 15 * time.Second
)

// Store is where the rows are kept; *store.Store is one.
type Store interface {
	Write(ctx context.Context, lease bool, ops []store.Op) error
	Read(ctx context.Context, prefix string) (map[string][]byte, error)
	Get(ctx context.Context, key api.Key) (*api.Resource, error)
	WriteTogether(ctx context.Context, ops []store.Op, lasts time.Duration) error
}

// Writer writes this replica's rows.
type Writer struct {
	Store   Store
	Replica api.Replica // ID, Address and Version
	// Row is the row of a client's node or gateway as of now, whatever the traits of
	// its proxies; false when it has no proxy here. The client has no traits.
	Row func(mesh.Client) (api.LedgerRow, bool)
	// Lost is told when the store is out of reach: proxies that connected after
	// since may be in no row, and nobody could tell whether they are served. It is
	// to end their streams, so that they connect elsewhere. nil is allowed.
	Lost func(since time.Time)
	Log  *slog.Logger
	Now  func() time.Time

	mu      sync.Mutex
	dirty   map[mesh.Client]bool
	applied int64
	drains  drains
	wake    chan struct{}
	flushed chan struct{} // closed after each flush

	// Owned by the goroutine of Run.
	keys    map[mesh.Client][]string // of the rows that may be stored
	writes  int64                    // rows written so far
	written int64                    // the applied revision that was written last
	said    drains                   // the drains that were written last
	reached time.Time                // before the last flush that succeeded
	again   bool                     // everything is written once more
	sweeps  int                      // so far
	known   bool                     // this replica's own row is stored, as far as it can tell
}

// Init makes the Writer ready for its other methods.
func (w *Writer) Init() *Writer {
	w.dirty = map[mesh.Client]bool{}
	w.wake = make(chan struct{}, 1)
	w.flushed = make(chan struct{})
	w.keys = map[mesh.Client][]string{}
	return w
}

// Clear removes what every replica wrote. A replica that has the store to itself calls it before Run: the rows of the
// one before it, which may have been killed, would count as unknown until their lease ends.
func (w *Writer) Clear(ctx context.Context) error {
	var ops []store.Op
	for _, prefix := range []string{rowPrefix, replicaPrefix} {
		rows, err := w.Store.Read(ctx, prefix)
		if err != nil {
			return fmt.Errorf("clear ledger: %w", err)
		}
		for key := range rows {
			ops = append(ops, store.Op{Key: key})
		}
	}
	for batch := range store.Batches(ops) {
		if err := w.Store.Write(ctx, false, batch); err != nil {
			return fmt.Errorf("clear ledger: %w", err)
		}
	}
	return nil
}

// Leave removes what this replica wrote. It is for a clean exit, after the last
// stream has ended and Run has returned: a replica that ends without counts as
// unknown for as long as a stream may last. Which proxies it had is not known any
// more then, but for what Keep wrote.
func (w *Writer) Leave(ctx context.Context) error {
	var ops []store.Op
	for _, keys := range w.keys {
		for _, key := range keys {
			ops = append(ops, store.Op{Key: key})
		}
	}
	ops = append(ops, store.Op{Key: replicaKey(w.Replica.ID)})
	for batch := range store.Batches(ops) {
		if err := w.Store.Write(ctx, false, batch); err != nil {
			return fmt.Errorf("leave ledger: %w", err)
		}
	}
	return nil
}

// Dirty says that the row of the client's node or gateway changed; it returns at
// once.
func (w *Writer) Dirty(c mesh.Client) {
	w.mu.Lock()
	w.dirty[c.Plain()] = true
	w.mu.Unlock()
	w.poke()
}

// Applied says that everything up to the revision is published here. It must be
// called after what the revision changed is Dirty.
func (w *Writer) Applied(revision int64) {
	w.mu.Lock()
	w.applied = revision
	w.mu.Unlock()
	w.poke()
}

func (w *Writer) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// Changed is closed after the next flush.
func (w *Writer) Changed() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.flushed
}

// Run flushes what is dirty until ctx ends. A batch that could not be written
// is tried again with the next.
func (w *Writer) Run(ctx context.Context) error {
	if err := w.introduce(ctx); err != nil && ctx.Err() == nil {
		w.Log.Warn("ledger was not written", "err", err)
	}
	alive := time.NewTicker(aliveEvery)
	defer alive.Stop()
	for {
		select {
		case <-w.wake:
		case <-alive.C:
			w.repeat()
			if err := w.sweep(ctx); err != nil && ctx.Err() == nil {
				w.Log.Warn("ledger was not swept", "err", err)
			}
		case <-ctx.Done():
			return ctx.Err()
		}
		began := time.Now()
		if err := w.flush(ctx); err != nil && ctx.Err() == nil {
			w.Log.Warn("ledger was not written", "err", err)
			w.lose(ctx)
		}
		select {
		case <-time.After(min(max(flushEvery, flushShare*time.Since(began)), flushMost)):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// succeeds says whether this replica has the other's place: a replica's id is
// its host's name and something random.
func (w *Writer) succeeds(other api.Replica) bool {
	host := func(r api.Replica) string { return r.ID[:max(0, strings.LastIndexByte(r.ID, '-'))] }
	return w.Replica.Address != nil && other.Address != nil && *w.Replica.Address == *other.Address &&
		!strings.HasSuffix(*other.Address, ":0") && // any port
		host(other) != "" && host(other) == host(w.Replica)
}

// flush writes the dirty rows and then the replica's own: who reads a replica's
// applied revision finds rows at least as new.
func (w *Writer) flush(ctx context.Context) error {
	began := w.Now()
	w.mu.Lock()
	dirty, applied, drains := w.dirty, w.applied, w.drains
	w.dirty = map[mesh.Client]bool{}
	w.mu.Unlock()
	if !w.reached.IsZero() && w.since(began) > silentAfter {
		// Others may have taken proxies out meanwhile, and may be at it; or they have
		// forgotten this replica.
		w.again, w.known = true, false
		w.all(dirty)
	}

	err := w.write(ctx, dirty, applied, drains)
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		for c := range dirty {
			w.dirty[c] = true
		}
		return err
	}
	w.reached = began
	close(w.flushed)
	w.flushed = make(chan struct{})
	return nil
}

// since is how long the store was not reached before t, as others see it: a host
// that slept is silent too.
func (w *Writer) since(t time.Time) time.Duration { return t.Round(0).Sub(w.reached.Round(0)) }

// all adds every client that has a row.
func (w *Writer) all(dirty map[mesh.Client]bool) {
	for c := range w.keys {
		dirty[c] = true
	}
}

// repeat writes everything once more, some time after this replica was silent.
func (w *Writer) repeat() {
	if !w.again {
		return
	}
	w.again = false
	w.mu.Lock()
	w.all(w.dirty)
	w.mu.Unlock()
}

// lose looks whether the store is out of reach, as opposed to one that only takes
// nothing more.
func (w *Writer) lose(ctx context.Context) {
	if w.Lost == nil || w.reached.IsZero() || w.since(w.Now()) < lostAfter {
		return
	}
	looking, cancel := context.WithTimeout(ctx, lookFor)
	defer cancel()
	if _, err := w.Store.Read(looking, replicaPrefix); err != nil && ctx.Err() == nil {
		w.Lost(w.reached.Add(-admission))
	}
}

// write is one flush. If a node's row cannot be written, the replica's own says
// that it lives, and nothing newer.
func (w *Writer) write(ctx context.Context, dirty map[mesh.Client]bool, applied int64, drains drains) error {
	if err := w.introduce(ctx); err != nil {
		return err
	}
	ops, keys, err := w.rows(dirty)
	if err != nil {
		return w.only(ctx, err)
	}
	own, err := w.own(applied, drains)
	if err != nil {
		return err
	}
	for c, keys := range keys {
		w.keys[c] = union(w.keys[c], keys)
	}
	for batch := range store.Batches(append(ops, own)) {
		if err := w.Store.Write(ctx, false, batch); err != nil {
			return w.only(ctx, fmt.Errorf("write ledger: %w", err))
		}
	}
	w.written, w.said = applied, drains
	for c, keys := range keys {
		if w.keys[c] = keys; len(keys) == 0 {
			delete(w.keys, c)
		}
	}
	return nil
}

// introduce writes the replica's own row unless others know it: rows without
// their replica belong to nobody and are removed, so it comes before them.
func (w *Writer) introduce(ctx context.Context) error {
	if w.known {
		return nil
	}
	if err := w.only(ctx, nil); err != nil {
		return fmt.Errorf("write ledger: %w", err)
	}
	w.known = true
	return nil
}

// only writes the replica's row alone, because of a fault of others.
func (w *Writer) only(ctx context.Context, fault error) error {
	own, err := w.own(w.written, w.said)
	if err == nil {
		err = w.Store.Write(ctx, false, []store.Op{own})
	}
	return errors.Join(fault, err)
}

func (w *Writer) own(applied int64, drains drains) (store.Op, error) {
	own := w.Replica
	own.DrainsRevision, own.DrainsKept = &drains.revision, drains.kept
	own.AppliedRevision, own.SeenAt = applied, api.Timestamp{Time: w.Now()}
	value, err := json.Marshal(own)
	if err != nil {
		return store.Op{}, fmt.Errorf("encode replica row: %w", err)
	}
	return store.Op{Key: replicaKey(own.ID), Value: value, Lasting: true}, nil
}

func replicaKey(id string) string { return replicaPrefix + url.PathEscape(id) }

// rows is what is to be written of the clients, and which keys each then has.
func (w *Writer) rows(dirty map[mesh.Client]bool) (ops []store.Op, keys map[mesh.Client][]string, err error) {
	keys = make(map[mesh.Client][]string, len(dirty))
	for c := range dirty {
		var puts []store.Op
		if row, ok := w.Row(c); ok {
			w.writes++
			if puts, err = cut(c, w.Replica.ID, row, w.writes); err != nil {
				return nil, nil, err
			}
		}
		now := make([]string, len(puts))
		for i, op := range puts {
			now[i] = op.Key
		}
		keys[c], ops = now, append(ops, puts...)
		for _, key := range w.keys[c] {
			if !slices.Contains(now, key) {
				ops = append(ops, store.Op{Key: key})
			}
		}
	}
	return ops, keys, nil
}

func union(a, b []string) []string {
	out := slices.Concat(a, b)
	slices.Sort(out)
	return slices.Compact(out)
}
