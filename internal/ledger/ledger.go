// Package ledger makes what each replica knows of its proxies readable on every
// replica. Where the streams are, it lives in memory (package ads); here each
// replica writes a row per node, not per proxy, and a row about itself, in
// batches of at most one every 250 ms (D8). Whoever asks, through any replica,
// reads the rows of all.
//
// The rows of nodes vanish with their replica. Its own outlasts it for longer
// than any stream: a replica that lost the store may still have proxies, so it
// counts as unknown until it is back, has left (Writer.Leave), or all its
// streams must have ended.
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
	// flushEvery is the least time between two batches.
	flushEvery = 250 * time.Millisecond
	// aliveEvery is how often a replica's row is written although nothing
	// happened, and silentAfter when a replica that did not counts as unknown.
	aliveEvery  = 5 * time.Second
	silentAfter = 15 * time.Second
	// forgottenAfter is when a silent replica has no streams any more: they last
	// 33 minutes, and 20 seconds of draining (D12).
	forgottenAfter = 40 * time.Minute
)

// Store is where the rows are kept; *store.Store is one.
type Store interface {
	Write(ctx context.Context, lease bool, ops []store.Op) error
	Read(ctx context.Context, prefix string) (map[string][]byte, error)
	Get(ctx context.Context, key api.Key) (*api.Resource, error)
}

// Writer writes this replica's rows.
type Writer struct {
	Store   Store
	Replica api.Replica // ID, Address and Version
	// Row is the row of a client as of now; false when it has no proxy here.
	Row func(mesh.Client) (api.LedgerRow, bool)
	Log *slog.Logger
	Now func() time.Time

	mu      sync.Mutex
	dirty   map[mesh.Client]bool
	applied int64
	wake    chan struct{}
	flushed chan struct{} // closed after each flush

	// Owned by the goroutine of Run.
	keys    map[mesh.Client][]string // of the rows that may be stored
	writes  int64                    // rows written so far
	written int64                    // the applied revision that was written last
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
// unknown for as long as a stream may last.
func (w *Writer) Leave(ctx context.Context) error {
	var ops []store.Op
	for _, keys := range w.keys {
		for _, key := range keys {
			ops = append(ops, store.Op{Key: key})
		}
	}
	ops = append(ops, store.Op{Key: replicaKey(w.Replica.ID)})
	for batch := range store.Batches(ops) {
		if err := w.Store.Write(ctx, true, batch); err != nil {
			return fmt.Errorf("leave ledger: %w", err)
		}
	}
	return nil
}

// Dirty says that the client's row changed; it returns at once.
func (w *Writer) Dirty(c mesh.Client) {
	w.mu.Lock()
	w.dirty[c] = true
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
	alive := time.NewTicker(aliveEvery)
	defer alive.Stop()
	for {
		select {
		case <-w.wake:
		case <-alive.C:
			if err := w.sweep(ctx); err != nil && ctx.Err() == nil {
				w.Log.Warn("ledger was not swept", "err", err)
			}
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := w.flush(ctx); err != nil && ctx.Err() == nil {
			w.Log.Warn("ledger was not written", "err", err)
		}
		select {
		case <-time.After(flushEvery):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// sweep removes the rows of silent replicas that can have no streams: those that
// are forgotten, and those in whose place this one is, on the same host with the
// same address.
func (w *Writer) sweep(ctx context.Context) error {
	values, err := w.Store.Read(ctx, replicaPrefix)
	if err != nil {
		return err
	}
	replicas, err := decodeAll[api.Replica](values)
	if err != nil {
		return err
	}
	var ops []store.Op
	for _, r := range replicas {
		silent := w.Now().Sub(r.SeenAt.Time)
		if r.ID != w.Replica.ID && (silent > forgottenAfter || (silent > silentAfter && w.succeeds(r))) {
			ops = append(ops, store.Op{Key: replicaKey(r.ID)})
		}
	}
	for batch := range store.Batches(ops) {
		if err := w.Store.Write(ctx, false, batch); err != nil {
			return err
		}
	}
	return nil
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
	w.mu.Lock()
	dirty, applied := w.dirty, w.applied
	w.dirty = map[mesh.Client]bool{}
	w.mu.Unlock()

	err := w.write(ctx, dirty, applied)
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		for c := range dirty {
			w.dirty[c] = true
		}
		return err
	}
	close(w.flushed)
	w.flushed = make(chan struct{})
	return nil
}

// write is one flush. If a node's row cannot be written, the replica's own says
// that it lives, and nothing newer.
func (w *Writer) write(ctx context.Context, dirty map[mesh.Client]bool, applied int64) error {
	ops, keys, err := w.rows(dirty)
	if err != nil {
		return w.only(ctx, err)
	}
	own, err := w.own(applied)
	if err != nil {
		return err
	}
	for c, keys := range keys {
		w.keys[c] = union(w.keys[c], keys)
	}
	for batch := range store.Batches(append(ops, own)) {
		if err := w.Store.Write(ctx, true, batch); err != nil {
			return w.only(ctx, fmt.Errorf("write ledger: %w", err))
		}
	}
	w.written = applied
	for c, keys := range keys {
		if w.keys[c] = keys; len(keys) == 0 {
			delete(w.keys, c)
		}
	}
	return nil
}

// only writes the replica's row alone, because of a fault of others.
func (w *Writer) only(ctx context.Context, fault error) error {
	own, err := w.own(w.written)
	if err == nil {
		err = w.Store.Write(ctx, true, []store.Op{own})
	}
	return errors.Join(fault, err)
}

func (w *Writer) own(applied int64) (store.Op, error) {
	own := w.Replica
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
