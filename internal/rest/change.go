package rest

import (
	"context"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
	"github.com/evermesh/evermesh/internal/store"
)

// describe reads a resource from the store itself, so that every replica sees
// every write that was acknowledged (API-023).
func (s *Server) describe(row api.KindRow) handler {
	return func(ctx context.Context, c *call) (any, error) {
		key, err := s.addressed(row, c)
		if err != nil {
			return nil, err
		}
		found, err := s.Store.Get(ctx, key)
		if err != nil {
			return nil, err
		}
		if err := s.authorize(ctx, c, key, found); err != nil {
			return nil, err
		}
		if found == nil {
			return nil, s.absent(ctx, key)
		}
		return s.data(row, found, statusActive)
	}
}

// absent is the refusal for a key that is not in the store: it names the
// outermost part of it that is missing.
func (s *Server) absent(ctx context.Context, key api.Key) error {
	var failed error
	refusal := missing(single(func(k api.Key) *api.Resource {
		r, err := s.Store.Get(ctx, k)
		if err != nil {
			failed = err
		}
		return r
	}), key)
	if failed != nil {
		return failed
	}
	return refusal
}

// update replaces the whole spec (API-044) and counts one version, also when
// nothing differs (API-010).
func (s *Server) update(row api.KindRow) handler {
	return func(ctx context.Context, c *call) (any, error) {
		key, err := s.addressed(row, c)
		if err != nil {
			return nil, err
		}
		document, spec, err := specOf(row, c)
		if err != nil {
			return nil, err
		}
		c.refers, c.named = mesh.References(&api.Resource{Key: key, Spec: spec}), mesh.CertificatesOf(&api.Resource{Key: key, Spec: spec})
		return s.write(ctx, c, key, func(tx *store.Tx) (any, error) {
			old := tx.Get(key)
			if old == nil {
				return nil, s.notOwned(c, tx, key)
			}
			made := *old
			made.Version++
			made.Updated = s.after(old)
			made.Document, made.Spec = document, spec
			if err := mesh.CheckOwner(c.principal.Account, old, &made); err != nil {
				return nil, err
			}
			if err := mesh.Check(tx, old, &made); err != nil {
				return nil, err
			}
			if err := s.withinQuotas(ctx, tx, old, &made); err != nil {
				return nil, err
			}
			tx.Put(&made)
			return s.data(row, &made, statusActive)
		})
	}
}

// delete removes a resource that nothing refers to any more and answers with
// its last state. A child counts one version more, a mesh does not (API-008,
// API-009).
func (s *Server) delete(row api.KindRow) handler {
	return func(ctx context.Context, c *call) (any, error) {
		key, err := s.addressed(row, c)
		if err != nil {
			return nil, err
		}
		return s.write(ctx, c, key, func(tx *store.Tx) (any, error) {
			old := tx.Get(key)
			if old == nil {
				return nil, s.notOwned(c, tx, key)
			}
			if err := mesh.CheckOwner(c.principal.Account, old, nil); err != nil {
				return nil, err
			}
			if err := mesh.Check(tx, old, nil); err != nil {
				return nil, err
			}
			tx.Delete(key)
			gone := *old
			gone.Updated = s.after(old)
			if row.Kind != api.KindMesh {
				gone.Version++
			}
			return s.data(row, &gone, statusDeleted)
		})
	}
}
