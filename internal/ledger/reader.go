package ledger

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync"
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

	mu       sync.Mutex
	readings map[string]*reading // by prefix and account
}

// reading is what was read of one mesh, or of one account's nodes and gateways in
// all. Who asks at the same time shares it, as it costs all rows of them.
type reading struct {
	at      time.Time
	flushed <-chan struct{} // of the flush that follows it

	done chan struct{}
	found
	err error
}

// found is what a reading found. None of it is to be changed.
type found struct {
	rows     []row
	replicas []api.Replica
	left     map[api.Key]map[string]time.Time // whom replicas had that left
	leftErr  error                            // why that is not known; the rest is
}

// Changed is closed at the next change that this replica wrote.
func (r *Reader) Changed() <-chan struct{} { return r.Flushed() }

// mesh returns the rows of the key's mesh and all replicas.
func (r *Reader) mesh(ctx context.Context, key api.Key) ([]row, []api.Replica, error) {
	x, err := r.shared(ctx, below(key), "", func(place) bool { return true })
	return x.rows, x.replicas, err
}

// shared returns the wanted rows below a prefix, all those of an account if there
// is one, and all replicas, as they were at most 250 ms ago and not before this
// replica's last flush.
func (r *Reader) shared(ctx context.Context, prefix, account string, wanted func(place) bool) (found, error) {
	flushed, now, name := r.Flushed(), r.Now(), prefix+" "+account
	old := func(_ string, x *reading) bool {
		age := now.Sub(x.at)
		return age > flushEvery || age < 0 || x.flushed != flushed
	}
	r.mu.Lock()
	maps.DeleteFunc(r.readings, old)
	x := r.readings[name]
	mine := x == nil
	if mine {
		x = &reading{at: now, flushed: flushed, done: make(chan struct{})}
		if r.readings == nil {
			r.readings = map[string]*reading{}
		}
		r.readings[name] = x
	}
	r.mu.Unlock()
	if mine {
		defer close(x.done)
		x.found, x.err = r.read(ctx, prefix, wanted)
		return x.found, x.err
	}
	select {
	case <-x.done:
	case <-ctx.Done():
		return found{}, ctx.Err()
	}
	if x.err != nil { // perhaps only because the other caller left
		return r.read(ctx, prefix, wanted)
	}
	return x.found, nil
}

// read returns the rows below a prefix that are wanted, all replicas, and then the notes
// of those that left: what is in no row any more is in them.
func (r *Reader) read(ctx context.Context, prefix string, wanted func(place) bool) (found, error) {
	// Replica rows first: their applied revision is then never newer than the
	// node rows that follow.
	values, err := r.Store.Read(ctx, replicaPrefix)
	if err != nil {
		return found{}, err
	}
	replicas, err := decodeAll[api.Replica](values)
	if err != nil {
		return found{}, err
	}
	replicas = slices.DeleteFunc(replicas, func(x api.Replica) bool { return r.Now().Sub(x.SeenAt.Time) > forgottenAfter })
	known := map[string]bool{}
	for _, x := range replicas {
		known[x.ID] = true
	}
	slices.SortFunc(replicas, func(a, b api.Replica) int { return strings.Compare(a.ID, b.ID) })
	if values, err = r.Store.Read(ctx, prefix); err != nil {
		return found{}, err
	}
	rows, err := joined(values, func(p place) bool { return known[p.replica] && wanted(p) })
	if err != nil {
		return found{}, err
	}
	newest(rows, replicas, r.Now())
	if values, err = r.Store.Read(ctx, leftPrefix+strings.TrimPrefix(prefix, rowPrefix)); err != nil {
		return found{}, err
	}
	out := found{rows: rows, replicas: replicas}
	out.left, out.leftErr = decodeLeft(values)
	return out, nil
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

// Proxies returns every connected proxy of nodes and gateways that the account
// owns, and of those in its meshes, and every replica.
func (r *Reader) Proxies(ctx context.Context, account string) ([]api.Proxy, []api.Replica, error) {
	x, err := r.shared(ctx, rowPrefix, account, func(p place) bool {
		return p.account == account || strings.HasPrefix(p.client, url.PathEscape(account)+"/")
	})
	if err != nil {
		return nil, nil, err
	}
	var proxies []api.Proxy
	for _, row := range x.rows {
		proxies = append(proxies, row.Members...)
	}
	return proxies, x.replicas, nil
}

// All returns what each replica says of each node and gateway. Nothing of it is to be
// changed.
func (r *Reader) All(ctx context.Context) ([]api.LedgerRow, error) {
	all, err := r.shared(ctx, rowPrefix, "", func(place) bool { return true })
	if err != nil {
		return nil, err
	}
	rows := make([]api.LedgerRow, 0, len(all.rows))
	for _, x := range all.rows {
		rows = append(rows, x.LedgerRow)
	}
	return rows, nil
}

// Mesh returns what each replica says of each node and gateway of the key's mesh,
// and all replicas. complete is false when some of it was being written, so that
// proxies may be missing. Nothing of it is to be changed.
func (r *Reader) Mesh(ctx context.Context, key api.Key) (rows []api.LedgerRow, replicas []api.Replica, complete bool, err error) {
	all, replicas, err := r.mesh(ctx, key)
	if err != nil {
		return nil, nil, false, err
	}
	complete = true
	rows = make([]api.LedgerRow, 0, len(all))
	for _, x := range all {
		complete = complete && !x.torn
		rows = append(rows, x.LedgerRow)
	}
	return rows, replicas, complete, nil
}

// Rollout tells how far the newest version of the key has come. It is DONE when
// every replica has applied the revision that wrote it and every proxy whose
// view reads it has accepted what is wanted of it; a replica that is silent, or
// whose proxies are known while it is not, is unknown, and never done. One that has
// been silent for a minute is known by the rows that it left: when all of its
// proxies that the key concerns are seen at others, nobody waits for it.
func (r *Reader) Rollout(ctx context.Context, key api.Key) (api.Rollout, error) {
	out, _, err := r.rollout(ctx, key)
	return out, err
}

// rollout also returns the proxies that accepted what is wanted of them.
func (r *Reader) rollout(ctx context.Context, key api.Key) (out api.Rollout, accepted []api.Proxy, err error) {
	resource, err := r.Store.Get(ctx, key)
	if err != nil {
		return api.Rollout{}, nil, err
	}
	if resource == nil {
		return api.Rollout{}, nil, api.Errorf(api.CodeNotFound, "%s does not exist.", r.Realm.ARN(key, key.Owner))
	}
	// What reads the key is in its mesh.
	rows, replicas, err := r.mesh(ctx, key)
	if err != nil {
		return api.Rollout{}, nil, err
	}
	out = api.Rollout{
		ResourceARN: r.Realm.ARN(key, resource.Owner), ResourceVersion: resource.Version, Revision: resource.Revision,
		ReplicasTotal: int64(len(replicas)), State: api.RolloutStateWaiting,
	}
	current, lost := map[string]bool{}, map[string]string{}
	for _, replica := range replicas {
		switch {
		case r.Now().Sub(replica.SeenAt.Time) > silentAfter:
			said := "replica " + replica.ID + " has been silent since " + replica.SeenAt.UTC().Format(time.RFC3339)
			if gone(replica, r.Now()) {
				lost[replica.ID] = said // what it has is what its rows say
			} else {
				out.Unknown = append(out.Unknown, said)
			}
		case replica.AppliedRevision >= resource.Revision:
			out.ReplicasApplied++
			current[replica.ID] = true
		}
	}
	concerned, err := r.concerned(ctx, resource)
	if err != nil {
		return api.Rollout{}, nil, err
	}
	accepted, left, err := r.count(ctx, &out, key, rows, current, concerned)
	if err != nil {
		return api.Rollout{}, nil, err
	}
	for id, said := range lost {
		if left[id] {
			out.Unknown = append(out.Unknown, said)
		} else {
			out.ReplicasTotal-- // nobody waits for it
		}
	}
	switch {
	case len(out.Refused) > 0:
		out.State = api.RolloutStateRefused
	case out.ReplicasTotal > 0 && out.ReplicasApplied == out.ReplicasTotal && len(out.Unknown) == 0 && out.ProxiesAccepted == out.ProxiesAffected:
		out.State = api.RolloutStateDone
	}
	slices.Sort(out.Unknown)
	return out, accepted, nil
}

// count adds up the proxies that the key concerns, and returns those that
// accepted, and which replicas have, or may have, some.
func (r *Reader) count(ctx context.Context, out *api.Rollout, key api.Key, rows []row, current map[string]bool, concerned []api.DiscoveryType) (accepted []api.Proxy, left map[string]bool, err error) {
	clients := make([]mesh.Client, 0, len(rows))
	for _, row := range rows {
		k, err := api.ParseKey(row.Client)
		if err != nil {
			return nil, nil, fmt.Errorf("read ledger: %w", err)
		}
		clients = append(clients, mesh.Client{Key: k})
	}
	affected, err := r.Affected(ctx, out.Revision, key, clients)
	if err != nil {
		return nil, nil, fmt.Errorf("find affected proxies: %w", err)
	}
	left = map[string]bool{}
	for i, row := range rows {
		if !affected[clients[i]] {
			continue
		}
		left[row.Replica] = left[row.Replica] || row.torn || len(row.Members) > 0
		if row.torn {
			out.Unknown = append(out.Unknown, "replica "+row.Replica+" is writing what the proxies of "+row.Client+" have")
		}
		for _, p := range row.Problems {
			if (p.ResourceARN == out.ResourceARN || key.Kind == api.KindMesh && ofSecret(p)) && !slices.Contains(out.Problems, p) {
				out.Problems = append(out.Problems, p)
			}
		}
		// What is wanted is not all of it yet (D6.3), or the node's own listeners, or of a
		// mesh any node's, lack secrets and why is not known yet: they are on their way.
		held := slices.Contains(row.Held, key.String()) || (row.Client == key.String() || key.Kind == api.KindMesh) && len(row.Lacking) > 0 && len(row.Problems) == 0
		for _, p := range row.Members {
			out.ProxiesAffected++
			switch {
			case !current[row.Replica]:
				out.Waiting = append(out.Waiting, p)
			case stateOf(p, concerned) == api.ProxyStateRefused:
				out.Refused = append(out.Refused, p)
			case stateOf(p, concerned) == api.ProxyStateCurrent && !held:
				out.ProxiesAccepted++
				accepted = append(accepted, p)
			default:
				out.Waiting = append(out.Waiting, p)
			}
		}
	}
	return accepted, left, nil
}

// ofSecret says whether a problem is that a proxy lacks a certificate, a key or
// authorities: a mesh's settings can be why, whichever node has it.
func ofSecret(p api.Problem) bool { return p.Reason == "SecretRefused" || p.Reason == "SecretDenied" }

// concerned is what of Envoy's configuration the resource can alter, nil when
// that is not known: then a refusal of anything counts. A route of HTTP, whose
// router has no listener for TCP, is in no listener of Envoy's.
func (r *Reader) concerned(ctx context.Context, resource *api.Resource) ([]api.DiscoveryType, error) {
	spec := resource.RouteSpec()
	if resource.Key.Kind != api.KindRoute || spec == nil || spec.TCPRoute != nil {
		return nil, nil
	}
	parent, _ := resource.Key.ParentKey()
	router, err := r.Store.Get(ctx, parent)
	if err != nil {
		return nil, err
	}
	if router == nil || router.VirtualRouterSpec() == nil {
		return nil, nil
	}
	for _, l := range router.VirtualRouterSpec().Listeners {
		if l.PortMapping.Protocol == api.PortProtocolTCP {
			return nil, nil
		}
	}
	return []api.DiscoveryType{api.DiscoveryTypeCluster, api.DiscoveryTypeEndpoint, api.DiscoveryTypeRoute}, nil
}

// stateOf is the proxy's state as far as these types are concerned: one that
// refused only others has what it is to have of these, or will.
func stateOf(p api.Proxy, concerned []api.DiscoveryType) api.ProxyState {
	if p.State != api.ProxyStateRefused || concerned == nil {
		return p.State
	}
	state := api.ProxyStateCurrent
	for _, t := range p.Types {
		switch {
		case !slices.Contains(concerned, t.Type) || (t.Wanted != nil && t.Accepted != nil && *t.Accepted == *t.Wanted):
		case t.Refusal != nil || t.Accepted == nil:
			// One that has nothing may never ask: the listener that names its
			// routes may be what it refused.
			return api.ProxyStateRefused
		default:
			state = api.ProxyStatePending
		}
	}
	return state
}
