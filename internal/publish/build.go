package publish

import (
	"slices"
	"sync"
	"sync/atomic"

	"github.com/evermesh/evermesh/internal/envoy"
	"github.com/evermesh/evermesh/internal/mesh"
)

// built is what became of one affected client.
type built struct {
	*client
	bundle  *envoy.Bundle  // nil: its node does not exist
	resolve []mesh.Problem // found while resolving the view
	build   []mesh.Problem // found while building the bundle
	reads   mesh.Reads
}

// publish resolves and builds the affected clients, in parallel where there are
// many, and hands each over as soon as it is made: the first proxies receive
// theirs while others are still worked out. One client's fault never harms
// another: View and Build have no error, only problems.
func (l *Loop) publish(affected []*client) {
	if len(affected) == 0 {
		return
	}
	snapshot := l.shown.Load()
	done := l.timed("build")
	results := make([]built, len(affected))
	var next atomic.Int64
	work := func() {
		for i := int(next.Add(1)) - 1; i < len(results); i = int(next.Add(1)) - 1 {
			r := &results[i]
			if r.client = affected[i]; r.left {
				continue
			}
			l.build(snapshot, r)
			l.hand(snapshot.Revision(), r)
		}
	}
	var others sync.WaitGroup
	for range min(l.Workers, len(results)/share) - 1 {
		others.Go(work)
	}
	work()
	others.Wait()
	done()

	defer l.timed("set")()
	for i := range results {
		r := &results[i]
		r.affected = false
		if r.left {
			continue
		}
		l.index.Set(r.Client, r.reads)
		r.client.problems = r.build
		if l.problems.set(r.Client, slices.Concat(r.resolve, r.build)) && l.Problematic != nil {
			l.Problematic(r.Client)
		}
	}
}

// share is how many clients are worth another goroutine.
const share = 8

// build makes the client's bundle, or keeps the previous one when the view has
// not changed. Several goroutines call it, each for other clients, and so hand.
func (l *Loop) build(snapshot *mesh.Snapshot, r *built) {
	var view *mesh.View
	view, r.resolve, r.reads = snapshot.View(r.Client)
	previous := r.client.bundle
	switch {
	case view == nil:
	case previous != nil && view.Equal(previous.View):
		r.bundle, r.build = previous, r.client.problems
	default:
		r.bundle, r.build = l.builder.Build(view, previous)
	}
	if l.Visited != nil {
		l.Visited(r.Client, r.bundle != nil && r.bundle != previous)
	}
}

// hand gives the bundle to the proxies unless they have it.
func (l *Loop) hand(revision int64, r *built) {
	c := r.client
	if c.bundle == r.bundle && r.bundle != nil && !c.fresh {
		return
	}
	if r.bundle == nil || c.bundle == nil || r.bundle.List(envoy.Cluster) != c.bundle.List(envoy.Cluster) {
		r.bundle = l.discovered(c.Client, r.bundle)
	}
	c.bundle, c.fresh = r.bundle, false
	l.Proxies.Set(c.Client, revision, c.bundle)
}

// discovered tells discovery which endpoint sets the client's bundle needs, and
// returns the bundle with those that are known. In this order, and before the
// loop looks at what was found: a set that is found later is known to concern
// the client, and refresh brings it.
func (l *Loop) discovered(c mesh.Client, b *envoy.Bundle) *envoy.Bundle {
	if l.Endpoints == nil {
		return b
	}
	l.Endpoints.Need(c, b)
	if b == nil {
		return nil
	}
	return b.WithEndpoints(l.Endpoints.Known)
}

// refresh publishes endpoint sets that changed. Views are not looked at: only
// the EDS part of the bundles that hold the sets is another, and all of them
// share what a set is encoded as.
func (l *Loop) refresh() {
	defer l.timed("set")()
	for c, queries := range l.Endpoints.Take() {
		state := l.clients[c]
		if state == nil || state.bundle == nil {
			continue
		}
		now := state.bundle.WithChanged(queries, l.Endpoints.Known)
		if now == state.bundle {
			continue // it was built when the new set was known already
		}
		state.bundle = now
		l.Proxies.Set(c, l.Snapshot().Revision(), now)
	}
	if l.Drained != nil {
		l.Drained(l.Endpoints.Drained())
	}
}
