package rest

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
	"github.com/evermesh/evermesh/internal/store"
)

// create makes a resource: version 1, ACTIVE, with its tags (API-005 to
// API-007, API-011, API-032).
func (s *Server) create(row api.KindRow) handler {
	return func(ctx context.Context, c *call) (any, error) {
		key, err := s.addressed(row, c)
		if err != nil {
			return nil, err
		}
		tags, err := newTags(c.doc["tags"])
		if err != nil {
			return nil, err
		}
		document, spec, err := specOf(row, c)
		if err != nil {
			return nil, err
		}
		now := s.Now()
		made := &api.Resource{
			Key: key, UID: s.NewID(), Version: 1, Created: now, Updated: now,
			Owner: c.principal.Account, Tags: tags, Document: document, Spec: spec,
		}
		c.tags, c.refers, c.named = tags, mesh.References(made), mesh.CertificatesOf(made)
		out, err := s.write(ctx, c, key, func(tx *store.Tx) (any, error) {
			if err := mesh.Check(tx, nil, made); err != nil {
				return nil, err
			}
			if err := s.withinQuotas(ctx, tx, nil, made); err != nil {
				return nil, err
			}
			tx.Put(made)
			return s.data(row, made, statusActive)
		})
		if err == nil && row.Kind == api.KindMesh && s.MeshMade != nil {
			s.MeshMade(ctx, c.principal)
		}
		return out, err
	}
}

// specOf returns a call's spec as document and as typed spec. A mesh and a few
// others may come without one.
func specOf(row api.KindRow, c *call) (document []byte, spec any, err error) {
	sent, ok := c.doc["spec"]
	if !ok {
		sent = map[string]any{}
	}
	if document, err = encode(sent); err != nil {
		return nil, nil, fmt.Errorf("encode spec: %w", err)
	}
	if spec, err = api.DecodeSpec(row.Kind, document); err != nil {
		return nil, nil, fmt.Errorf("decode spec: %w", err)
	}
	if ok {
		c.doc["spec"] = json.RawMessage(document) // for the fingerprint of a client token
	}
	return document, spec, nil
}
