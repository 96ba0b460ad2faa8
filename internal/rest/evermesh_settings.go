package rest

import (
	"context"
	"reflect"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
	"github.com/evermesh/evermesh/internal/store"
)

// describeSettings answers the settings that a mesh has beside its spec (D11);
// what was never set is absent.
func (s *Server) describeSettings(ctx context.Context, c *call) (any, error) {
	key, err := s.settled(c)
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
	return found.Settings, nil
}

// updateSettings replaces the settings of a mesh: what is absent is unset. The
// last writer wins. The mesh's version, times and spec stay.
func (s *Server) updateSettings(ctx context.Context, c *call) (any, error) {
	key, err := s.settled(c)
	if err != nil {
		return nil, err
	}
	now := api.MeshSettings{
		DefaultRetry: api.DefaultRetry(text(c.doc, "defaultRetry")),
		Quotas:       api.QuotaSet(text(c.doc, "quotas")),
		Identity:     api.Identity(text(c.doc, "identity")),
	}
	if list, ok := c.doc["identityAuthorities"].([]any); ok {
		for _, x := range list {
			authority, _ := x.(string)
			now.IdentityAuthorities = append(now.IdentityAuthorities, authority)
		}
	}
	if err := mesh.CheckSettings(key, now); err != nil {
		return nil, err
	}
	return s.write(ctx, c, key, func(tx *store.Tx) (any, error) {
		old := tx.Get(key)
		if old == nil {
			return nil, missing(tx, key)
		}
		if reflect.DeepEqual(old.Settings, now) {
			return now, nil
		}
		if err := s.authorizeIssuers(ctx, c, old.Settings.IdentityAuthorities, now.IdentityAuthorities); err != nil {
			return nil, err
		}
		made := *old
		made.Settings = now
		tx.Put(&made)
		return now, nil
	})
}

// settled is the key of the mesh whose settings a call names.
func (s *Server) settled(c *call) (api.Key, error) {
	row, _ := api.KindMesh.Row()
	return s.addressed(row, c)
}
