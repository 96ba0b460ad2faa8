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
	// By is the account that would do it; empty does not ask whose the resource is.
	By string
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
	// Drains says whether Envoy ends connections because of it, after a time to
	// finish.
	Drains bool
	// Effects say, as sentences, which connections these are and why, and which
	// statistics get other names. Only listeners have any.
	Effects []string
}

// Name is the name of Envoy's resource.
func (c Configuration) Name() string { return cmp.Or(c.After, c.Before).Name }

// Proxy is what would become of the configuration of a node's or gateway's
// proxies.
type Proxy struct {
	// Client has the traits of the proxies; of those that differ in nothing but the
	// address at which they take what comes in, the first one's.
	Client mesh.Client
	// Connected is how many of them are connected.
	Connected int64
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
	Proxies   []Proxy    // those whose configuration would be another, sorted by node or gateway and traits
	// Complete says that every difference of a configuration is written out.
	Complete bool
}

// mostText bounds the differences of configurations, in bytes, and
// mostDifferences how many are worked out: one takes a few milliseconds, and
// nobody reads a thousand.
const (
	mostText        = 4 << 20
	mostDifferences = 100
	// mostPasses is how often changes are done that were refused. Rules look from
	// one kind to another, so no chain of changes that wait for one another is as
	// long; whatever is refused still by then is refused.
	mostPasses = 20
)

// On works out what the changes would do to a snapshot, under the quotas, as
// mesh.QuotasOf has them. They are done as package apply does them: what others refer to
// first, again after others when that helps, and removals last and only when nothing was
// refused. connected has the client of each connected proxy, of any mesh; what has none is
// worked out for proxies without traits. The error is ctx's.
func On(ctx context.Context, s *mesh.Snapshot, limits mesh.Limits, changes []Change, connected ...mesh.Client) (Result, error) {
	w := writer{s.Apart(), limits}
	resources, err := w.write(ctx, changes)
	if err != nil {
		return Result{}, err
	}
	after := w.now
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
	d := differ{known: map[[2]*envoy.Resource]string{}, effects: map[[2]*envoy.Resource]effect{}, room: mostText}
	for _, k := range kindsOf(clients, connected) {
		if ctx.Err() != nil {
			return Result{}, ctx.Err()
		}
		if p, differs := d.proxy(s, after, k.client); differs {
			p.Connected = k.connected
			out.Proxies = append(out.Proxies, p)
		}
	}
	out.Complete = !d.full
	return out, nil
}

// writer does changes on a snapshot.
type writer struct {
	now    *mesh.Snapshot
	limits mesh.Limits
}

// write does the changes, as far as the rules allow. The error is ctx's.
func (w *writer) write(ctx context.Context, changes []Change) ([]Resource, error) {
	out := make([]Resource, len(changes))
	var writes, removals []int
	for n, c := range changes {
		out[n] = Resource{Change: c, Action: api.PlanActionNone, Before: w.now.Get(c.Key)}
		if c.Now != nil {
			writes = append(writes, n)
		} else {
			removals = append(removals, n)
		}
	}
	byRank := func(a, b int) int { return rank(changes[a].Key.Kind) - rank(changes[b].Key.Kind) }
	slices.SortStableFunc(writes, byRank)
	slices.SortStableFunc(removals, func(a, b int) int { return byRank(b, a) })
	done, err := w.pass(ctx, out, writes)
	if done {
		_, err = w.pass(ctx, out, removals)
	}
	return out, err
}

// pass does the changes of those numbers, those that were refused again after
// the others for as long as that helps, but in at most mostPasses rounds. It says
// whether all were done. The error is ctx's.
func (w *writer) pass(ctx context.Context, all []Resource, todo []int) (done bool, err error) {
	for range mostPasses {
		var left []int
		for _, n := range todo {
			if ctx.Err() != nil {
				return false, ctx.Err()
			}
			if w.one(&all[n]); all[n].Refusal != nil {
				left = append(left, n)
			}
		}
		if len(left) == 0 || len(left) == len(todo) {
			return len(left) == 0, nil
		}
		todo = left
	}
	return false, nil
}

// one does one change.
func (w *writer) one(r *Resource) {
	r.Refusal = nil
	old, made := r.Before, r.Now
	switch {
	case made == nil && old == nil:
		r.Action = api.PlanActionNone
		return
	case made == nil:
		r.Action = api.PlanActionDelete
	case old == nil:
		r.Action = api.PlanActionCreate
	case sameText(old.Document, made.Document):
		r.Action = api.PlanActionNone
		return
	default:
		next := *old
		next.Version++
		next.Document, next.Spec = made.Document, made.Spec
		r.Action, made = api.PlanActionUpdate, &next
	}
	var err error
	if r.By != "" {
		err = mesh.CheckOwner(r.By, old, made)
	}
	if err == nil {
		err = mesh.Check(w.now, old, made)
	}
	if err == nil && made != nil {
		err = mesh.CheckQuotas(mesh.QuotasOf(w.limits, w.now, r.Key), w.now, old, made)
	}
	if err != nil {
		r.Action, r.Refusal = api.PlanActionRefused, err
		return
	}
	w.now = w.now.Apply(w.now.Revision(), []api.Change{{Key: r.Key, New: made}})
}

// rank is the kind's place in the order of creation.
func rank(k api.Kind) int {
	return slices.IndexFunc(api.Kinds(), func(r api.KindRow) bool { return r.Kind == k })
}
