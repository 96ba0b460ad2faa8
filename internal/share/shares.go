package share

import (
	"cmp"
	"context"
	"slices"
	"sync"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/store"
)

// Shares answers, from memory, what is shared with whom. What any replica writes is
// known as soon as the store's watch tells, within a second (SHARE-019), and before
// anybody is refused for the want of it (package catchup); while the store cannot be
// reached, what was known goes on.
type Shares struct {
	Config

	mu       sync.RWMutex
	together together
	all      map[string]*share // by key of the record; not changed once it is here
	meshes   map[api.Key][]inShare
	accounts map[string]map[*share]bool // for which accounts are principals of
	groups   map[*share]bool            // which have other principals
	grants   map[string]bool            // the actions of a share
	revision int64                      // up to which the watch told
	changed  chan struct{}              // closed at the next change of what is shared
	moved    chan struct{}              // closed when revision grows
}

// inShare is a mesh in a share.
type inShare struct {
	*share
	uid string // of the mesh
}

// Shared says whether the owner of a mesh lets an account do the action in it. It
// says nothing of the owner itself, nor of whose resource it is done to.
func (s *Shares) Shared(account string, mesh api.Key, action string) bool {
	mesh = mesh.MeshKey()
	s.mu.RLock()
	granted := s.grants[action] && s.reached(account, mesh)
	s.mu.RUnlock()
	return granted
}

// reached says whether a share reaches the account that the mesh is in: the one that
// exists, not an earlier one of its name. mu is held.
func (s *Shares) reached(account string, mesh api.Key) bool {
	return slices.ContainsFunc(s.meshes[mesh], func(x inShare) bool {
		return x.Permitted && slices.ContainsFunc(x.Principals, func(p entity) bool { return s.together.reaches(x.share, p, account) }) &&
			(s.Mesh == nil || s.Mesh(mesh) == x.uid)
	})
}

// Meshes are the meshes of others that are shared with an account, in the order of
// their owners and names.
func (s *Shares) Meshes(account string) []api.Key {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var out []api.Key
	for _, shares := range []map[*share]bool{s.accounts[account], s.groups} {
		for x := range shares {
			for _, e := range x.shared() {
				if mesh, ok := meshOf(e); ok && s.reached(account, mesh) {
					out = append(out, mesh)
				}
			}
		}
	}
	slices.SortFunc(out, func(a, b api.Key) int {
		return cmp.Or(cmp.Compare(a.Owner, b.Owner), cmp.Compare(a.Mesh, b.Mesh))
	})
	return slices.Compact(out)
}

// Organization is the id of the organization that an account is in; empty for none.
func (s *Shares) Organization(account string) string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if !s.together.member(account) {
		return ""
	}
	return s.together.ID
}

// Changed is closed at the next change of what is shared: whoever let someone in by a
// share has to ask again.
func (s *Shares) Changed() <-chan struct{} {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.changed
}

// Run follows the store until ctx ends, and returns its error.
func (s *Shares) Run(ctx context.Context) error {
	return s.Store.WatchRecords(ctx, Tail, func(b store.RecordBatch) error {
		s.take(b)
		return nil
	})
}

// take learns what the watch has told. What cannot be read shares nothing.
func (s *Shares) take(b store.RecordBatch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b.Reset {
		s.all, s.together, s.grants = map[string]*share{}, newTogether(s.Realm, s.Management), grants()
		s.meshes, s.accounts, s.groups = map[api.Key][]inShare{}, map[string]map[*share]bool{}, map[*share]bool{}
	}
	for _, key := range b.Gone {
		s.forget(key)
		switch key {
		case organizationTail():
			s.together.Organization = Organization{ID: DefaultOrganization}
		case enabledTail():
			s.together.enabled = false
		}
	}
	for _, r := range b.Records {
		err := s.together.take(r.Key, r.Body)
		x, unread := read(r)
		s.forget(r.Key)
		if err = cmp.Or(err, unread); err != nil {
			s.Log.Error("share cannot be read and is refused", "key", r.Key, "err", err)
			continue
		}
		if x != nil {
			s.learn(r.Key, x)
		}
	}
	s.revision = b.Revision
	close(s.moved)
	close(s.changed)
	s.moved, s.changed = make(chan struct{}), make(chan struct{})
}

// shared are the meshes that a share opens.
func (x *share) shared() []entity {
	if x.deleted() {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(x.Meshes), func(e entity) bool { return e.Status != associated })
}

// learn takes a share in, and forget out again; mu is held. A change costs what is in the
// share, however many others there are.
func (s *Shares) learn(key string, x *share) {
	s.all[key] = x
	for _, e := range x.shared() {
		if mesh, ok := meshOf(e); ok {
			s.meshes[mesh] = append(s.meshes[mesh], inShare{x, e.UID})
		}
	}
	for _, p := range x.Principals {
		switch {
		case p.Status != associated:
		case !accountForm.MatchString(p.ID):
			s.groups[x] = true
		case s.accounts[p.ID] == nil:
			s.accounts[p.ID] = map[*share]bool{x: true}
		default:
			s.accounts[p.ID][x] = true
		}
	}
}

func (s *Shares) forget(key string) {
	x := s.all[key]
	if x == nil {
		return
	}
	delete(s.all, key)
	for _, e := range x.shared() {
		if mesh, ok := meshOf(e); ok {
			s.meshes[mesh] = slices.DeleteFunc(s.meshes[mesh], func(o inShare) bool { return o.share == x })
			if len(s.meshes[mesh]) == 0 {
				delete(s.meshes, mesh)
			}
		}
	}
	delete(s.groups, x)
	for _, p := range x.Principals {
		if delete(s.accounts[p.ID], x); len(s.accounts[p.ID]) == 0 {
			delete(s.accounts, p.ID)
		}
	}
}

// meshOf is the key of a mesh in a share.
func meshOf(e entity) (api.Key, bool) {
	a, err := api.ParseARN(e.ID)
	if err != nil {
		return api.Key{}, false
	}
	return api.Key{Owner: a.Account, Mesh: a.Mesh, Kind: api.KindMesh, Name: a.Mesh}, true
}

// settle waits until this replica goes by a revision, for a moment at most: a caller's
// next call mostly comes to the same replica, and others are as far within a second.
func (s *Shares) settle(ctx context.Context, revision int64) {
	ctx, cancel := context.WithTimeout(ctx, settles)
	defer cancel()
	s.Reach(ctx, revision)
}

// Revision is that of the store up to which the shares were told.
func (s *Shares) Revision() int64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.revision
}

// Reach returns when the shares were told up to a revision of the store, or when ctx has
// ended: whether they were.
func (s *Shares) Reach(ctx context.Context, revision int64) bool {
	for {
		s.mu.RLock()
		reached, moved := s.revision >= revision, s.moved
		s.mu.RUnlock()
		if reached {
			return true
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return false
		}
	}
}
