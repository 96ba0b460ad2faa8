package publish

import (
	"context"
	"sync"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
)

// asked is what rollouts have read of one snapshot: many ask for the same again
// and again.
type asked struct {
	mu       sync.Mutex
	snapshot *mesh.Snapshot
	index    *mesh.Index
	known    map[mesh.Client]bool
}

// Affected tells which of the clients read the key in their views, in a
// snapshot at least as new as revision. It is for rollouts: the clients may be
// connected to other replicas.
func (l *Loop) Affected(ctx context.Context, revision int64, key api.Key, clients []mesh.Client) (map[mesh.Client]bool, error) {
	if err := l.progress.wait(ctx, revision); err != nil {
		return nil, err
	}
	return l.reading(l.Snapshot(), key, clients), nil
}

// reading tells which of the clients read the key in their views of the snapshot,
// the newest.
func (l *Loop) reading(snapshot *mesh.Snapshot, key api.Key, clients []mesh.Client) map[mesh.Client]bool {
	x := &l.asked
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.snapshot != snapshot {
		x.snapshot, x.index, x.known = snapshot, mesh.NewIndex(), map[mesh.Client]bool{}
	}
	for _, c := range clients {
		if x.known[c] {
			continue
		}
		_, _, reads := x.snapshot.View(c)
		x.index.Set(c, reads)
		x.known[c] = true
		if l.Visited != nil {
			l.Visited(c, false)
		}
	}
	wanted := make(map[mesh.Client]bool, len(clients))
	for _, c := range clients {
		wanted[c] = true
	}
	out := map[mesh.Client]bool{}
	for _, c := range x.index.Affected([]api.Change{{Key: key, New: x.snapshot.Get(key)}}) {
		if wanted[c] {
			out[c] = true
		}
	}
	return out
}
