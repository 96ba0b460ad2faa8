package store

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Update runs fn as a transaction on the scopes and commits what it wrote, all
// or nothing, at the returned revision. fn may run several times: it runs again
// when another writer was first, also when it refused, as a refusal may come
// from what is no longer so. It must have no effects beyond its Tx. Its error
// is Update's, and nothing is written then. A transaction that wrote nothing, not
// even an event, commits nothing and returns the revision that it read.
//
// At most 256 writers of a scope wait in this process; one more gets a
// TooManyRequestsException. A store that does not answer in time, or that
// cannot be written, is a ServiceUnavailableException; the write may have
// happened then, and a client token tells a repeat from it.
func (s *Store) Update(ctx context.Context, scopes []Scope, fn func(*Tx) error) (int64, error) {
	start, conflicts := time.Now(), 0
	if s.options.Observe != nil {
		defer func() { s.options.Observe(time.Since(start), conflicts) }()
	}
	scopes = slices.Clone(scopes)
	slices.SortFunc(scopes, func(a, b Scope) int { return strings.Compare(a.path, b.path) })
	scopes = slices.Compact(scopes)

	bounded, cancel := s.bounded(ctx)
	defer cancel()
	memories, err := s.enter(bounded, scopes)
	if err != nil {
		return 0, s.failure(ctx, "wait for other writers", err)
	}
	defer s.leave(memories, len(memories))
	for {
		if err := s.load(bounded, memories); err != nil {
			return 0, s.failure(ctx, "read for update", err)
		}
		tx := newTx(memories)
		refusal := fn(tx)
		if tx.err != nil {
			refusal = tx.err
		}
		var revision int64
		done := false
		if refusal != nil || len(tx.writes) == 0 && tx.token == nil && tx.outbox == nil {
			revision, done, err = s.unchanged(bounded, memories)
		} else {
			revision, done, err = s.commit(bounded, tx)
		}
		switch {
		case err != nil:
			return 0, s.failure(ctx, "update", err)
		case done:
			return revision, refusal
		}
		conflicts++
	}
}

// load reads scopes that this process does not remember.
func (s *Store) load(ctx context.Context, memories []*memory) error {
	for _, m := range memories {
		if m.loaded {
			continue
		}
		resp, err := s.client.Txn(ctx).Then(m.fetch(s)...).Commit()
		if err != nil {
			return err
		}
		all := resp.Responses[1].GetResponseRange()
		m.catchUp(s, resp.Responses[0].GetResponseRange().Kvs, all.Kvs, all.Count)
	}
	return nil
}

// guard are the conditions that nothing moved.
func (s *Store) guard(memories []*memory) []clientv3.Cmp {
	conditions := make([]clientv3.Cmp, 0, len(memories)+1)
	for _, m := range memories {
		conditions = append(conditions, clientv3.Compare(clientv3.ModRevision(s.key(lockTail+m.path)), "=", m.lock))
	}
	return conditions
}

// otherwise is what to read if something did.
func (s *Store) otherwise(memories []*memory) (ops []clientv3.Op) {
	for _, m := range memories {
		ops = append(ops, m.fetch(s)...)
	}
	return ops
}

func (s *Store) catchUp(memories []*memory, resp *clientv3.TxnResponse) {
	for i, m := range memories {
		all := resp.Responses[2*i+1].GetResponseRange()
		m.catchUp(s, resp.Responses[2*i].GetResponseRange().Kvs, all.Kvs, all.Count)
	}
}

// unchanged says whether the scopes are as remembered; if not it catches up.
func (s *Store) unchanged(ctx context.Context, memories []*memory) (int64, bool, error) {
	resp, err := s.client.Txn(ctx).If(s.guard(memories)...).Else(s.otherwise(memories)...).Commit()
	if err != nil {
		return 0, false, err
	}
	if !resp.Succeeded {
		s.catchUp(memories, resp)
	}
	return resp.Header.Revision, resp.Succeeded, nil
}

// commit tries the transaction once; done is false when a scope had moved.
func (s *Store) commit(ctx context.Context, tx *Tx) (revision int64, done bool, err error) {
	if err := s.writable(); err != nil {
		return 0, false, err
	}
	ops, err := s.operations(ctx, tx)
	if err != nil {
		return 0, false, err
	}
	s.recent.put(tx)
	conditions := s.guard(tx.memories)
	if tx.token != nil {
		conditions = append(conditions, clientv3.Compare(clientv3.ModRevision(s.key(tokenTail+tx.token.Key)), "=", tx.token.Revision))
	}
	// What to read if it fails is asked then: every write would carry it into
	// etcd's log.
	resp, err := s.client.Txn(ctx).If(conditions...).Then(ops...).Commit()
	if err != nil || !resp.Succeeded {
		s.recent.drop(tx)
	}
	if says(err, textLeaseNotFound) {
		s.hourly.forget() // a lease that was lost with its etcd: take another
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	s.full.Store(false)
	if !resp.Succeeded {
		otherwise := s.otherwise(tx.memories)
		if tx.token != nil {
			otherwise = append(otherwise, clientv3.OpGet(s.key(tokenTail+tx.token.Key)))
		}
		if resp, err = s.client.Txn(ctx).Then(otherwise...).Commit(); err != nil {
			return 0, false, err
		}
		s.catchUp(tx.memories, resp)
		return 0, false, s.taken(tx, resp)
	}
	tx.keep(resp.Header.Revision)
	if tx.outbox != nil {
		s.outgoing.add(Event{tx.outboxKey, tx.outbox})
	}
	return resp.Header.Revision, true, nil
}

// taken is the error of a token that is there already, or is not the one that was to be
// replaced.
func (s *Store) taken(tx *Tx, resp *clientv3.TxnResponse) error {
	if tx.token == nil {
		return nil
	}
	t := &Token{Key: tx.token.Key}
	if kvs := resp.Responses[len(resp.Responses)-1].GetResponseRange().Kvs; len(kvs) > 0 {
		var err error
		if t, err = decodeToken(tx.token.Key, kvs[0]); err != nil {
			return err
		}
	}
	if t.Revision == tx.token.Revision {
		return nil // it was not the token that kept the write from happening
	}
	return &TokenTaken{*t}
}

// operations are the puts and deletes of a transaction. Scopes that it writes
// get their lock rewritten, or removed when they end up empty, and their head rewritten.
func (s *Store) operations(ctx context.Context, tx *Tx) ([]clientv3.Op, error) {
	ops := make([]clientv3.Op, 0, len(tx.writes)+len(tx.memories)+3) // head, event, token
	for _, tail := range tx.tails() {
		if w := tx.writes[tail]; w.now == nil {
			ops = append(ops, clientv3.OpDelete(s.key(tail)))
		} else {
			ops = append(ops, s.putOp(tail, w.value))
		}
	}
	var heads []string
	for _, m := range tx.memories {
		left, written := tx.left(m)
		switch {
		case !written:
			continue
		case left == 0:
			ops = append(ops, clientv3.OpDelete(s.key(lockTail+m.path)))
		default:
			ops = append(ops, clientv3.OpPut(s.key(lockTail+m.path), ""))
		}
		if m.head != "" {
			heads = append(heads, m.head)
		}
	}
	slices.Sort(heads)
	for _, head := range slices.Compact(heads) {
		ops = append(ops, clientv3.OpPut(s.key(head), ""))
	}
	if tx.outbox != nil {
		ops = append(ops, s.outboxOp(tx))
	}
	if tx.token == nil {
		return ops, nil
	}
	lease, err := s.hourly.lease(ctx, s.client)
	if err != nil {
		return nil, err
	}
	return append(ops, s.putOp(tokenTail+tx.token.Key, tx.token.value(), clientv3.WithLease(lease))), nil
}

// putOp puts a value that nobody changes any more: the client would copy a text twice.
func (s *Store) putOp(tail string, value []byte, options ...clientv3.OpOption) clientv3.Op {
	op := clientv3.OpPut(s.key(tail), "", options...)
	op.WithValueBytes(value)
	return op
}

// left is how many records the scope has after the transaction.
func (tx *Tx) left(m *memory) (left int, written bool) {
	left = len(m.records)
	for tail, w := range tx.writes {
		switch {
		case w.memory != m:
			continue
		case w.now == nil:
			left--
		case m.records[tail] == nil:
			left++
		}
		written = true
	}
	return left, written
}

// keep remembers what was committed.
func (tx *Tx) keep(revision int64) {
	for tail, w := range tx.writes {
		if w.now == nil {
			w.memory.remove(tail)
		} else {
			w.now.Revision = revision
			if w.now.resource != nil {
				w.now.resource.Revision = revision
			}
			w.memory.put(w.now)
		}
		w.memory.lock = revision
	}
	for _, m := range tx.memories {
		if len(m.records) == 0 {
			m.lock = 0
		}
	}
}

// Token returns the token that a committed write has claimed, or nil.
func (s *Store) Token(ctx context.Context, key string) (*Token, error) {
	kvs, err := s.get(ctx, "read client token", s.key(tokenTail+key))
	if err != nil || len(kvs) == 0 {
		return nil, err
	}
	return decodeToken(key, kvs[0])
}

func decodeToken(key string, kv *mvccpb.KeyValue) (*Token, error) {
	t := &Token{}
	if err := json.Unmarshal(kv.Value, t); err != nil {
		return nil, fmt.Errorf("read client token: %w", err)
	}
	t.Key, t.Revision = key, kv.ModRevision
	return t, nil
}

// writable refuses writes while the disk of the embedded etcd is almost full, or
// its quota is used up.
func (s *Store) writable() error {
	if s.server != nil && s.server.full() {
		return unavailable("The store is full, and makes room by itself if there is any to make: try again in a minute, or remove data.")
	}
	if s.server != nil && s.server.low.Load() {
		return unavailable("The disk of the store is almost full: free space on it.")
	}
	return nil
}
