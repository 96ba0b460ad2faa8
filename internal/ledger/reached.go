package ledger

import (
	"context"
	"slices"

	"github.com/evermesh/evermesh/internal/api"
)

// Reached is Rollout together with every proxy that the key concerns: those that
// refused it first, then those that are waited for, then those that accepted it.
// The state of each is what the rollout counted it as.
func (r *Reader) Reached(ctx context.Context, key api.Key) (api.Rollout, []api.Proxy, error) {
	out, accepted, err := r.rollout(ctx, key)
	if err != nil {
		return out, nil, err
	}
	all := make([]api.Proxy, 0, len(out.Refused)+len(out.Waiting)+len(accepted))
	for _, group := range []struct {
		proxies []api.Proxy
		state   api.ProxyState
	}{{out.Refused, api.ProxyStateRefused}, {out.Waiting, api.ProxyStatePending}, {accepted, api.ProxyStateCurrent}} {
		for _, p := range slices.Clone(group.proxies) {
			p.State = group.state
			all = append(all, p)
		}
	}
	return out, all, nil
}
