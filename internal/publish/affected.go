package publish

import (
	"context"
	"strings"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
)

// Affected tells which of the clients read the key in their views, in a
// snapshot at least as new as revision. It is for rollouts: the clients may be
// connected to other replicas.
func (l *Loop) Affected(ctx context.Context, revision int64, key api.Key, clients []mesh.Client) (map[mesh.Client]bool, error) {
	if err := l.progress.wait(ctx, revision); err != nil {
		return nil, err
	}
	snapshot := l.Snapshot()
	out := map[mesh.Client]bool{}
	for _, c := range clients {
		index := mesh.NewIndex()
		_, _, reads := snapshot.View(c)
		index.Set(c, reads)
		if len(index.Affected([]api.Change{{Key: key, New: snapshot.Get(key)}})) > 0 {
			out[c] = true
		}
	}
	return out, nil
}

// parseNodeID reads Envoy's node id: an App Mesh ARN or its short form
// (EMS-015, EMS-017).
func parseNodeID(id string) (api.ARN, error) {
	if strings.HasPrefix(id, "arn:") {
		return api.ParseARN(id)
	}
	return api.ParseResourcePath(id)
}
