package publish

import (
	"slices"
	"sync"
	"time"

	"github.com/evermesh/evermesh/internal/mesh"
)

// mostPast is how many snapshots of before are kept.
const mostPast = 32

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

// newestFirst calls look with each snapshot and when it was replaced, until it says
// that it looks at no more. It returns up to when replaced snapshots were not looked
// at.
func (p *past) newestFirst(look func(s *mesh.Snapshot, at time.Time) bool) (forgotten time.Time) {
	p.mu.Lock()
	for i := range p.snapshots {
		if r := &p.snapshots[i]; r.apart == nil {
			r.apart = r.snapshot.Apart()
		}
	}
	kept, forgotten := p.snapshots, p.forgotten // add makes another list
	p.mu.Unlock()
	for _, r := range slices.Backward(kept) {
		if !look(r.apart, r.at) {
			return r.at
		}
	}
	return forgotten
}
