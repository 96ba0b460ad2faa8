package main

import (
	"context"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
	"github.com/evermesh/evermesh/internal/service"
	"github.com/evermesh/evermesh/internal/tagging"
)

// tagging serves the Resource Groups Tagging API for App Mesh. What it stands on is made
// after it, and before the first call.
func (d *daemon) tagging() (*service.Service, error) {
	s := &tagging.Server{
		Realm: d.realm(),
		Shared: func(account string, mesh api.Key) bool {
			return d.shares.Shared(account, mesh, "appmesh:ListTagsForResource")
		},
		Snapshot: func(ctx context.Context) (*mesh.Snapshot, error) { return d.loop.Fresh(ctx) },
		Do: func(ctx context.Context, asked *service.Call, operation string, input map[string]any) (any, error) {
			return d.api.Do(ctx, asked, operation, input)
		},
	}
	return s.Service()
}
