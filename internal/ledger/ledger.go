// Package ledger makes what each replica knows of its proxies readable on every
// replica. Where the streams are, it lives in memory (package ads); here each
// replica writes a row per node, not per proxy, and a row about itself, in
// batches of at most one every 250 ms (D8). Whoever asks, through any replica,
// reads the rows of all.
//
// Writer writes; Reader answers for proxies and rollouts.
package ledger

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
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
	// batchSize is the number of rows in a transaction; etcd takes 128.
	batchSize = 100
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
}

// Init makes the Writer ready for its other methods.
func (w *Writer) Init() *Writer {
	w.dirty = map[mesh.Client]bool{}
	w.wake = make(chan struct{}, 1)
	w.flushed = make(chan struct{})
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
	for batch := range slices.Chunk(ops, batchSize) {
		if err := w.Store.Write(ctx, false, batch); err != nil {
			return fmt.Errorf("clear ledger: %w", err)
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

func (w *Writer) write(ctx context.Context, dirty map[mesh.Client]bool, applied int64) error {
	ops := make([]store.Op, 0, len(dirty)+1)
	for c := range dirty {
		op := store.Op{Key: rowPrefix + url.PathEscape(w.Replica.ID) + "/" + c.Key.String()}
		if row, ok := w.Row(c); ok {
			value, err := json.Marshal(row)
			if err != nil {
				return fmt.Errorf("encode ledger row: %w", err)
			}
			op.Value = value
		}
		ops = append(ops, op)
	}
	own := w.Replica
	own.AppliedRevision, own.SeenAt = applied, api.Timestamp{Time: w.Now()}
	value, err := json.Marshal(own)
	if err != nil {
		return fmt.Errorf("encode replica row: %w", err)
	}
	ops = append(ops, store.Op{Key: replicaPrefix + url.PathEscape(own.ID), Value: value})
	for len(ops) > 0 {
		n := min(batchSize, len(ops))
		if err := w.Store.Write(ctx, true, ops[:n]); err != nil {
			return fmt.Errorf("write ledger: %w", err)
		}
		ops = ops[n:]
	}
	return nil
}
