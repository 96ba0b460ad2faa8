package publish

import (
	"sync"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
)

const (
	// mostPast is how many snapshots of before are kept, and mostPastViews how many
	// views of them are resolved for one look.
	mostPast      = 32
	mostPastViews = 4096
)

// past are the snapshots that were shown a short while ago. A proxy that has not
// accepted its newest configuration may have one of those, and use a node that its
// services do not lead to any more.
type past struct {
	mu        sync.Mutex
	snapshots []replaced // the oldest first
	forgotten time.Time  // when the newest of those that are not kept was replaced
}

// replaced is a snapshot, and when another took its place.
type replaced struct {
	at       time.Time
	snapshot *mesh.Snapshot
	apart    *mesh.Snapshot // the same once it is looked at, which then disturbs nobody
}

// add keeps a snapshot that is replaced now, for that long.
func (p *past) add(s *mesh.Snapshot, now time.Time, keep time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.snapshots = append(p.snapshots, replaced{at: now, snapshot: s})
	n := max(0, len(p.snapshots)-mostPast)
	if n > 0 {
		p.forgotten = p.snapshots[n-1].at
	}
	for n < len(p.snapshots)-1 && now.Sub(p.snapshots[n].at) > keep {
		n++
	}
	p.snapshots = append([]replaced(nil), p.snapshots[n:]...)
}

// led tells which of the clients had services that led to the node, in one of the
// snapshots that were replaced after since; where too many were to tell, all.
func (p *past) led(node api.Key, clients []mesh.Client, since time.Time) map[mesh.Client]bool {
	out := map[mesh.Client]bool{}
	if len(clients) == 0 {
		return out
	}
	snapshots, whole := p.after(since)
	whole = whole && len(clients)*len(snapshots) <= mostPastViews
	for _, c := range clients {
		out[c] = !whole
		for i := 0; whole && i < len(snapshots) && !out[c]; i++ {
			view, _, _ := snapshots[i].View(c)
			out[c] = view != nil && view.Leads(node)
		}
	}
	return out
}

// after are the snapshots that were replaced after since; whole is false when some
// of them are not kept.
func (p *past) after(since time.Time) (out []*mesh.Snapshot, whole bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.snapshots {
		r := &p.snapshots[i]
		if !r.at.After(since) {
			continue
		}
		if r.apart == nil {
			r.apart = r.snapshot.Apart()
		}
		out = append(out, r.apart)
	}
	return out, !p.forgotten.After(since)
}
