package mesh

import (
	"sync"
	"sync/atomic"

	"github.com/evermesh/evermesh/internal/api"
)

// memo keeps what the services of a mesh resolve to, as that does not depend on
// who calls them: a service is resolved once for all clients, and again only
// when something that it was resolved from has changed. All snapshots that came
// from one another by Apply share a memo. Each looks whether what it finds there
// holds for itself, so that a snapshot gives the same views whoever else uses
// the memo; only the sharing suffers when old and new ones take turns.
type memo struct {
	generations atomic.Uint64 // given out to tables

	mu       sync.RWMutex
	services map[string]*remembered
}

// remembered is a service, and the tables in which it was last found to hold.
type remembered struct {
	service *Service
	in      stamp
}

// stamp tells the tables of services, routers, routes and nodes from those of
// other snapshots.
type stamp [4]uint64

func newMemo() *memo { return &memo{services: map[string]*remembered{}} }

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
		if held := m.services[name]; held != nil && held.in == now {
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
	if held != nil && (held.in == now || held.service.holds(t, held.in, now)) {
		held.in = now
		return held.service
	}
	s := t.service(mesh, name)
	if s == nil {
		delete(m.services, name)
		return nil
	}
	m.services[name] = &remembered{s, now}
	return s
}
