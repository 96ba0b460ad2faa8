package publish

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
	"github.com/evermesh/evermesh/internal/store"
)

const (
	// turnPrefix is where turns are written down, for replicas that start.
	turnPrefix = "ledger/turns/"
	// returnWait is how long proxies may take to come back to a control plane that
	// starts: their agents try again every 10 s at least.
	returnWait = 15 * time.Second
	// A turn of which nothing was written for longer than a few times as long as each
	// wait, or than this, is one that nobody finished.
	abandonedShare, abandonedAfter = 4, 5 * time.Minute
)

// Rows is where turns are written down; *store.Store is one.
type Rows interface {
	Write(ctx context.Context, lease bool, ops []store.Op) error
	Read(ctx context.Context, prefix string) (map[string][]byte, error)
}

// record is a turn as it is written down.
type record struct {
	Revision int64     `json:"revision"` // of the store, that wrote the goal
	Turn     mesh.Form `json:"turn"`
	// At is when it was written. It is no part of what is compared.
	At time.Time `json:"at"`
}

// compared is the record as text, but for when it was written.
func (r record) compared() string {
	r.At = time.Time{}
	text, _ := json.Marshal(r) // of plain values
	return string(text)
}

func turnKey(key api.Key) string { return turnPrefix + url.PathEscape(key.String()) }

// write writes down the turns that are new, and removes what is written of those that
// are over.
func (l *Loop) write(ctx context.Context, all []listed) error {
	records := map[api.Key]*record{}
	for _, key := range l.turns.stale() {
		records[key] = nil
	}
	for _, x := range all {
		if !x.Resting() {
			records[x.key] = &record{Revision: x.revision, Turn: x.Form(), At: l.Now()}
		}
	}
	return l.record(ctx, records)
}

// stale are the nodes of which something is written down although they rest.
func (t *turns) stale() []api.Key {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []api.Key
	for key := range t.stored {
		if x := t.of[key]; x == nil || x.Resting() {
			out = append(out, key)
		}
	}
	return out
}

// record makes these what is written down of their nodes, nil for nothing.
func (l *Loop) record(ctx context.Context, records map[api.Key]*record) error {
	if l.Rows == nil {
		return nil
	}
	var ops []store.Op
	keys := map[string]api.Key{}
	texts := map[string]string{}
	for _, key := range slices.SortedFunc(maps.Keys(records), byKey) {
		op := store.Op{Key: turnKey(key), Lasting: true}
		if r := records[key]; r != nil {
			value, err := json.Marshal(r)
			if err != nil {
				return fmt.Errorf("encode turn of %s: %w", key, err)
			}
			op.Value, texts[op.Key] = value, r.compared()
		}
		if !l.turns.has(key, texts[op.Key]) {
			ops, keys[op.Key] = append(ops, op), key
		}
	}
	for batch := range store.Batches(ops) {
		if err := l.Rows.Write(ctx, false, batch); err != nil {
			return fmt.Errorf("write turns of nodes: %w", err)
		}
		for _, op := range batch {
			l.turns.wrote(keys[op.Key], texts[op.Key])
		}
	}
	return nil
}

func byKey(a, b api.Key) int { return strings.Compare(a.String(), b.String()) }

// has says whether that is written down of the node, "" for nothing.
func (t *turns) has(key api.Key, text string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.stored[key] == text
}

// wrote notes that it is.
func (t *turns) wrote(key api.Key, text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.stored[key] = text; text == "" {
		delete(t.stored, key)
	}
}

// adopt goes on with the turns that other replicas, or the ones before, have begun:
// this one has seen only what is stored since. It returns when it knows them, or ctx
// ends.
func (l *Loop) adopt(ctx context.Context) error {
	if l.Ledger == nil || l.Rows == nil {
		return nil
	}
	for {
		values, err := l.Rows.Read(ctx, turnPrefix)
		if err == nil {
			snapshot := l.Snapshot()
			l.turns.adopt(values, snapshot, l.Now(), max(abandonedAfter, abandonedShare*l.PublishWait))
			l.show(nil, snapshot, nil)
			return nil
		}
		if ctx.Err() == nil {
			l.Log.Warn("nodes whose listeners change are not known yet", "err", err)
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (t *turns) adopt(values map[string][]byte, snapshot *mesh.Snapshot, now time.Time, abandoned time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for tail, value := range values {
		name, err := url.PathUnescape(strings.TrimPrefix(tail, turnPrefix))
		if err != nil {
			continue
		}
		key, err := api.ParseKey(name)
		if err != nil {
			continue
		}
		t.stored[key] = string(value) // and is removed when it is over
		poke(t.changed)
		var r record
		node := snapshot.Get(key)
		if json.Unmarshal(value, &r) != nil || node == nil || now.Sub(r.At) > abandoned {
			continue
		}
		t.stored[key] = r.compared()
		// What wrote the goal is the node's own revision, or a later one of its mesh's
		// settings.
		revision, same := r.Revision, r.Revision >= node.Revision && r.Turn.SameGoal(node)
		if !same {
			revision = node.Revision
			if m := snapshot.Get(key.MeshKey()); m != nil {
				revision = max(revision, m.Revision)
			}
		}
		if begun := r.Turn.Of(node, same); !begun.Resting() {
			t.of[key] = &turn{Turn: begun, revision: revision, since: now, unseen: now.Add(returnWait)}
		}
	}
}
