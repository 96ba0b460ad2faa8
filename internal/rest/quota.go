package rest

import (
	"context"
	"errors"
	"fmt"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
	"github.com/evermesh/evermesh/internal/store"
)

// Refresher is mesh.Limits that follow the store: what another replica has written may
// not be known yet.
type Refresher interface {
	// Refresh reads an account's quotas as they are now.
	Refresh(ctx context.Context, account string) error
}

// scopes are what a write of the key reads and writes: its mesh and, where there are
// quotas, what the meshes of its owner are counted in.
func (s *Server) scopes(key api.Key) []store.Scope {
	out := []store.Scope{store.MeshScope(key.Owner, key.Mesh)}
	if key.Kind == api.KindMesh && s.Quotas != nil {
		out = append(out, meshCountScope(key.Owner))
	}
	return out
}

// meshCountScope is written by whoever makes a mesh in an account where their number
// is limited.
func meshCountScope(account string) store.Scope { return store.ServiceScope("mesh-count", account) }

// withinQuotas checks what is created or changed against the quotas. A refusal is given
// only with quotas as they are now: whoever had one raised, wherever, may go on at once
// (API-023).
func (s *Server) withinQuotas(ctx context.Context, tx *store.Tx, old, now *api.Resource) error {
	err := s.checkQuotas(ctx, tx, old, now)
	refresher, follows := s.Quotas.(Refresher)
	var refusal *api.Error
	if err == nil || !follows || !errors.As(err, &refusal) {
		return err
	}
	if err := refresher.Refresh(ctx, now.Key.Owner); err != nil {
		return fmt.Errorf("read quotas: %w", err)
	}
	return s.checkQuotas(ctx, tx, old, now)
}

func (s *Server) checkQuotas(ctx context.Context, tx *store.Tx, old, now *api.Resource) error {
	quotas := mesh.QuotasOf(s.Quotas, tx, now.Key)
	if quotas == (mesh.Quotas{}) {
		return nil
	}
	r := mesh.Reader(tx)
	if old == nil && now.Key.Kind == api.KindMesh && quotas.Meshes > 0 {
		// Of two that make one at once, the second counts again.
		all, _, err := s.Store.List(ctx, api.KindMesh, now.Key, "", quotas.Meshes)
		if err != nil {
			return fmt.Errorf("count meshes: %w", err)
		}
		tx.PutRecord(store.Type{Name: "meshCount", Schema: 1, Members: []string{"newest"}}, meshCountScope(now.Key.Owner).Tail("newest"), map[string]string{"newest": now.UID})
		r = meshesOf{tx, all}
	}
	return mesh.CheckQuotas(quotas, r, old, now)
}

// meshesOf is a transaction that lists all meshes of an account.
type meshesOf struct {
	*store.Tx
	all []*api.Resource
}

// List satisfies mesh.Reader.
func (m meshesOf) List(kind api.Kind, parent api.Key) []*api.Resource {
	if kind == api.KindMesh {
		return m.all
	}
	return m.Tx.List(kind, parent)
}
