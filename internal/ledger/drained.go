package ledger

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
)

// drains is how far a replica is with the drains of proxies.
type drains struct {
	revision int64
	kept     []string
}

// Drained says that the drains up to the revision are in the endpoint sets of this
// replica's proxies, but for those that are kept as nothing else is left. It must be
// called after what they changed is Dirty.
func (w *Writer) Drained(revision int64, kept []string) {
	w.mu.Lock()
	same := w.drains.revision == revision && slices.Equal(w.drains.kept, kept)
	w.drains = drains{revision, kept}
	w.mu.Unlock()
	if !same {
		w.poke()
	}
}

// Drained is how far the clients of a node are with a drain.
type Drained struct {
	Clients, Waiting int64    // proxies that may send to the node, and those of them that may have the endpoint yet
	Kept             bool     // some replica sends it yet, as the last one of the node
	Unknown          []string // sentences on replicas of which it is not known
}

// Done says whether nobody is sent the endpoint any more.
func (d Drained) Done() bool { return d.Waiting == 0 && !d.Kept && len(d.Unknown) == 0 }

// Drained tells whether every proxy whose view reads one of the nodes, but for the
// draining one itself, an instance of the first of them, has acknowledged the endpoints
// that its replica gave it after the drain, which is of that name and revision. A replica
// that is silent, or does not know the drain, is unknown, as with Rollout; with revision 0
// the clients are counted alone.
func (r *Reader) Drained(ctx context.Context, nodes []api.Key, instance, drain string, revision int64) (Drained, error) {
	x := draining{r: r, itself: nodes[0].String(), instance: instance}
	byMesh := map[string][]api.Key{}
	for _, key := range nodes {
		byMesh[below(key)] = append(byMesh[below(key)], key)
	}
	for _, mesh := range slices.Sorted(maps.Keys(byMesh)) {
		rows, replicas, err := r.mesh(ctx, byMesh[mesh][0])
		if err != nil {
			return Drained{}, err
		}
		x.replicas(replicas, drain, revision)
		if err := x.count(ctx, rows, byMesh[mesh]); err != nil {
			return Drained{}, err
		}
	}
	slices.Sort(x.out.Unknown)
	x.out.Unknown = slices.Compact(x.out.Unknown)
	return x.out, nil
}

// draining counts the clients of a draining proxy's nodes.
type draining struct {
	r                *Reader
	itself, instance string // the key of its node, and which
	out              Drained

	current map[string]bool   // replicas that have taken in the drain
	lost    map[string]string // replicas that are gone: what is said of them
}

// replicas notes how far the replicas are.
func (x *draining) replicas(replicas []api.Replica, drain string, revision int64) {
	x.current, x.lost = map[string]bool{}, map[string]string{}
	now := x.r.Now()
	for _, replica := range replicas {
		switch {
		case now.Sub(replica.SeenAt.Time) > silentAfter:
			said := "replica " + replica.ID + " has been silent since " + replica.SeenAt.UTC().Format(time.RFC3339)
			if gone(replica, now) {
				x.lost[replica.ID] = said // what it has is what its rows say
			} else {
				x.out.Unknown = append(x.out.Unknown, said)
			}
		case revision > 0 && (replica.DrainsRevision == nil || *replica.DrainsRevision < revision):
			x.out.Unknown = append(x.out.Unknown, "replica "+replica.ID+" has not taken in the drain")
		default:
			x.current[replica.ID] = true
			x.out.Kept = x.out.Kept || slices.Contains(replica.DrainsKept, drain)
		}
	}
}

// count counts the clients of nodes of one mesh, of which these are the rows.
func (x *draining) count(ctx context.Context, rows []row, nodes []api.Key) error {
	clients := make([]mesh.Client, 0, len(rows))
	for _, row := range rows {
		k, err := api.ParseKey(row.Client)
		if err != nil {
			return fmt.Errorf("read ledger: %w", err)
		}
		clients = append(clients, mesh.Client{Key: k})
	}
	affected := map[mesh.Client]bool{}
	for _, key := range nodes {
		more, err := x.r.Affected(ctx, 0, key, clients)
		if err != nil {
			return fmt.Errorf("find affected proxies: %w", err)
		}
		maps.Copy(affected, more)
	}
	for i, row := range rows {
		if !affected[clients[i]] {
			continue
		}
		if row.torn {
			x.out.Unknown = append(x.out.Unknown, "replica "+row.Replica+" is writing what the proxies of "+row.Client+" have")
		}
		if said := x.lost[row.Replica]; said != "" && len(row.Members) > 0 {
			x.out.Unknown = append(x.out.Unknown, said)
		}
		for _, p := range row.Members {
			if row.Client == x.itself && p.Instance == x.instance {
				continue
			}
			x.out.Clients++
			if !x.current[row.Replica] || !resolved(p) {
				x.out.Waiting++
			}
		}
	}
	return nil
}

// resolved says whether the proxy has the endpoints that it is to have.
func resolved(p api.Proxy) bool {
	for _, t := range p.Types {
		if t.Type == api.DiscoveryTypeEndpoint {
			return t.Wanted != nil && t.Accepted != nil && *t.Wanted == *t.Accepted
		}
	}
	return true // it has asked for none, or not yet
}
