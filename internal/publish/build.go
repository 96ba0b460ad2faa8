package publish

import (
	"context"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/evermesh/evermesh/internal/envoy"
	"github.com/evermesh/evermesh/internal/mesh"
)

// built is what became of one affected client.
type built struct {
	client  mesh.Client
	bundle  *envoy.Bundle  // nil: its node does not exist
	resolve []mesh.Problem // found while resolving the view
	build   []mesh.Problem // found while building the bundle
	reads   mesh.Reads
}

// publish resolves and builds the affected clients, in parallel where there are
// many, and hands over what differs. One client's fault never harms another:
// View and Build have no error, only problems.
func (l *Loop) publish(ctx context.Context, affected map[mesh.Client]bool) {
	if len(affected) == 0 {
		return
	}
	snapshot := l.Snapshot()
	done := l.timed("build")
	results := make([]built, 0, len(affected))
	for c := range affected {
		results = append(results, built{client: c})
	}
	var g errgroup.Group
	g.SetLimit(max(1, l.Workers))
	for i := range results {
		r := &results[i]
		previous := l.clients[r.client]
		g.Go(func() error {
			l.build(snapshot, r, previous)
			return nil
		})
	}
	_ = g.Wait() // the functions above have no error
	done()

	defer l.timed("set")()
	for _, r := range results {
		l.index.Set(r.client, r.reads)
		state := l.clients[r.client]
		state.problems = r.build
		if l.problems.set(r.client, slices.Concat(r.resolve, r.build)) && l.Problematic != nil {
			l.Problematic(r.client)
		}
		if state.bundle == r.bundle && r.bundle != nil && !state.fresh {
			continue
		}
		if r.bundle == nil || state.bundle == nil || r.bundle.List(envoy.Cluster) != state.bundle.List(envoy.Cluster) {
			r.bundle = l.discovered(r.client, r.bundle)
		}
		state.bundle, state.fresh = r.bundle, false
		l.Proxies.Set(r.client, snapshot.Revision(), state.bundle)
	}
}

// build makes the client's bundle, or keeps the previous one when the view has
// not changed.
func (l *Loop) build(snapshot *mesh.Snapshot, r *built, previous *client) {
	var view *mesh.View
	view, r.resolve, r.reads = snapshot.View(r.client)
	made := false
	if l.Visited != nil {
		defer func() { l.Visited(r.client, made) }()
	}
	if view == nil {
		return
	}
	if previous.bundle != nil && view.Equal(previous.bundle.View) {
		r.bundle, r.build = previous.bundle, previous.problems
		return
	}
	made = true
	r.bundle, r.build = l.builder.Build(view, previous.bundle)
}

// discovered tells discovery which endpoint sets the client's bundle needs, and
// returns the bundle with those that are known. In this order, and on the loop's
// goroutine: a set that is found later is known to concern the client, and
// refresh brings it.
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
}
