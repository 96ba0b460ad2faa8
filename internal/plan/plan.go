package plan

import (
	"cmp"
	"context"
	"slices"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/envoy"
	"github.com/evermesh/evermesh/internal/mesh"
)

// Change is one resource of a change.
type Change struct {
	Key api.Key
	// Now is the resource as it is to be; its version and, of one that exists, its
	// times and owner do not count. nil removes it.
	Now *api.Resource
}

// Resource is what would become of a change.
type Resource struct {
	Change
	Action api.PlanAction
	// Before is the resource as it is, nil when it does not exist.
	Before *api.Resource
	// Refusal is why the API would refuse the change; of a removal that would not
	// be tried, nil with the action NONE.
	Refusal error
}

// Configuration is what would become of one of Envoy's resources.
type Configuration struct {
	Type       api.DiscoveryType
	Action     api.PlanAction
	Before     *envoy.Resource // nil when it is new
	After      *envoy.Resource // nil when it would be gone
	Difference string          // of an update, as text; empty when there is no room for it
}

// Drains says whether Envoy ends connections because of it: it drains those of a
// listener, or of its filter chains, that changes or goes.
func (c Configuration) Drains() bool {
	return c.Type == api.DiscoveryTypeListener && c.Before != nil
}

// Name is the name of Envoy's resource.
func (c Configuration) Name() string { return cmp.Or(c.After, c.Before).Name }

// Proxy is what would become of the configuration of a node's or gateway's
// proxies.
type Proxy struct {
	Client mesh.Client
	// Action is CREATE for a node or gateway that is new, DELETE for one that would
	// be gone: its proxies keep what they have, and get nothing new.
	Action         api.PlanAction
	Configurations []Configuration
	// Problems are those that it would have and has not now.
	Problems []mesh.Problem
}

// Result is what a set of changes would do.
type Result struct {
	Resources []Resource // in the order of the changes
	Proxies   []Proxy    // those whose configuration would be another, sorted
	// Complete says that every difference of a configuration is written out.
	Complete bool
}

// mostText bounds the differences of configurations, in bytes.
const mostText = 4 << 20

// On works out what the changes would do to a snapshot. They are done as package
// apply does them: what others refer to first, again after others when that
// helps, and removals last and only when nothing was refused. The error is ctx's.
func On(ctx context.Context, s *mesh.Snapshot, changes []Change) (Result, error) {
	after, resources := write(s, changes)
	out := Result{Resources: resources, Complete: true}
	meshes := map[api.Key]bool{}
	for _, r := range resources {
		meshes[r.Key.MeshKey()] = true
	}
	clients := map[mesh.Client]bool{}
	for m := range meshes {
		for _, c := range append(clientsOf(s, m), clientsOf(after, m)...) {
			clients[c] = true
		}
	}
	sorted := make([]mesh.Client, 0, len(clients))
	for c := range clients {
		sorted = append(sorted, c)
	}
	slices.SortFunc(sorted, byKey)
	d := differ{known: map[[2]*envoy.Resource]string{}, room: mostText}
	for _, c := range sorted {
		if ctx.Err() != nil {
			return Result{}, ctx.Err()
		}
		if p, differs := d.proxy(s, after, c); differs {
			out.Proxies = append(out.Proxies, p)
		}
	}
	out.Complete = !d.full
	return out, nil
}

// write does the changes on the snapshot, as far as the rules allow.
func write(s *mesh.Snapshot, changes []Change) (*mesh.Snapshot, []Resource) {
	out := make([]Resource, len(changes))
	var writes, removals []int
	for n, c := range changes {
		out[n] = Resource{Change: c, Action: api.PlanActionNone}
		if c.Now != nil {
			writes = append(writes, n)
		} else {
			removals = append(removals, n)
		}
	}
	byRank := func(a, b int) int { return rank(changes[a].Key.Kind) - rank(changes[b].Key.Kind) }
	slices.SortStableFunc(writes, byRank)
	slices.SortStableFunc(removals, func(a, b int) int { return byRank(b, a) })
	s, refused := pass(s, out, writes)
	if !refused {
		s, _ = pass(s, out, removals)
	}
	return s, out
}

// pass does the changes of those numbers, those that were refused again after
// the others for as long as that helps.
func pass(s *mesh.Snapshot, all []Resource, todo []int) (now *mesh.Snapshot, refused bool) {
	for len(todo) > 0 {
		var left []int
		for _, n := range todo {
			if s = one(s, &all[n]); all[n].Refusal != nil {
				left = append(left, n)
			}
		}
		if len(left) == len(todo) {
			return s, true
		}
		todo = left
	}
	return s, false
}

// one does one change.
func one(s *mesh.Snapshot, r *Resource) *mesh.Snapshot {
	old := s.Get(r.Key)
	r.Before, r.Refusal = old, nil
	var made *api.Resource
	switch {
	case r.Now == nil && old == nil:
		r.Action = api.PlanActionNone
		return s
	case r.Now == nil:
		r.Action = api.PlanActionDelete
	case old == nil:
		r.Action, made = api.PlanActionCreate, r.Now
	case sameText(old.Document, r.Now.Document):
		r.Action = api.PlanActionNone
		return s
	default:
		next := *old
		next.Version++
		next.Document, next.Spec = r.Now.Document, r.Now.Spec
		r.Action, made = api.PlanActionUpdate, &next
	}
	if err := mesh.Check(s, old, made); err != nil {
		r.Action, r.Refusal = api.PlanActionRefused, err
		return s
	}
	return s.Apply(s.Revision(), []api.Change{{Key: r.Key, New: made}})
}

// rank is the kind's place in the order of creation.
func rank(k api.Kind) int {
	return slices.IndexFunc(api.Kinds(), func(r api.KindRow) bool { return r.Kind == k })
}
