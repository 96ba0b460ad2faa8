package publish

import (
	"context"
	"sync"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
)

// Resolve tells which client a node id means, from a snapshot at least as new
// as the store was when Resolve was called (D6.2): a proxy that connects is
// never answered from the past. account is that of the proxy's principal. An
// unknown node is a NotFoundException, a store out of reach a
// ServiceUnavailableException. owner is the account of the node or gateway. An
// ARN's account has to be that one or the mesh's.
func (l *Loop) Resolve(ctx context.Context, nodeID, account string) (c mesh.Client, owner string, err error) {
	arn, err := api.ParseNodeID(nodeID)
	if err != nil {
		return mesh.Client{}, "", api.Errorf(api.CodeBadRequest, "%v", err)
	}
	snapshot, err := l.Fresh(ctx)
	if err != nil {
		return mesh.Client{}, "", err
	}
	key, ok := snapshot.Find(arn, account)
	if ok {
		c, owner = mesh.Client{Key: key}, snapshot.Get(key).Owner
	}
	if !ok || (arn.Account != "" && arn.Account != owner && arn.Account != key.Owner) {
		return mesh.Client{}, "", api.Errorf(api.CodeNotFound, "%s does not exist: create it, or correct APPMESH_RESOURCE_ARN.", nodeID)
	}
	return c, owner, nil
}

// Fresh is a snapshot at least as new as the store was when Fresh was called. A
// store out of reach is a ServiceUnavailableException.
func (l *Loop) Fresh(ctx context.Context) (*mesh.Snapshot, error) {
	head, err := l.heads.Read(ctx)
	if err != nil {
		return nil, api.Errorf(api.CodeServiceUnavailable, "This replica cannot reach its store: connect to another.")
	}
	if err := l.progress.wait(ctx, head); err != nil {
		return nil, api.Errorf(api.CodeServiceUnavailable, "This replica is behind its store: connect to another.")
	}
	return l.Snapshot(), nil
}

// Revision is that of Snapshot, 0 before the first.
func (l *Loop) Revision() int64 {
	if s := l.Snapshot(); s != nil {
		return s.Revision()
	}
	return 0
}

// Reach returns when everything up to a revision of the store is published, or when ctx
// has ended: whether it is.
func (l *Loop) Reach(ctx context.Context, revision int64) bool {
	return l.progress.wait(ctx, revision) == nil
}

// progress is the revision up to which everything is published.
type progress struct {
	mu      sync.Mutex
	reached int64
	moved   chan struct{} // closed at the next step
}

func (p *progress) init() { p.moved = make(chan struct{}); p.reached = -1 }

func (p *progress) reach(revision int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reached = revision
	close(p.moved)
	p.moved = make(chan struct{})
}

func (p *progress) wait(ctx context.Context, revision int64) error {
	for {
		p.mu.Lock()
		reached, moved := p.reached, p.moved
		p.mu.Unlock()
		if reached >= revision {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
