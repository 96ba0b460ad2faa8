package envoy

import (
	"cmp"
	"slices"
	"strings"
	"sync/atomic"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
)

// discovered is how the endpoints of a cluster by EDS are found, and the load
// assignment that was last made of them: all bundles with the cluster share it,
// and a change is encoded once, not once per client.
type discovered struct {
	query EndpointQuery
	check uint32 // port of health checks; 0 is the endpoint's own
	last  atomic.Pointer[assigned]
}

// assigned is a load assignment and the set that it was made of.
type assigned struct {
	endpoints  []Endpoint // as the source has given them; never written to
	assignment *Resource
}

// assign returns the load assignment of a cluster by EDS; nil when Envoy would
// refuse it.
func (o *Builder) assign(cluster *Resource, endpoints []Endpoint) *Resource {
	last := cluster.query.last.Load()
	if last != nil && sameSet(last.endpoints, endpoints) {
		return last.assignment
	}
	addresses := make([]*corev3.Address, 0, len(endpoints))
	for _, e := range sortedEndpoints(endpoints) {
		addresses = append(addresses, address(e.Address, e.Port))
	}
	r, err := o.resource(cluster.Name, checkedOn(cluster.query.check, assignment(cluster.Name, addresses...)), references{}, nil)
	if err != nil {
		return nil
	}
	cluster.query.last.Store(&assigned{endpoints, r})
	return r
}

// sameSet says whether two sets are the same in the same order. Mostly they are
// the very same slice.
func sameSet(a, b []Endpoint) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0] || slices.Equal(a, b))
}

// sortedEndpoints brings a set into one order, whatever the source's was.
func sortedEndpoints(set []Endpoint) []Endpoint {
	out := slices.Clone(set)
	slices.SortFunc(out, func(a, b Endpoint) int {
		return cmp.Or(cmp.Compare(a.Address, b.Address), cmp.Compare(a.Port, b.Port))
	})
	return slices.Compact(out)
}

// WithEndpoints returns the bundle with a load assignment for each cluster by
// EDS whose endpoints are known, perhaps none; a cluster whose endpoints are
// unknown has no load assignment. The receiver stays as it is, and is returned
// when there is nothing to add or change. Nobody writes to the sets afterwards.
func (b *Bundle) WithEndpoints(known func(EndpointQuery) ([]Endpoint, bool)) *Bundle {
	var assignments []*Resource
	for _, c := range b.List(Cluster).Resources {
		if c.query == nil {
			continue
		}
		if endpoints, ok := known(c.query.query); ok {
			if r := b.owner.assign(c, endpoints); r != nil {
				assignments = append(assignments, r)
			}
		}
	}
	return b.withAssignments(assignments)
}

// WithChanged is WithEndpoints for the clusters of some queries; the load
// assignments of all others stay.
func (b *Bundle) WithChanged(queries []EndpointQuery, known func(EndpointQuery) ([]Endpoint, bool)) *Bundle {
	assignments, mine := b.lists[LoadAssignment].Resources, false
	for _, c := range b.List(Cluster).Resources {
		if c.query == nil || !slices.Contains(queries, c.query.query) {
			continue
		}
		var now *Resource
		if endpoints, ok := known(c.query.query); ok {
			now = b.owner.assign(c, endpoints)
		}
		i, there := slices.BinarySearchFunc(assignments, c.Name, func(r *Resource, name string) int { return strings.Compare(r.Name, name) })
		if there && assignments[i] == now {
			continue
		}
		if !mine {
			assignments, mine = slices.Clone(assignments), true
		}
		switch {
		case there && now != nil:
			assignments[i] = now
		case there:
			assignments = slices.Delete(assignments, i, i+1)
		case now != nil:
			assignments = slices.Insert(assignments, i, now)
		}
	}
	return b.withAssignments(assignments)
}

func (b *Bundle) withAssignments(assignments []*Resource) *Bundle {
	l := list(assignments, b.lists[LoadAssignment])
	if l == b.lists[LoadAssignment] {
		return b
	}
	out := *b
	out.lists[LoadAssignment] = l
	return &out
}
