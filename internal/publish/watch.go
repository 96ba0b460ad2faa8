package publish

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
)

const (
	// lookEvery is how often the ledger is looked at while nodes are on their way,
	// lookShare how many times longer than a look the pause is, and lateEvery how often when all
	// that is left of them is who was too late.
	lookEvery = 250 * time.Millisecond
	lookShare = 10
	lateEvery = 2 * time.Second
	// slow is when a turn that goes on is told of.
	slow = 2 * time.Second
)

// ReasonWaiting is the reason of a problem with a node whose listeners have changed,
// and whose proxies or clients have not followed.
const ReasonWaiting = "Waiting"

// Ledger tells what the proxies of all replicas have accepted; *ledger.Reader is
// one.
type Ledger interface {
	// Mesh returns what each replica says of each node and gateway of the key's
	// mesh, and all replicas. complete is false when proxies may be missing.
	Mesh(ctx context.Context, key api.Key) (rows []api.LedgerRow, replicas []api.Replica, complete bool, err error)
}

// watch looks at the nodes on their way until ctx ends. While there are none it
// reads and writes nothing.
func (l *Loop) watch(ctx context.Context) error {
	for {
		select {
		case <-l.turns.changed:
		case <-ctx.Done():
			return ctx.Err()
		}
		for {
			began := time.Now()
			pause, err := l.look(ctx)
			if err != nil && ctx.Err() == nil {
				l.Log.Warn("ledger was not read for nodes whose listeners change", "err", err)
			}
			if pause == 0 {
				break
			}
			select {
			case <-l.turns.changed:
			case <-time.After(max(pause, min(lookShare*time.Since(began), lateEvery))):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
}

// look writes down the turns that are new, and lets those go on for which nobody
// waits any more, or has waited for long enough. It returns when to look again; 0 is
// when there is a new turn.
func (l *Loop) look(ctx context.Context) (again time.Duration, err error) {
	all := l.turns.list()
	if err = l.write(ctx, all); len(all) == 0 {
		if err != nil {
			again = lateEvery
		}
		return again, err
	}
	again = lateEvery
	// Before the rows: what is in them is then as new as this, or newer.
	shown := l.shownNow()
	meshes := map[api.Key]*standing{}
	asked := map[api.Key]map[api.Key]bool{} // nodes whose clients count, by mesh
	for _, x := range all {
		if !x.Resting() {
			again = lookEvery
		}
		at := x.key.MeshKey()
		if meshes[at] == nil {
			s := &standing{now: l.Now()}
			var failed error
			if s.rows, s.replicas, s.complete, failed = l.Ledger.Mesh(ctx, x.key); failed != nil {
				err = failed
			}
			meshes[at], asked[at] = s.index(), map[api.Key]bool{}
		}
		if !x.Entering() {
			asked[at][x.key] = true
		}
	}
	for at, nodes := range asked {
		if len(nodes) > 0 && meshes[at].complete {
			l.use(meshes[at], shown, nodes)
		}
	}
	verdicts := make([]verdict, len(all))
	steps := map[api.Key]*record{}
	for i, x := range all {
		verdicts[i] = l.judge(x, meshes[x.key.MeshKey()])
		if verdicts[i].steps() {
			steps[x.key] = l.next(x)
		}
	}
	// Steps are written down first: who starts meanwhile goes on from there.
	unwritten := l.record(ctx, steps)
	if unwritten != nil {
		err = unwritten
	}
	for _, v := range verdicts {
		if !v.steps() || unwritten == nil || v.overdue {
			l.settle(v)
		}
	}
	return again, err
}

// listed is a turn to look at, as it was when the look began.
type listed struct {
	turn
	key api.Key
	of  *turn
}

func (t *turns) list() []listed {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make([]listed, 0, len(t.of))
	for key, x := range t.of {
		if !x.step {
			out = append(out, listed{*x, key, x})
		}
	}
	slices.SortFunc(out, func(a, b listed) int { return strings.Compare(a.key.String(), b.key.String()) })
	return out
}

// verdict is what was found of a turn.
type verdict struct {
	listed
	waiting       []string
	problem       mesh.Problem
	done, overdue bool // nobody is waited for; or nobody will be any more
}

// steps says whether the turn goes on.
func (v verdict) steps() bool { return !v.Resting() && (v.done || v.overdue) }

// judge says whether a turn may go on, or for whom it waits.
func (l *Loop) judge(x listed, s *standing) verdict {
	took := s.now.Sub(x.since)
	v := verdict{listed: x, problem: x.problem, overdue: took >= l.PublishWait && !x.stays()}
	if !s.complete {
		return v
	}
	v.waiting = s.unapplied(x)
	if x.Entering() || x.Resting() {
		v.waiting = append(v.waiting, s.entering(x)...)
	}
	if !x.Entering() {
		v.waiting = append(v.waiting, s.leaving(x, x.since.Add(-l.PublishWait))...)
	}
	if x.Resting() {
		v.waiting = slices.DeleteFunc(v.waiting, func(name string) bool { return !x.without[name] })
	}
	v.done = len(v.waiting) == 0 && !x.stays() && (len(s.replicas) > 1 || len(s.replicas) == 1 && !s.now.Before(x.unseen))
	v.problem = l.problemOf(x, v.waiting, took)
	return v
}

// settle lets the loop take the step, if it is due, and tells of a problem that is
// another than before.
func (l *Loop) settle(v verdict) {
	if !l.turns.settle(v) || v.problem == v.listed.turn.problem {
		return
	}
	if v.problem != (mesh.Problem{}) {
		l.Log.Warn("resource has a problem", "key", v.problem.Key.String(), "reason", v.problem.Reason, "problem", v.problem.Message)
	}
	if l.Problematic != nil {
		l.Problematic(mesh.Client{Key: v.key})
	}
}

// problemOf says for whom a turn waits, if it takes long, or whom it did not wait
// for; the zero value is no problem.
func (l *Loop) problemOf(x listed, waiting []string, took time.Duration) mesh.Problem {
	message := "its listeners changed; "
	switch {
	case len(waiting) == 0, !x.Resting() && took < slow && len(x.without) == 0:
		return mesh.Problem{}
	case x.Resting():
		message = "its listeners changed, and after " + l.PublishWait.String() + " the change went on without "
	case x.Entering():
		message += "its clients go on with those of before until these have accepted the new ones: "
	default:
		message += "its proxies keep those of before until these have accepted what uses the new ones: "
	}
	return mesh.Problem{Key: x.key, Reason: ReasonWaiting, Message: message + named(waiting)}
}

// next is what is written down of the turn after its next step; nil at its end.
func (l *Loop) next(x listed) *record {
	if to := x.Next(); !to.Resting() {
		return &record{Revision: x.revision, Turn: to.Form(), At: l.Now()}
	}
	return nil
}

// settle keeps what was found, unless the node has changed meanwhile.
func (t *turns) settle(v verdict) (same bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.of[v.key] != v.of {
		return false
	}
	v.of.problem = v.problem
	switch {
	case v.Resting() && v.done:
		delete(t.of, v.key)
	case v.steps():
		if v.of.step = true; !v.done {
			without := maps.Clone(v.of.without) // looks have the other one
			if without == nil {
				without = map[string]bool{}
			}
			for _, name := range v.waiting {
				without[name] = true
			}
			v.of.without = without
		}
		poke(t.moved)
	}
	return true
}
