package rest

import (
	"context"
	"fmt"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
	"github.com/evermesh/evermesh/internal/store"
)

// scopes are what a write of the key reads and writes: its mesh, and where the
// meshes of an account are counted, the account too.
func (s *Server) scopes(key api.Key) []store.Scope {
	out := []store.Scope{store.MeshScope(key.Owner, key.Mesh)}
	if s.counts(key) {
		out = append(out, store.AccountScope(key.Owner))
	}
	return out
}

// counts says whether a write of the key needs the number of its owner's meshes.
func (s *Server) counts(key api.Key) bool { return key.Kind == api.KindMesh && s.Quotas.Meshes > 0 }

// withinQuotas checks what is created or changed against the quotas.
func (s *Server) withinQuotas(ctx context.Context, tx *store.Tx, old, now *api.Resource) error {
	quotas := s.Quotas
	if now.Key.Kind != api.KindMesh { // how many meshes there may be is not a mesh's to say
		quotas = quotas.Of(tx.Get(now.Key.MeshKey()))
	}
	if quotas == (mesh.Quotas{}) {
		return nil
	}
	r := mesh.Reader(tx)
	if old == nil && s.counts(now.Key) {
		// Whoever makes a mesh writes the account's scope, so that of two at once
		// the second counts again.
		all, _, err := s.Store.List(ctx, api.KindMesh, now.Key, "", s.Quotas.Meshes)
		if err != nil {
			return fmt.Errorf("count meshes: %w", err)
		}
		tx.PutRecord(store.Type{Name: "meshCount", Schema: 1, Members: []string{"newest"}}, store.AccountScope(now.Key.Owner).Tail("mesh-count"), map[string]string{"newest": now.UID})
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
