package discovery

import (
	"cmp"
	"slices"

	"github.com/evermesh/evermesh/internal/envoy"
)

// A proxy that drains is left out of the sets that clients are given: it is to be chosen
// no more before it stops to listen. Sources and memory go on to have its endpoints.

// Drain is a draining proxy: these endpoints of a service are its, in whichever sets of
// the service they are.
type Drain struct {
	Name      string // of the drain, for Drained
	Account   string // that queries for the service name; empty where they name none
	Namespace string
	Service   string
	Endpoints []envoy.Endpoint
	Order     int64 // of drains; the younger the greater
}

// place is a service of Cloud Map.
type place struct{ account, namespace, service string }

func placeOf(q envoy.EndpointQuery) place { return place{q.Account, q.Namespace, q.Service} }

// draining are the drains of a service.
type draining struct {
	all []Drain                // the oldest first
	by  map[envoy.Endpoint]int // the youngest drain that has it
}

// drains are all drains, and up to which revision.
type drains struct {
	revision int64
	of       map[place]*draining

	// When Take was last called:
	taken int64
	kept  []string
}

// drainsOf sorts drains by the services that they are of.
func drainsOf(all []Drain) map[place]*draining {
	out := map[place]*draining{}
	for _, d := range all {
		at := place{d.Account, d.Namespace, d.Service}
		if out[at] == nil {
			out[at] = &draining{by: map[envoy.Endpoint]int{}}
		}
		out[at].all = append(out[at].all, d)
	}
	for _, of := range out {
		slices.SortFunc(of.all, func(a, b Drain) int { return cmp.Or(cmp.Compare(a.Order, b.Order), cmp.Compare(a.Name, b.Name)) })
		for i := range of.all {
			for _, e := range of.all[i].Endpoints {
				of.by[e] = i
			}
		}
	}
	return out
}

// Drain makes these the drains that there are, up to a revision.
func (r *Registry) Drain(revision int64, all []Drain) {
	now := drainsOf(all)
	r.mu.Lock()
	defer r.mu.Unlock()
	before := r.drains.of
	r.drains.of, r.drains.revision = now, revision
	for q, s := range r.known {
		at := placeOf(q)
		if before[at] == nil && now[at] == nil {
			continue
		}
		// Sets are replaced and not changed: who has one reads it without the lock.
		again := *s
		r.drains.show(&again)
		if same := slices.Equal(again.shown, s.shown); !same || !slices.Equal(again.kept, s.kept) {
			r.known[q] = &again
			if !same {
				r.touch(q)
			}
		}
	}
	signal(r.changed)
}

// Drained is up to which revision drains were in the sets when Take was last called, and
// the names of those of which some set has an endpoint yet: the youngest is left in a set
// that would be empty without it, as nobody is served by an empty one.
func (r *Registry) Drained() (revision int64, kept []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.drains.taken, r.drains.kept
}

// take notes what Drained is to say; mu is held.
func (r *Registry) take() {
	r.drains.taken, r.drains.kept = r.drains.revision, nil
	if len(r.drains.of) == 0 {
		return
	}
	for q, s := range r.known {
		if len(s.kept) > 0 && len(r.users[q]) > 0 {
			r.drains.kept = append(r.drains.kept, s.kept...)
		}
	}
	slices.Sort(r.drains.kept)
	r.drains.kept = slices.Compact(r.drains.kept)
}

// show works out what of a set is shown. What was left out once does not come back
// because others drain, too: of a set of which all drain, what drained last stays.
func (d *drains) show(s *set) {
	s.shown, s.kept = s.Endpoints, nil
	of := d.of[placeOf(s.Query)]
	if of == nil || len(s.Endpoints) == 0 {
		return
	}
	shown, last, keeper := []envoy.Endpoint{}, -1, []envoy.Endpoint(nil)
	for _, e := range s.Endpoints {
		by, drains := of.by[e]
		switch {
		case !drains:
			shown = append(shown, e)
		case by > last:
			last, keeper = by, []envoy.Endpoint{e}
		case by == last:
			keeper = append(keeper, e)
		}
	}
	if s.shown = shown; len(shown) == 0 {
		s.shown, s.kept = keeper, []string{of.all[last].Name}
	}
}
