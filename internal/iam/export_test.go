package iam

import (
	"context"

	"github.com/evermesh/evermesh/internal/store"
)

// FollowMaster is the part of Run that follows the master key file, without the
// part that follows the store.
func (k *Keys) FollowMaster(ctx context.Context) { k.box.Run(ctx) }

// Take is what the watch calls.
func (k *Keys) Take(b store.RecordBatch) { k.take(b) }

// Parsed counts the policies of accounts that were parsed.
func (d *Directory) Parsed() (parsed, all int) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	count := func(list ...*document) {
		for _, x := range list {
			if x == nil {
				continue
			}
			all++
			if x.parsed != nil {
				parsed++
			}
		}
	}
	for _, t := range d.tenants {
		for _, of := range t.members {
			for _, m := range of {
				count(m.inline...)
				count(m.trust)
			}
		}
		for _, x := range t.policies {
			count(x)
		}
	}
	return parsed, all
}

// WriteUsed writes what is due of the use of keys.
func (k *Keys) WriteUsed(ctx context.Context) error { return k.used.write(ctx, k.config.Store) }

// Wait is what writes do before they answer.
func (d *Directory) Wait(ctx context.Context, revision int64) { d.wait(ctx, revision) }

// DueUsed is how many uses of keys are to be written.
func (k *Keys) DueUsed() int {
	k.used.mu.Lock()
	defer k.used.mu.Unlock()
	return len(k.used.due)
}

// Following says whether the store is followed.
func (d *Directory) Following() bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.following
}
