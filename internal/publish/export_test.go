package publish

import (
	"context"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
	"github.com/evermesh/evermesh/internal/store"
)

// Batch lets a loop that does not run take in a batch.
func (l *Loop) Batch(b store.Batch) { l.apply(b, nil) }

// Look lets it look at its turns, and take the steps that are due.
func (l *Loop) Look(ctx context.Context) error {
	_, err := l.look(ctx)
	l.advance(nil)
	return err
}

// Shown is what views show.
func (l *Loop) Shown() *mesh.Snapshot { return l.shown.Load() }

// Turning says whether some node is on its way, or something else is kept.
func (l *Loop) Turning() bool { return len(l.turns.offers()) > 0 || l.keeping.Load() }

// Waiting are those whom a turn of the key's node waits for, at its step, when the
// change was written at the revision and the ledger says this; leads are the clients
// whose services lead to the node, led those whose services did.
func Waiting(turn mesh.Turn, key api.Key, revision int64, now time.Time, rows []api.LedgerRow, replicas []api.Replica, leads, led map[string]bool) []string {
	s := (&standing{now: now, rows: rows, replicas: replicas, complete: true}).index()
	x := listed{turn: turnOf(turn, revision), key: key}
	if turn.Entering() {
		return append(s.unapplied(x), s.entering(x)...)
	}
	users := map[string]use{}
	for _, row := range rows {
		u := use{leads: leads[row.Client]}
		if led[row.Client] {
			u.until = now
		}
		users[row.Client] = u
	}
	s.uses.of = map[api.Key]map[string]use{key: users}
	return append(s.unapplied(x), s.leaving(x, now.Add(-time.Minute))...)
}

func turnOf(t mesh.Turn, revision int64) turn { return turn{Turn: t, revision: revision} }
