package main

import (
	"context"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/iam"
	"github.com/evermesh/evermesh/internal/service"
)

// openIdentity makes IAM over the keys: what it says, everything else goes by.
func (d *daemon) openIdentity() {
	d.identity = iam.NewServer(d.keys)
	d.identity.Meshes = func(ctx context.Context, account string) (int, error) {
		list, _, err := d.store.List(ctx, api.KindMesh, api.Key{Kind: api.KindMesh, Owner: account}, "", 1)
		return len(list), err
	}
	d.around.authorizer = d.keys.Authorizer()
}

func (d *daemon) iam() (*service.Service, error) { return d.identity.Service() }

// linkedRoleWait bounds how long the answer to a first mesh waits for the account's
// service-linked role.
const linkedRoleWait = 2 * time.Second

// meshMade makes the account's service-linked role with its first mesh (IAM-028). That
// it fails stops nothing: the next mesh tries again.
func (d *daemon) meshMade(ctx context.Context, p auth.Principal) {
	ctx, cancel := context.WithTimeout(ctx, linkedRoleWait)
	defer cancel()
	if err := d.identity.EnsureLinkedRole(ctx, p, d.around.authorizer, d.around.audit); err != nil {
		d.log.WarnContext(ctx, "service-linked role was not made", "err", err)
	}
}
