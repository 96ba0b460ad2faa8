package ledger

import (
	"context"
	"fmt"
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

// Drained tells whether every proxy whose view reads the node, but for the draining one
// itself, has acknowledged the endpoints that its replica gave it after the drain, which
// is of that name and revision. A replica that is silent, or does not know the drain,
// is unknown, as with Rollout; with revision 0 the clients are counted alone.
func (r *Reader) Drained(ctx context.Context, key api.Key, instance, drain string, revision int64) (Drained, error) {
	rows, replicas, err := r.mesh(ctx, key)
	if err != nil {
		return Drained{}, err
	}
	var out Drained
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
		case revision > 0 && (replica.DrainsRevision == nil || *replica.DrainsRevision < revision):
			out.Unknown = append(out.Unknown, "replica "+replica.ID+" has not taken in the drain")
		default:
			current[replica.ID] = true
			out.Kept = out.Kept || slices.Contains(replica.DrainsKept, drain)
		}
	}
	clients := make([]mesh.Client, 0, len(rows))
	for _, row := range rows {
		k, err := api.ParseKey(row.Client)
		if err != nil {
			return Drained{}, fmt.Errorf("read ledger: %w", err)
		}
		clients = append(clients, mesh.Client{Key: k})
	}
	affected, err := r.Affected(ctx, 0, key, clients)
	if err != nil {
		return Drained{}, fmt.Errorf("find affected proxies: %w", err)
	}
	for i, row := range rows {
		if !affected[clients[i]] {
			continue
		}
		if row.torn {
			out.Unknown = append(out.Unknown, "replica "+row.Replica+" is writing what the proxies of "+row.Client+" have")
		}
		if said := lost[row.Replica]; said != "" && len(row.Members) > 0 && !slices.Contains(out.Unknown, said) {
			out.Unknown = append(out.Unknown, said)
		}
		for _, p := range row.Members {
			if row.Client == key.String() && p.Instance == instance {
				continue
			}
			out.Clients++
			if !current[row.Replica] || !resolved(p) {
				out.Waiting++
			}
		}
	}
	slices.Sort(out.Unknown)
	return out, nil
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
