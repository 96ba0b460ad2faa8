package mesh

import (
	"iter"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/evermesh/evermesh/internal/api"
)

// memo keeps what the services of a mesh resolve to, as that does not depend on
// who calls them: a service is resolved once for all clients, and again only
// when something that it was resolved from has changed. All snapshots that came
// from one another by Apply share a memo; what never was has one apart. Each looks whether what it finds there
// holds for itself, so that a snapshot gives the same views whoever else uses
// the memo; only the sharing suffers when old and new ones take turns.
type memo struct {
	generations atomic.Uint64 // given out to tables

	mu       sync.RWMutex
	services map[string]*remembered
	// from is which services were resolved from a router, or the routes under it,
	// and from a node; whether those were found or not.
	from map[source][]*remembered
	// newest are the newest tables that somebody looked at or that came from them.
	newest *standing
}

// source is a router or a node, by its place and name.
type source struct {
	place int
	name  string
}

// remembered is a service, and the tables in which it was last found to hold.
type remembered struct {
	service *Service
	in      *standing
}

// standing is shared by the services that hold in the same tables: a change
// takes it to the next tables, and leaves behind only the services it concerns.
type standing struct{ stamp }

// stamp tells the tables of services, routers, routes and nodes from those of
// other snapshots.
type stamp [4]uint64

func newMemo() *memo {
	return &memo{services: map[string]*remembered{}, from: map[source][]*remembered{}, newest: &standing{}}
}

// apart is an empty memo for tables of this one's.
func (m *memo) apart() *memo {
	out := newMemo()
	out.generations.Store(m.generations.Load())
	return out
}

// generation is one that no other table of the mesh has.
func (m *memo) generation() uint64 { return m.generations.Add(1) }

func (t *tables) stamp() stamp {
	return stamp{t.kinds[services].generation, t.kinds[routers].generation, t.kinds[routes].generation, t.kinds[nodes].generation}
}

// resolve appends to out what each name resolves to in the tables, nil where
// there is no such service. mesh is the mesh's key.
func (m *memo) resolve(t *tables, mesh api.Key, names []string, out []*Service) []*Service {
	now, missing := t.stamp(), 0
	m.mu.RLock()
	for _, name := range names {
		var s *Service
		if held := m.services[name]; held != nil && held.in.stamp == now {
			s = held.service
		} else {
			missing++
		}
		out = append(out, s)
	}
	m.mu.RUnlock()
	if missing == 0 {
		return out
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, name := range names {
		if found := &out[len(out)-len(names)+i]; *found == nil {
			*found = m.one(t, mesh, name, now)
		}
	}
	return out
}

func (m *memo) one(t *tables, mesh api.Key, name string, now stamp) *Service {
	held := m.services[name]
	if held != nil && held.in.stamp == now {
		return held.service
	}
	if held != nil && held.service.holds(t, held.in.stamp, now) {
		held.in = m.standing(now)
		return held.service
	}
	m.forget(name)
	s := t.service(mesh, name)
	if s == nil {
		return nil
	}
	held = &remembered{s, m.standing(now)}
	m.services[name] = held
	for from := range s.sources() {
		if list := m.from[from]; len(list) == 0 || list[len(list)-1] != held {
			m.from[from] = append(list, held)
		}
	}
	return s
}

// standing is that of the services that hold in the tables. Older tables, which
// somebody still looks at, do not become the newest again.
func (m *memo) standing(now stamp) *standing {
	switch {
	case m.newest.stamp == now:
		return m.newest
	case slices.Max(m.newest.stamp[:]) > slices.Max(now[:]):
		return &standing{now}
	}
	m.newest = &standing{now}
	return m.newest
}

func (m *memo) forget(name string) {
	held := m.services[name]
	if held == nil {
		return
	}
	delete(m.services, name)
	for from := range held.service.sources() {
		list := slices.DeleteFunc(m.from[from], func(r *remembered) bool { return r == held })
		if m.from[from] = list; len(list) == 0 {
			delete(m.from, from)
		}
	}
}

// sources are the routers and nodes that the service was resolved from. One may
// come twice.
func (s *Service) sources() iter.Seq[source] {
	return func(yield func(source) bool) {
		more := true
		s.reads(func(key api.Key) {
			if i, _ := place(key.Kind); more && (i == routers || i == nodes) {
				more = yield(source{i, key.Name})
			}
		}, func(keyRange) {}) // of the routes under a router that was named
	}
}

// advance is told that the changes made the tables of now from those of then:
// what holds there and has not read any of them holds here. A removed service is
// forgotten, whether or not anybody looks for it again.
func (m *memo) advance(then, now stamp, changes []api.Change) {
	m.mu.Lock()
	defer m.mu.Unlock()
	follows := m.newest.stamp == then
	behind := &standing{then}
	leave := func(r *remembered) {
		if r != nil && r.in == m.newest {
			r.in = behind
		}
	}
	for _, c := range changes {
		i, ok := place(c.Key.Kind)
		switch {
		case ok && i == services && c.New == nil:
			m.forget(c.Key.Name)
		case !ok || !follows:
		case i == services:
			leave(m.services[c.Key.Name])
		case i == nodes, i == routers, i == routes:
			from := source{i, c.Key.Name}
			if i == routes {
				from = source{routers, c.Key.Parent}
			}
			for _, r := range m.from[from] {
				leave(r)
			}
		}
	}
	if follows {
		m.newest.stamp = now
	}
}
