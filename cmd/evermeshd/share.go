package main

import (
	"context"
	"time"

	"github.com/google/uuid"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/share"
)

// openShares reads which meshes are shared with whom.
func (d *daemon) openShares(ctx context.Context) error {
	var err error
	d.shares, err = share.Open(ctx, share.Config{
		Store: d.store, Realm: d.realm(), Management: d.config.Account, Mesh: d.meshUID, Account: d.keys.AccountExists, Log: d.log, Now: time.Now, NewID: uuid.NewString,
	})
	if err != nil {
		return err
	}
	d.around.shares = d.shares
	d.keys.Directory().Organizations(d.shares.Organization)
	return nil
}

// meshUID is the uid of a mesh as this replica knows it. One that has just started and
// knows nothing yet asks the store, so that guests are not refused for a moment.
func (d *daemon) meshUID(key api.Key) string {
	var r *api.Resource
	if s := d.loop.Snapshot(); s != nil {
		r = s.Get(key)
	} else if found, err := d.store.Get(context.Background(), key); err == nil { // else it is not known
		r = found
	}
	if r == nil {
		return ""
	}
	return r.UID
}

// comeIn says whether proxies of the principal may come into the mesh of a node: it is
// of their account, or shared with it. Whose the node is, is asked apart from that.
func (d *daemon) comeIn(p auth.Principal, key api.Key) error {
	const action = "appmesh:StreamAggregatedResources"
	if key.Owner == p.Account || d.shares.Shared(p.Account, key, action) {
		return nil
	}
	return auth.Allow(p, action, d.realm().ARN(key, key.Owner))
}

// sharesRest is how long apart guests' streams are looked at again, at least, because
// shares changed.
const sharesRest = time.Second

// endGuests has the streams of guests authorised again whenever shares changed: those of
// accounts whose share ended are closed (SHARE-019). Streams in meshes of one's own are
// left alone.
func (d *daemon) endGuests(ctx context.Context) error {
	rest := time.NewTicker(sharesRest)
	defer rest.Stop()
	for {
		changed := d.shares.Changed()
		d.proxies.Reauthorize(func(p auth.Principal, key api.Key) bool { return p.Account != key.Owner })
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
		select {
		case <-rest.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
