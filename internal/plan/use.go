// Package plan works out, on a snapshot, what a resource is used for and what a
// change of resources would do: to the resources, by the rules that writes keep,
// and to the configuration of every proxy. It writes nothing and asks nobody: the
// same view and the same bundle that package publish would make are made here of
// a snapshot that exists nowhere else.
//
// UseOf answers for one resource; Changes.On for a set of changes.
package plan

import (
	"slices"
	"strings"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/envoy"
	"github.com/evermesh/evermesh/internal/mesh"
)

// mostBuilt is for how many users of a resource bundles are built: what cannot
// be translated of it is much the same for all.
const mostBuilt = 20

// Use is what a resource is used for.
type Use struct {
	// Clients are the nodes and gateways whose views read the resource, connected
	// or not, sorted.
	Clients []mesh.Client
	// Problems are the resource's own, found while the clients' views were
	// resolved, and while the bundles of the first few were built.
	Problems []mesh.Problem
}

// UseOf tells what the key is used for in its mesh.
func UseOf(s *mesh.Snapshot, key api.Key) Use {
	type resolved struct {
		view     *mesh.View
		problems []mesh.Problem
	}
	views := map[mesh.Client]resolved{}
	index := mesh.NewIndex()
	for _, c := range clientsOf(s, key.MeshKey()) {
		view, problems, reads := s.View(c)
		index.Set(c, reads)
		views[c] = resolved{view, problems}
	}
	out := Use{Clients: index.Affected([]api.Change{{Key: key}})}
	slices.SortFunc(out.Clients, byKey)
	var builder envoy.Builder
	add := func(problems []mesh.Problem) {
		for _, p := range problems {
			if p.Key == key && !slices.Contains(out.Problems, p) {
				out.Problems = append(out.Problems, p)
			}
		}
	}
	for i, c := range out.Clients {
		r := views[c]
		add(r.problems)
		if i < mostBuilt && r.view != nil {
			_, problems := builder.Build(r.view, nil)
			add(problems)
		}
	}
	return out
}

// clientsOf are all nodes and gateways of a mesh.
func clientsOf(s *mesh.Snapshot, of api.Key) []mesh.Client {
	var out []mesh.Client
	for _, kind := range []api.Kind{api.KindVirtualNode, api.KindVirtualGateway} {
		for _, r := range s.List(kind, of) {
			out = append(out, mesh.Client{Key: r.Key})
		}
	}
	return out
}

func byKey(a, b mesh.Client) int { return strings.Compare(a.Key.String(), b.Key.String()) }
