package meshdns

import (
	"strings"
	"sync"
	"time"

	"github.com/evermesh/evermesh/internal/mesh"
)

// newest is how old what is known of virtual services may be while they change:
// each look at all of them is worth that many queries.
const newest = 100 * time.Millisecond

// Names knows the names of all virtual services, of all meshes, that a resolver
// could ask for.
type Names struct {
	snapshot func() *mesh.Snapshot
	now      func() time.Time

	mu       sync.Mutex
	revision int64
	read     time.Time
	names    map[string]bool
}

// NewNames makes Names of snapshots, which may be nil at first.
func NewNames(snapshot func() *mesh.Snapshot, now func() time.Time) *Names {
	return &Names{snapshot: snapshot, now: now}
}

// Has says whether some virtual service has the name, which is in lower case, if
// there is a snapshot yet.
func (n *Names) Has(name string) (has, known bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.snapshot()
	if s == nil {
		return false, false
	}
	if now := n.now(); n.names == nil || s.Revision() != n.revision && now.Sub(n.read) >= newest {
		n.names, n.revision, n.read = map[string]bool{}, s.Revision(), now
		for service := range s.ServiceNames() {
			n.names[strings.ToLower(service)] = true
		}
	}
	return n.names[name], true
}
