package main

import (
	"context"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/api/eksauthapi"
	"github.com/evermesh/evermesh/internal/catchup"
	"github.com/evermesh/evermesh/internal/iam"
	"github.com/evermesh/evermesh/internal/share"
	"github.com/evermesh/evermesh/internal/store"
)

// openMemory makes what nobody is refused by before it is as new as the store: who there
// is and what their policies say, what is shared with whom, and which meshes there are,
// as a share is of the mesh that was there when it was made.
func (d *daemon) openMemory() {
	d.memory = catchup.New(catchup.Config{Heads: d.heads, Now: time.Now, Followers: []catchup.Follower{
		{
			Tail: iam.Tail, Revision: d.keys.Directory().Revision, Reach: d.keys.Directory().Reach,
			Codes: []string{api.CodeUnrecognizedClient, api.CodeAccessDenied, api.CodeForbidden, eksauthapi.CodeInvalidToken},
		},
		{
			Tail: share.Tail, Revision: d.shares.Revision, Reach: d.shares.Reach,
			Codes: []string{api.CodeAccessDenied, api.CodeForbidden},
		},
		{
			Tail: store.MeshTail, Codes: []string{api.CodeForbidden},
			// The loop comes later, and is made before anybody can be refused.
			Revision: func() int64 { return d.loop.Revision() },
			Reach:    func(ctx context.Context, revision int64) bool { return d.loop.Reach(ctx, revision) },
		},
	}})
}

// heads reads how far the store is, and counts that when it has answered.
func (d *daemon) heads(ctx context.Context, tails ...string) ([]int64, error) {
	heads, err := d.store.Heads(ctx, tails...)
	if err == nil {
		d.metrics.catchUps.Inc()
	}
	return heads, err
}
