package iam

import "context"

// FollowMaster is the part of Run that follows the master key file, without the
// part that follows the store.
func (k *Keys) FollowMaster(ctx context.Context) { k.box.Run(ctx) }
