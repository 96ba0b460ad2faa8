package certs

import "context"

// Due is how many certificates are to be renewed, as far as the watch has told.
func (r *Registry) Due() int { return len(r.directory.due(r.now())) }

// RenewDue renews them now, as it is in the store.
func (r *Registry) RenewDue(ctx context.Context) {
	for _, h := range r.directory.due(r.now()) {
		if err := r.renew(ctx, h, nil); err != nil {
			r.config.Log.Warn("certificate was not renewed", "err", err)
		}
	}
}

// Followers is how many follow the registry's certificates and authorities.
func (r *Registry) Followers() int {
	r.directory.mu.Lock()
	defer r.directory.mu.Unlock()
	return len(r.directory.followers)
}
