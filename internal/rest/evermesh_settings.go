package rest

import (
	"context"
	"reflect"
	"slices"

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
		if err := s.usableIssuers(ctx, old.Settings.IdentityAuthorities, now.IdentityAuthorities); err != nil {
			return nil, err
		}
		made := *old
		made.Settings = now
		tx.Put(&made)
		return now, nil
	})
}

// usableIssuers refuses authorities that could not act (D11): the first one issues, so
// it is ACTIVE; those that are only trusted may be DISABLED. A list that stays is not
// looked at again.
func (s *Server) usableIssuers(ctx context.Context, old, now []string) error {
	if s.Authority == nil || slices.Equal(old, now) {
		return nil
	}
	for i, authority := range now {
		if _, ours := mesh.Generation(authority); ours {
			continue
		}
		switch status, err := s.Authority(ctx, authority); {
		case err != nil:
			return err
		case status == "":
			return api.Errorf(api.CodeBadRequest, "identityAuthorities[%d]: certificate authority %s does not exist.", i, authority)
		case status == "ACTIVE", status == "DISABLED" && i > 0:
		case i == 0:
			return api.Errorf(api.CodeBadRequest, "identityAuthorities[0]: certificate authority %s is %s: the first one issues the identities, and has to be ACTIVE.", authority, status)
		default:
			return api.Errorf(api.CodeBadRequest, "identityAuthorities[%d]: certificate authority %s is %s: want one that is ACTIVE, or DISABLED to be trusted only.", i, authority, status)
		}
	}
	return nil
}

// settled is the key of the mesh whose settings a call names.
func (s *Server) settled(c *call) (api.Key, error) {
	row, _ := api.KindMesh.Row()
	return s.addressed(row, c)
}
