package ledger

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
)

// Reader answers for the proxies of all replicas.
type Reader struct {
	Store Store
	Realm api.Realm
	// Affected tells which clients read the key in their views.
	Affected func(ctx context.Context, revision int64, key api.Key, clients []mesh.Client) (map[mesh.Client]bool, error)
	// Flushed is closed at the next change of this replica's rows.
	Flushed func() <-chan struct{}
	Now     func() time.Time
}

// Changed is closed at the next change that this replica wrote.
func (r *Reader) Changed() <-chan struct{} { return r.Flushed() }

// rows is everything that the replicas wrote.
type rows struct {
	replicas []api.Replica
	nodes    []api.LedgerRow
}

func (r *Reader) read(ctx context.Context) (rows, error) {
	// Replica rows first: their applied revision is then never newer than the
	// node rows that follow.
	var out rows
	replicas, err := r.Store.Read(ctx, replicaPrefix)
	if err != nil {
		return out, err
	}
	if out.replicas, err = decodeAll[api.Replica](replicas); err != nil {
		return out, err
	}
	nodes, err := r.Store.Read(ctx, rowPrefix)
	if err != nil {
		return out, err
	}
	if out.nodes, err = decodeAll[api.LedgerRow](nodes); err != nil {
		return out, err
	}
	out.newest()
	return out, nil
}

// newest drops proxies that have moved: one that lost its replica is connected
// to another long before the first one's rows are gone.
func (r *rows) newest() {
	type proxy struct{ client, instance string }
	last := map[proxy]time.Time{}
	for _, row := range r.nodes {
		for _, p := range row.Members {
			if id := (proxy{row.Client, p.Instance}); p.ConnectedAt.After(last[id]) {
				last[id] = p.ConnectedAt.Time
			}
		}
	}
	for i, row := range r.nodes {
		r.nodes[i].Members = slices.DeleteFunc(row.Members, func(p api.Proxy) bool {
			return p.ConnectedAt.Before(last[proxy{row.Client, p.Instance}])
		})
	}
}

func decodeAll[T any](in map[string][]byte) ([]T, error) {
	out := make([]T, 0, len(in))
	for key, value := range in {
		var v T
		if err := json.Unmarshal(value, &v); err != nil {
			return nil, fmt.Errorf("decode ledger row %s: %w", key, err)
		}
		out = append(out, v)
	}
	return out, nil
}

// Proxies returns every connected proxy and every replica.
func (r *Reader) Proxies(ctx context.Context) ([]api.Proxy, []api.Replica, error) {
	all, err := r.read(ctx)
	if err != nil {
		return nil, nil, err
	}
	var proxies []api.Proxy
	for _, row := range all.nodes {
		proxies = append(proxies, row.Members...)
	}
	slices.SortFunc(all.replicas, func(a, b api.Replica) int { return strings.Compare(a.ID, b.ID) })
	return proxies, all.replicas, nil
}

// Rollout tells how far the newest version of the key has come. It is DONE when
// every replica has applied the revision that wrote it and every proxy whose
// view reads it has accepted what is wanted of it; a replica that is silent, or
// whose proxies are known while it is not, is unknown, and never done.
func (r *Reader) Rollout(ctx context.Context, key api.Key) (api.Rollout, error) {
	resource, err := r.Store.Get(ctx, key)
	if err != nil {
		return api.Rollout{}, err
	}
	if resource == nil {
		return api.Rollout{}, api.Errorf(api.CodeNotFound, "%s does not exist.", r.Realm.ARN(key, key.Owner))
	}
	all, err := r.read(ctx)
	if err != nil {
		return api.Rollout{}, err
	}
	out := api.Rollout{
		ResourceARN: r.Realm.ARN(key, resource.Owner), ResourceVersion: resource.Version, Revision: resource.Revision,
		ReplicasTotal: int64(len(all.replicas)), State: api.RolloutStateWaiting,
	}
	current := map[string]bool{}
	for _, replica := range all.replicas {
		switch {
		case r.Now().Sub(replica.SeenAt.Time) > silentAfter:
			out.Unknown = append(out.Unknown, "replica "+replica.ID+" has been silent since "+replica.SeenAt.UTC().Format(time.RFC3339))
		case replica.AppliedRevision >= resource.Revision:
			out.ReplicasApplied++
			current[replica.ID] = true
		}
	}
	if err := r.count(ctx, &out, key, all.nodes, current); err != nil {
		return api.Rollout{}, err
	}
	switch {
	case len(out.Refused) > 0:
		out.State = api.RolloutStateRefused
	case out.ReplicasTotal > 0 && out.ReplicasApplied == out.ReplicasTotal && len(out.Unknown) == 0 && out.ProxiesAccepted == out.ProxiesAffected:
		out.State = api.RolloutStateDone
	}
	slices.Sort(out.Unknown)
	return out, nil
}

// count adds up the proxies that the key concerns.
func (r *Reader) count(ctx context.Context, out *api.Rollout, key api.Key, nodes []api.LedgerRow, current map[string]bool) error {
	clients := make([]mesh.Client, 0, len(nodes))
	for _, row := range nodes {
		k, err := api.ParseKey(row.Client)
		if err != nil {
			return fmt.Errorf("read ledger: %w", err)
		}
		clients = append(clients, mesh.Client{Key: k})
	}
	affected, err := r.Affected(ctx, out.Revision, key, clients)
	if err != nil {
		return fmt.Errorf("find affected proxies: %w", err)
	}
	for i, row := range nodes {
		if !affected[clients[i]] {
			continue
		}
		for _, p := range row.Problems {
			if p.ResourceARN == out.ResourceARN && !slices.Contains(out.Problems, p) {
				out.Problems = append(out.Problems, p)
			}
		}
		for _, p := range row.Members {
			out.ProxiesAffected++
			switch {
			case !current[row.Replica]:
				out.Waiting = append(out.Waiting, p)
			case p.State == api.ProxyStateRefused:
				out.Refused = append(out.Refused, p)
			case p.State == api.ProxyStateCurrent:
				out.ProxiesAccepted++
			default:
				out.Waiting = append(out.Waiting, p)
			}
		}
	}
	return nil
}
