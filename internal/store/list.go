package store

import (
	"context"
	"fmt"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/evermesh/evermesh/internal/api"
)

// pageSize is how many records are read at once where all of them are wanted.
const pageSize = 1000

// Get returns the resource with that key as etcd has it now, or nil. Every
// write that any replica acknowledged before is seen (API-023).
func (s *Store) Get(ctx context.Context, key api.Key) (*api.Resource, error) {
	tail := meshTail + key.String()
	kvs, err := s.get(ctx, "read resource", s.key(tail))
	if err != nil || len(kvs) == 0 {
		return nil, err
	}
	return s.readable(s.known.decode(s, kvs)[0])
}

func (s *Store) readable(h *held) (*api.Resource, error) {
	if h.unread != nil {
		return nil, unavailable("This replica is older than another that wrote %s, and cannot read it until it is upgraded too: %v.", h.Key, h.unread)
	}
	return h.resource, nil
}

// List returns the resources of a kind under a key's mesh, or under its parent
// for kinds that have one; meshes are those of the key's owner. They come in
// the order of their percent-encoded names. A list goes on behind after, the
// Key.String of the last item of the page before, or starts when it is empty.
// At most limit items are returned (all, if it is not positive); more says that
// there are others behind them. An after that does not belong to the list is a
// BadRequestException.
func (s *Store) List(ctx context.Context, kind api.Kind, key api.Key, after string, limit int) (items []*api.Resource, more bool, err error) {
	if after != "" {
		last, err := api.ParseKey(after)
		if err != nil || last.Kind != kind || last.Owner != key.Owner || kind != api.KindMesh && (last.Mesh != key.Mesh || last.Parent != key.Parent) {
			return nil, false, api.Errorf(api.CodeBadRequest, "The nextToken is not one that this list gave out: repeat the list without it.")
		}
		key.Name = last.Name
	} else {
		key.Name = ""
	}
	bounded, cancel := s.bounded(ctx)
	defer cancel()
	if kind == api.KindMesh {
		items, more, err = s.listMeshes(bounded, key, limit)
	} else {
		key.Kind = kind
		items, more, err = s.listKind(bounded, key, limit)
	}
	if err != nil {
		return nil, false, s.failure(ctx, "list resources", err)
	}
	return items, more, nil
}

// behind is the first key after k in etcd's order.
func behind(k string) string { return k + "\x00" }

// listKind reads a page of a kind, whose keys are side by side.
func (s *Store) listKind(ctx context.Context, key api.Key, limit int) ([]*api.Resource, bool, error) {
	first := key
	first.Name = ""
	prefix := s.key(meshTail + first.String()) // ends with a slash
	from := prefix
	if key.Name != "" {
		from = behind(s.key(meshTail + key.String()))
	}
	resp, err := s.client.Get(ctx, from, clientv3.WithRange(clientv3.GetPrefixRangeEnd(prefix)), clientv3.WithLimit(int64(max(limit, 0))))
	if err != nil {
		return nil, false, err
	}
	items, err := s.resources(resp.Kvs)
	return items, resp.More, err
}

// listMeshes reads a page of an owner's meshes. Their records lie far apart,
// between those of all that is in them; their locks lie side by side.
func (s *Store) listMeshes(ctx context.Context, key api.Key, limit int) ([]*api.Resource, bool, error) {
	prefix := s.key(lockTail + MeshScope(key.Owner, "").path)
	from := prefix
	if key.Name != "" {
		from = behind(s.key(lockTail + MeshScope(key.Owner, key.Name).path))
	}
	var items []*api.Resource
	revision := int64(0)
	for {
		resp, err := s.client.Get(ctx, from, clientv3.WithRange(clientv3.GetPrefixRangeEnd(prefix)), clientv3.WithKeysOnly(),
			clientv3.WithLimit(100), clientv3.WithRev(revision))
		if err != nil {
			return nil, false, err
		}
		if revision == 0 {
			revision = resp.Header.Revision
		}
		if len(resp.Kvs) == 0 {
			return items, false, nil
		}
		kvs, err := s.meshesOf(ctx, resp.Kvs, revision)
		if err != nil {
			return nil, false, err
		}
		found, err := s.resources(kvs)
		if err != nil {
			return nil, false, err
		}
		items = append(items, found...)
		if limit > 0 && len(items) > limit { // one too many tells that there are more
			return items[:limit], true, nil
		}
		from = behind(string(resp.Kvs[len(resp.Kvs)-1].Key))
	}
}

// meshesOf reads the meshes that the locks are for, at the revision.
func (s *Store) meshesOf(ctx context.Context, locks []*mvccpb.KeyValue, revision int64) ([]*mvccpb.KeyValue, error) {
	var ops []clientv3.Op
	for _, lock := range locks {
		path := s.tail(lock.Key)[len(lockTail):]
		name := path[lastSlash(path)+1:]
		ops = append(ops, clientv3.OpGet(s.key(path+"/"+string(api.KindMesh)+"/"+name), clientv3.WithRev(revision)))
	}
	resp, err := s.client.Txn(ctx).Then(ops...).Commit()
	if err != nil {
		return nil, err
	}
	var out []*mvccpb.KeyValue
	for _, r := range resp.Responses {
		out = append(out, r.GetResponseRange().Kvs...)
	}
	return out, nil
}

func lastSlash(s string) int {
	for i := len(s) - 1; i >= 0; i-- {
		if s[i] == '/' {
			return i
		}
	}
	return -1
}

func (s *Store) resources(kvs []*mvccpb.KeyValue) ([]*api.Resource, error) {
	items := make([]*api.Resource, 0, len(kvs))
	for _, h := range s.known.decode(s, kvs) {
		r, err := s.readable(h)
		if err != nil {
			return nil, err
		}
		items = append(items, r)
	}
	return items, nil
}

// Records returns the records that are no resources below a tail, such as
// account/, in order, and the revision at which they were read.
func (s *Store) Records(ctx context.Context, tail string) ([]Record, int64, error) {
	bounded, cancel := s.bounded(ctx)
	defer cancel()
	kvs, revision, err := s.all(bounded, s.key(tail))
	if err != nil {
		return nil, 0, s.failure(ctx, "read records", err)
	}
	out := make([]Record, 0, len(kvs))
	for _, kv := range kvs {
		h := decode(s.tail(kv.Key), kv)
		if h.unread != nil {
			return nil, 0, h.unread
		}
		out = append(out, h.Record)
	}
	return out, revision, nil
}

// all reads everything below a key at one revision, in pages.
func (s *Store) all(ctx context.Context, prefix string) ([]*mvccpb.KeyValue, int64, error) {
	var out []*mvccpb.KeyValue
	from, revision := prefix, int64(0)
	for {
		resp, err := s.client.Get(ctx, from, clientv3.WithRange(clientv3.GetPrefixRangeEnd(prefix)), clientv3.WithLimit(pageSize), clientv3.WithRev(revision))
		if err != nil {
			return nil, 0, err
		}
		if revision == 0 {
			revision = resp.Header.Revision
		}
		out = append(out, resp.Kvs...)
		if !resp.More {
			return out, revision, nil
		}
		from = behind(string(resp.Kvs[len(resp.Kvs)-1].Key))
	}
}

// get reads one key.
func (s *Store) get(ctx context.Context, operation, key string) ([]*mvccpb.KeyValue, error) {
	bounded, cancel := s.bounded(ctx)
	defer cancel()
	resp, err := s.client.Get(bounded, key)
	if err != nil {
		return nil, s.failure(ctx, operation, err)
	}
	return resp.Kvs, nil
}

// Head is the newest revision at which a resource changed, read linearizably:
// whoever has seen the Batch of that revision has seen every change that was
// acknowledged before the call. It is 0 before the first change.
func (s *Store) Head(ctx context.Context) (int64, error) {
	kvs, err := s.get(ctx, "read head", s.key(headTail))
	if err != nil || len(kvs) == 0 {
		return 0, err
	}
	return kvs[0].ModRevision, nil
}

// Heads is Head for the records below each of the tails, as WatchRecords takes them, read
// at once: mesh/, account/, or service/NAME/ of a HeadedScope. A release from before heads
// leaves them as they are when it writes.
func (s *Store) Heads(ctx context.Context, tails ...string) ([]int64, error) {
	bounded, cancel := s.bounded(ctx)
	defer cancel()
	ops := make([]clientv3.Op, len(tails))
	for i, tail := range tails {
		ops[i] = clientv3.OpGet(s.key(headBelow(tail)))
	}
	resp, err := s.client.Txn(bounded).Then(ops...).Commit()
	if err != nil {
		return nil, s.failure(ctx, "read heads", err)
	}
	out := make([]int64, len(tails))
	for i, r := range resp.Responses {
		if kvs := r.GetResponseRange().Kvs; len(kvs) > 0 {
			out[i] = kvs[0].ModRevision
		}
	}
	return out, nil
}

// HeadOf is Head for the records of a scope: the revision at which one of them changed
// last, 0 before the first.
func (s *Store) HeadOf(ctx context.Context, scope Scope) (int64, error) {
	kvs, err := s.get(ctx, "read head of "+scope.path, s.key(lockTail+scope.path))
	if err != nil || len(kvs) == 0 {
		return 0, err
	}
	return kvs[0].ModRevision, nil
}

// Ready says why the store cannot serve, nil when it can.
func (s *Store) Ready(ctx context.Context) error {
	if _, err := s.Head(ctx); err != nil {
		return err
	}
	if s.full.Load() {
		return fmt.Errorf("the store is full and takes no writes")
	}
	return s.writable()
}
