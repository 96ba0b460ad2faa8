package publish

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
)

// Proxies wait for each other in one case (D6.3): the listeners of a virtual node
// change. turns are the nodes on their way, mostly none. The loop begins a turn when
// it applies the change, and takes its steps; whether those who are waited for have
// accepted is looked at by another goroutine (watch.go), as it reads the ledger.
type turns struct {
	mu sync.Mutex
	of map[api.Key]*turn
	// stored is what of the turns is written down, by key.
	stored map[api.Key]string

	changed chan struct{} // there is something to look at
	moved   chan struct{} // there is a step to take
}

// turn is one node on its way.
type turn struct {
	mesh.Turn
	revision int64     // of the store, that wrote the goal
	since    time.Time // when what is waited for began
	// unseen is until when the absence of proxies means nothing, where no other
	// replica could know of them.
	unseen time.Time
	step   bool // the loop is to take the next step
	kept   bool // clients go on with what led to the node before
	// without are those that the turn went on without. At rest it is kept for them.
	without map[string]bool
	problem mesh.Problem // the zero value for none
}

func (t *turns) init() {
	t.of, t.stored = map[api.Key]*turn{}, map[api.Key]string{}
	t.changed, t.moved = make(chan struct{}, 1), make(chan struct{}, 1)
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// begin takes in what became of nodes: turns begin, begin anew, or end with their
// node. A node that is back while clients go on with it as it was kept goes on from
// there.
func (t *turns) begin(before, after *mesh.Snapshot, changes []api.Change, kept map[api.Key]*api.Resource, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	touched := false
	var others []api.Change         // which their mesh has act otherwise
	settings := map[api.Key]int64{} // the revisions that have them do so, by mesh
	for _, c := range changes {
		if c.Key.Kind != api.KindMesh {
			continue
		}
		if more := mesh.IdentityChanged(before, after, c.Key); len(more) > 0 {
			others, settings[c.Key] = append(others, more...), after.Revision()
		}
	}
	for _, c := range slices.Concat(changes, others) {
		if c.Key.Kind != api.KindVirtualNode {
			continue
		}
		from, to, old := mesh.Turn{Goal: before.Get(c.Key)}, after.Get(c.Key), t.of[c.Key]
		if from.Goal != nil && to != nil && from.Goal.Revision == to.Revision && mesh.Alike(from.Goal, to) {
			continue // it was only read again
		}
		switch {
		case old != nil:
			from = old.Turn
		case from.Goal == nil:
			from.Goal = kept[c.Key]
		}
		next := from.To(to)
		if old == nil && next.Resting() {
			continue
		}
		touched = true
		if delete(t.of, c.Key); !next.Resting() {
			t.of[c.Key] = &turn{Turn: next, revision: max(to.Revision, settings[c.Key.MeshKey()]), since: now}
		}
	}
	if touched {
		poke(t.changed)
	}
}

// gone ends the turns of nodes that the snapshot does not have.
func (t *turns) gone(snapshot *mesh.Snapshot) {
	t.mu.Lock()
	defer t.mu.Unlock()
	maps.DeleteFunc(t.of, func(key api.Key, _ *turn) bool { return snapshot.Get(key) == nil })
}

// offers are the nodes as they are offered now.
func (t *turns) offers() map[api.Key]mesh.Offer {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out map[api.Key]mesh.Offer
	for key, x := range t.of {
		if x.Resting() {
			continue
		}
		if out == nil {
			out = map[api.Key]mesh.Offer{}
		}
		out[key] = x.Offer
	}
	return out
}

// steps takes the steps that are due and returns the nodes that took one.
func (t *turns) steps(now time.Time) []api.Change {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []api.Change
	for key, x := range t.of {
		if !x.step {
			continue
		}
		if x.stays() {
			x.step = false
			poke(t.changed)
			continue
		}
		x.Turn, x.step, x.since = x.Next(), false, now
		if out = append(out, api.Change{Key: key}); x.Resting() && len(x.without) == 0 {
			delete(t.of, key)
		}
	}
	if len(out) > 0 {
		poke(t.changed)
	}
	return out
}

// problems are those of turns that take long, of one node or of all.
func (t *turns) problems(of api.Key) []mesh.Problem {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []mesh.Problem
	for key, x := range t.of {
		if x.problem != (mesh.Problem{}) && (of == (api.Key{}) || of == key) {
			out = append(out, x.problem)
		}
	}
	slices.SortFunc(out, func(a, b mesh.Problem) int { return strings.Compare(a.Key.String(), b.Key.String()) })
	return out
}

// keep notes which nodes clients use beside what is stored (keeps.go). Those that do
// so no more may be left from now on.
func (t *turns) keep(nodes map[api.Key]*api.Resource, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for key, x := range t.of {
		was := x.kept
		if x.kept = nodes[key] != nil; was && !x.kept && !x.Entering() {
			x.since = now
			poke(t.changed)
		}
	}
}

// stays says that the turn does not take its step, as clients go on with what uses
// the node's listeners of before.
func (x *turn) stays() bool { return x.kept && !x.Entering() && !x.Resting() }

// show begins the turns of the batch's nodes, and shows what is stored as it is
// offered. It returns which resources are shown again that were not in the batch.
func (l *Loop) show(before, after *mesh.Snapshot, changes []api.Change) (again []api.Change) {
	if l.Ledger == nil {
		l.shown.Store(after)
		return nil
	}
	if before != nil {
		if len(changes) > 0 {
			l.past.add(l.shown.Load(), l.Now(), l.PublishWait)
		}
		l.turns.begin(before, after, changes, l.keeps.nodes, l.Now())
		l.turns.gone(after)
	}
	return l.offer(after, changes)
}

// advance takes the steps that are due and returns affected with the clients that
// they concern beside them.
func (l *Loop) advance(affected []*client) []*client {
	changes := l.turns.steps(l.Now())
	if len(changes) == 0 {
		return affected
	}
	l.past.add(l.shown.Load(), l.Now(), l.PublishWait)
	changes = append(changes, l.offer(l.Snapshot(), nil)...)
	for _, c := range l.index.Affected(changes) {
		affected = l.clients[c].among(affected)
	}
	return affected
}
