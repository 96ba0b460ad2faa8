package envoy

import (
	"cmp"
	"slices"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
)

// WithEndpoints returns the bundle with a load assignment for each cluster by
// EDS whose endpoints are known, perhaps none; a cluster whose endpoints are
// unknown has no load assignment. The receiver stays as it is, and is returned
// when there is nothing to add or change.
func (b *Bundle) WithEndpoints(known func(EndpointQuery) ([]Endpoint, bool)) *Bundle {
	var assignments []*Resource
	for _, c := range b.List(Cluster).Resources {
		q, ok := c.Query()
		if !ok {
			continue
		}
		endpoints, ok := known(q)
		if !ok {
			continue
		}
		addresses := make([]*corev3.Address, 0, len(endpoints))
		for _, e := range sortedEndpoints(endpoints) {
			addresses = append(addresses, address(e.Address, e.Port))
		}
		if r, err := b.owner.resource(LoadAssignment, c.Name, assignment(c.Name, addresses...), nil, nil); err == nil {
			assignments = append(assignments, r)
		}
	}
	l := list(assignments, b.lists[LoadAssignment])
	if l == b.lists[LoadAssignment] {
		return b
	}
	out := *b
	out.lists[LoadAssignment] = l
	return &out
}

// sortedEndpoints brings a set into one order, whatever the source's was.
func sortedEndpoints(set []Endpoint) []Endpoint {
	out := slices.Clone(set)
	slices.SortFunc(out, func(a, b Endpoint) int {
		return cmp.Or(cmp.Compare(a.Address, b.Address), cmp.Compare(a.Port, b.Port))
	})
	return slices.Compact(out)
}
