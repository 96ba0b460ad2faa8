package store

import (
	"context"
	"net/url"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/evermesh/evermesh/internal/api"
)

// MeshTail is where resources are, below <prefix>/v1/.
const MeshTail = "mesh/"

// Tails are keys below <prefix>/v1/.
const (
	meshTail    = MeshTail
	accountTail = "account/"
	serviceTail = "service/"
	lockTail    = "lock/"
	headTail    = "head"
	headsTail   = "heads/"
	tokenTail   = "token/"
	outboxTail  = "outbox/"
)

// queueLimit is how many writers of a scope may wait in this process (D2).
const queueLimit = 256

// remembered is how many scopes are kept in memory while nobody writes to them.
const remembered = 1024

// Scope is what a transaction reads and writes: everything below one path, such
// as a mesh. Each has one lock key. Scope is comparable.
type Scope struct {
	path string
	// head is the key that every write in the scope rewrites; empty for none.
	head string
}

// MeshScope is the scope of a mesh and all resources in it.
func MeshScope(owner, mesh string) Scope {
	return Scope{meshTail + url.PathEscape(owner) + "/" + url.PathEscape(mesh), headTail}
}

// AccountScope is the scope of an account's own records.
func AccountScope(id string) Scope {
	return Scope{accountTail + url.PathEscape(id), headBelow(accountTail)}
}

// ServiceScope is the scope of a service's records that change together, such as
// those of an account's shares: ServiceScope("ram", account).
func ServiceScope(service string, parts ...string) Scope {
	return Scope{path: Scope{path: serviceTail + url.PathEscape(service)}.Tail(parts...)}
}

// HeadedScope is ServiceScope for records whose newest revision is asked for: each write
// in it rewrites the service's head. All scopes of a service are of one sort.
func HeadedScope(service string, parts ...string) Scope {
	s := ServiceScope(service, parts...)
	s.head = headBelow(serviceTail + url.PathEscape(service))
	return s
}

// headBelow is the head of the scopes below a tail.
func headBelow(tail string) string {
	if tail == meshTail {
		return headTail
	}
	return headsTail + strings.TrimSuffix(tail, "/")
}

// String is the scope's path below <prefix>/v1/.
func (s Scope) String() string { return s.path }

// Tail is the key of a record in the scope, below <prefix>/v1/; the parts are
// percent-encoded here.
func (s Scope) Tail(parts ...string) string {
	var b strings.Builder
	b.WriteString(s.path)
	for _, p := range parts {
		b.WriteString("/" + url.PathEscape(p))
	}
	return b.String()
}

func (s Scope) isMesh() bool { return strings.HasPrefix(s.path, meshTail) }

func (s Scope) holds(tail string) bool {
	rest, ok := strings.CutPrefix(tail, s.path)
	return ok && strings.HasPrefix(rest, "/")
}

// memory is what this process remembers of a scope, as of its lock's revision.
// It belongs to the writer whose turn it is.
type memory struct {
	Scope
	turn  chan struct{} // holds one token, which the writer takes
	users int           // writers that run or wait; guarded by Store.mu

	loaded  bool
	lock    int64 // modification revision of the lock; 0 when the scope is empty
	records map[string]*held
	groups  map[group]map[string]*held
	unread  map[string]error // records that cannot be read, by tail
}

// group is what Tx.List lists: resources of a kind under a parent.
type group struct {
	kind   api.Kind
	parent string
}

func groupOf(k api.Key) group { return group{k.Kind, k.Parent} }

// reset forgets the records.
func (m *memory) reset(lock int64) {
	m.loaded, m.lock = true, lock
	m.records, m.groups, m.unread = map[string]*held{}, map[group]map[string]*held{}, map[string]error{}
}

func (m *memory) put(h *held) {
	m.records[h.Key] = h
	if h.unread != nil {
		m.unread[h.Key] = h.unread
	} else {
		delete(m.unread, h.Key)
	}
	if h.resource == nil {
		return
	}
	g := groupOf(h.resource.Key)
	if m.groups[g] == nil {
		m.groups[g] = map[string]*held{}
	}
	m.groups[g][h.resource.Key.Name] = h
}

func (m *memory) remove(tail string) {
	h := m.records[tail]
	delete(m.records, tail)
	delete(m.unread, tail)
	if h == nil || h.resource == nil {
		return
	}
	g := groupOf(h.resource.Key)
	if delete(m.groups[g], h.resource.Key.Name); len(m.groups[g]) == 0 {
		delete(m.groups, g)
	}
}

// catchUp takes in what was read of the scope: its lock and either everything
// in it or only what is newer than what is remembered. The count of all tells
// whether something was removed meanwhile; if so, everything is read again.
func (m *memory) catchUp(s *Store, lock []*mvccpb.KeyValue, changed []*mvccpb.KeyValue, count int64) {
	at := int64(0)
	if len(lock) > 0 {
		at = lock[0].ModRevision
	}
	if !m.loaded || count == 0 {
		m.reset(at)
	}
	for _, h := range s.known.decode(s, changed) {
		m.put(h)
	}
	m.lock = at
	m.loaded = int64(len(m.records)) == count
}

// fetch are the operations that catchUp needs, two of them.
func (m *memory) fetch(s *Store) []clientv3.Op {
	options := []clientv3.OpOption{clientv3.WithPrefix()}
	if m.loaded {
		options = append(options, clientv3.WithMinModRev(m.lock+1))
	}
	return []clientv3.Op{clientv3.OpGet(s.key(lockTail + m.path)), clientv3.OpGet(s.key(m.path+"/"), options...)}
}

// enter waits for the turn on every scope, in the order of their paths, so that
// two writers never wait for each other.
func (s *Store) enter(ctx context.Context, scopes []Scope) ([]*memory, error) {
	memories := make([]*memory, 0, len(scopes))
	s.mu.Lock()
	for _, scope := range scopes {
		m := s.scopes[scope]
		if m == nil {
			m = &memory{Scope: scope, turn: make(chan struct{}, 1)}
			m.turn <- struct{}{}
			s.scopes[scope] = m
		}
		if m.users > queueLimit {
			s.release(memories)
			s.mu.Unlock()
			return nil, api.Errorf(api.CodeTooManyRequests, "More than %d writes wait for %s: try again more slowly.", queueLimit, scope)
		}
		m.users++
		memories = append(memories, m)
	}
	s.mu.Unlock()
	for i, m := range memories {
		select {
		case <-m.turn:
		case <-ctx.Done():
			s.leave(memories, i)
			return nil, ctx.Err()
		}
	}
	return memories, nil
}

// leave gives the first turns back.
func (s *Store) leave(memories []*memory, turns int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.release(memories)
	for _, m := range memories[:turns] {
		m.turn <- struct{}{}
	}
}

// release counts the writers down. A scope that holds nothing is forgotten
// with its last writer: names that nobody ever created cost no memory. So is
// one that is one too many; its next writer reads it again.
func (s *Store) release(memories []*memory) {
	for _, m := range memories {
		if m.users--; m.users == 0 && (len(m.records) == 0 || len(s.scopes) > remembered) {
			delete(s.scopes, m.Scope)
		}
	}
}
