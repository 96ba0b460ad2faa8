package publish

import (
	"context"
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
	lateEvery = 5 * time.Second
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
	meshes := map[api.Key]*standing{}
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
			meshes[at] = s
		}
		if failed := l.judge(ctx, x, meshes[at]); failed != nil {
			err = failed
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

// judge lets a turn go on, if it may, and says for whom it waits.
func (l *Loop) judge(ctx context.Context, x listed, s *standing) error {
	took := s.now.Sub(x.since)
	problem, done, overdue := x.problem, false, took >= l.PublishWait
	var waiting []string
	if s.complete {
		waiting = s.behind(x)
		if x.Entering() || x.Resting() {
			waiting = append(waiting, s.entering(x)...)
		}
		if !x.Entering() {
			waiting = append(waiting, s.leaving(x, l.leading(x.key, s.rows))...)
		}
		if x.Resting() {
			waiting = slices.DeleteFunc(waiting, func(name string) bool { return !slices.Contains(x.without, name) })
		}
		done = len(waiting) == 0 && (len(s.replicas) > 1 || len(s.replicas) == 1 && !s.now.Before(x.unseen))
		problem = l.problemOf(x, waiting, took)
	}
	if !x.Resting() && (done || overdue) {
		// It is written down first: who starts meanwhile goes on from there.
		if err := l.record(ctx, x.key, next(x)); err != nil && !overdue {
			return err
		}
	}
	l.turns.settle(x, problem, done, overdue, waiting)
	if problem == x.problem {
		return nil
	}
	if problem != (mesh.Problem{}) {
		l.Log.Warn("resource has a problem", "key", problem.Key.String(), "reason", problem.Reason, "problem", problem.Message)
	}
	if l.Problematic != nil {
		l.Problematic(mesh.Client{Key: x.key})
	}
	return nil
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
func next(x listed) *record {
	if to := x.Next(); !to.Resting() {
		return &record{x.revision, to.Form()}
	}
	return nil
}

// settle keeps what was found, unless the node has changed meanwhile.
func (t *turns) settle(x listed, problem mesh.Problem, done, overdue bool, waiting []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.of[x.key] != x.of {
		return
	}
	x.of.problem = problem
	switch {
	case x.Resting() && done:
		delete(t.of, x.key)
	case !x.Resting() && (done || overdue):
		x.of.step = true
		if !done {
			x.of.without = append(x.of.without, waiting...)
		}
		poke(t.moved)
	}
}
