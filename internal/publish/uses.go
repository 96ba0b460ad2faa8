package publish

import (
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
)

// mostViews is how many views of snapshots of before are resolved for one look.
const mostViews = 4096

// use is how a client's services lead to a node.
type use struct {
	leads bool      // they do
	until time.Time // when they last did, in what is not shown any more
}

// uses are which clients use which nodes, of those that are asked for.
type uses struct {
	of map[api.Key]map[string]use // by node and client
	// forgotten is up to when it is not known who used what.
	forgotten time.Time
}

// shownNow are the snapshots that say where services lead: what is shown here and,
// where clients go on with what was before, also what is stored.
func (l *Loop) shownNow() []*mesh.Snapshot {
	stored, keeping, shown := l.Snapshot(), l.keeping.Load(), l.shown.Load()
	if keeping {
		return []*mesh.Snapshot{shown, stored}
	}
	return []*mesh.Snapshot{shown}
}

// use finds out which of the rows' clients use the nodes. Each view is resolved once,
// however many nodes there are.
func (l *Loop) use(s *standing, now []*mesh.Snapshot, nodes map[api.Key]bool) {
	s.uses.of = make(map[api.Key]map[string]use, len(nodes))
	each := func(snapshot *mesh.Snapshot, client string, note func(use) use) {
		key, err := api.ParseKey(client)
		if err != nil {
			return
		}
		c := mesh.Client{Key: key}
		view, _, _ := snapshot.View(c)
		if l.Visited != nil {
			l.Visited(c, false)
		}
		if view == nil {
			return
		}
		for node := range view.Targets() {
			if !nodes[node.Key] {
				continue
			}
			users := s.uses.of[node.Key]
			if users == nil {
				users = map[string]use{}
				s.uses.of[node.Key] = users
			}
			users[client] = note(users[client])
		}
	}
	late := map[string]bool{}
	for _, i := range s.behind {
		late[s.rows[i].Client] = true
	}
	for client, rows := range s.of {
		for _, i := range rows {
			if len(s.rows[i].Members) == 0 {
				continue
			}
			for _, snapshot := range now {
				each(snapshot, client, func(u use) use { u.leads = true; return u })
			}
			break
		}
	}
	left := mostViews
	s.uses.forgotten = l.past.newestFirst(func(snapshot *mesh.Snapshot, at time.Time) bool {
		if left -= len(late); left < 0 {
			return false
		}
		for client := range late {
			each(snapshot, client, func(u use) use {
				if at.After(u.until) {
					u.until = at
				}
				return u
			})
		}
		return true
	})
}
