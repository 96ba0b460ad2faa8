package discovery

import (
	"cmp"
	"slices"

	"github.com/evermesh/evermesh/internal/envoy"
)

// A proxy that drains is left out of the sets that clients are given: it is to be chosen
// no more before it stops to listen. Sources and memory go on to have its endpoints.

// Drain is a draining proxy: its endpoints are those of a service that have one of its
// addresses, whatever the port.
type Drain struct {
	Name      string // of the drain, for Drained
	Account   string // that the service is of; compared where queries say whose they mean
	Namespace string
	Service   string
	Addresses []string
	Order     int64 // of drains; the younger the greater
}

func (d *Drain) has(e envoy.Endpoint) bool { return slices.Contains(d.Addresses, e.Address) }

// drains are all drains, and up to which revision.
type drains struct {
	revision int64
	of       map[[2]string][]Drain // by namespace and service, the oldest first

	// When Take was last called:
	taken int64
	kept  []string
}

// Drain makes these the drains that there are, up to a revision.
func (r *Registry) Drain(revision int64, all []Drain) {
	now := map[[2]string][]Drain{}
	for _, d := range all {
		at := [2]string{d.Namespace, d.Service}
		now[at] = append(now[at], d)
	}
	for _, list := range now {
		slices.SortFunc(list, func(a, b Drain) int { return cmp.Or(cmp.Compare(a.Order, b.Order), cmp.Compare(a.Name, b.Name)) })
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	before := r.drains.of
	r.drains.of, r.drains.revision = now, revision
	for q, s := range r.known {
		at := [2]string{q.Namespace, q.Service}
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
	all := d.of[[2]string{s.Query.Namespace, s.Query.Service}]
	if len(all) == 0 || len(s.Endpoints) == 0 {
		return
	}
	shown, last, keeper := []envoy.Endpoint{}, -1, []envoy.Endpoint(nil)
	for _, e := range s.Endpoints {
		by := -1
		for i := range all {
			if (s.Query.Account == "" || s.Query.Account == all[i].Account) && all[i].has(e) {
				by = i
			}
		}
		switch {
		case by < 0:
			shown = append(shown, e)
		case by > last:
			last, keeper = by, []envoy.Endpoint{e}
		case by == last:
			keeper = append(keeper, e)
		}
	}
	if s.shown = shown; len(shown) == 0 {
		s.shown, s.kept = keeper, []string{all[last].Name}
	}
}
