package store

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	// sessionTTL is how long a replica's rows outlast it.
	sessionTTL = 30 * time.Second
	// batchRows and batchBytes are how much is written at once: an external etcd
	// takes 128 rows and 1.5 MiB with its own settings.
	batchRows  = 100
	batchBytes = 1 << 20
)

// Op writes one row, or deletes it when Value is nil. Rows are no resources: Watch
// does not tell of them and no rule guards them. Key is below <prefix>/v1/, such
// as ledger/replicas/a.
type Op struct {
	Key   string
	Value []byte
	// Lasting rows have no lease, also when they are written with others that
	// have one.
	Lasting bool
}

// Batches cuts rows into transactions that every etcd takes. A row that alone
// is larger than that has its own.
func Batches(ops []Op) iter.Seq[[]Op] {
	return func(yield func([]Op) bool) {
		for len(ops) > 0 {
			n, size := 0, 0
			for n < min(batchRows, len(ops)) {
				size += len(ops[n].Key) + len(ops[n].Value)
				if n > 0 && size > batchBytes {
					break
				}
				n++
			}
			if !yield(ops[:n]) {
				return
			}
			ops = ops[n:]
		}
	}
}

// Write writes rows in one transaction; Batches cuts what is too much for one.
// With lease they belong to this replica and vanish at most 30 s after it,
// unless they are lasting; if the lease is lost while the replica lives, they
// are written again, and are there when Write returns, even if ops has none.
func (s *Store) Write(ctx context.Context, lease bool, ops []Op) error {
	for _, op := range ops {
		first, _, _ := strings.Cut(op.Key, "/")
		if slices.Contains([]string{"mesh", "account", "lock", "head", "heads", "token", "outbox", "restore"}, first) {
			return fmt.Errorf("write row %s: the key is taken by what Update writes", op.Key)
		}
	}
	if err := s.writable(); err != nil {
		return err
	}
	bounded, cancel := s.bounded(ctx)
	defer cancel()
	var err error
	if lease {
		err = s.session.write(bounded, ops)
	} else {
		err = s.put(bounded, ops)
	}
	if err == nil {
		s.full.Store(false)
	}
	return s.failure(ctx, "write rows", err)
}

func (s *Store) put(ctx context.Context, ops []Op, options ...clientv3.OpOption) error {
	if len(ops) == 0 {
		return nil
	}
	all := make([]clientv3.Op, len(ops))
	for i, op := range ops {
		switch {
		case op.Value == nil:
			all[i] = clientv3.OpDelete(s.key(op.Key))
		case op.Lasting:
			all[i] = clientv3.OpPut(s.key(op.Key), string(op.Value))
		default:
			all[i] = clientv3.OpPut(s.key(op.Key), string(op.Value), options...)
		}
	}
	_, err := s.client.Txn(ctx).Then(all...).Commit()
	return err
}

// Read returns the rows whose keys begin with prefix, as etcd has them now.
func (s *Store) Read(ctx context.Context, prefix string) (map[string][]byte, error) {
	bounded, cancel := s.bounded(ctx)
	defer cancel()
	kvs, _, err := s.all(bounded, s.key(prefix))
	if err != nil {
		return nil, s.failure(ctx, "read rows", err)
	}
	out := make(map[string][]byte, len(kvs))
	for _, kv := range kvs {
		out[s.tail(kv.Key)] = kv.Value
	}
	return out, nil
}

// session is this replica's lease and the rows under it. They are kept in
// memory, so that a lease that etcd lost can be replaced with its rows.
type session struct {
	store *Store
	mu    sync.Mutex
	id    clientv3.LeaseID // 0 before the first row
	rows  map[string][]byte
}

func newSession(s *Store) *session { return &session{store: s, rows: map[string][]byte{}} }

func (s *session) write(ctx context.Context, ops []Op) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.ready(ctx, ops); err != nil {
		return err
	}
	err := s.store.put(ctx, ops, clientv3.WithLease(s.id))
	if says(err, textLeaseNotFound) {
		if err = s.begin(ctx); err == nil {
			err = s.store.put(ctx, ops, clientv3.WithLease(s.id))
		}
	}
	if err != nil {
		return err
	}
	for _, op := range ops {
		if op.Value == nil || op.Lasting {
			delete(s.rows, op.Key)
		} else {
			s.rows[op.Key] = op.Value
		}
	}
	return nil
}

// ready makes sure that there is a lease. Rows that do not belong to it would be
// written without anybody noticing that it is lost.
func (s *session) ready(ctx context.Context, ops []Op) error {
	if s.id == 0 {
		return s.begin(ctx)
	}
	if slices.ContainsFunc(ops, func(op Op) bool { return op.Value != nil && !op.Lasting }) {
		return nil
	}
	_, err := s.store.client.KeepAliveOnce(ctx, s.id)
	if says(err, textLeaseNotFound) {
		return s.begin(ctx)
	}
	return err
}

// begin takes a new lease and moves the rows to it.
func (s *session) begin(ctx context.Context) error {
	resp, err := s.store.client.Grant(ctx, int64(sessionTTL.Seconds()))
	if err != nil {
		return err
	}
	ops := make([]Op, 0, len(s.rows))
	for _, key := range slices.Sorted(maps.Keys(s.rows)) {
		ops = append(ops, Op{Key: key, Value: s.rows[key]})
	}
	for batch := range Batches(ops) {
		if err := s.store.put(ctx, batch, clientv3.WithLease(resp.ID)); err != nil {
			return err
		}
	}
	s.id = resp.ID
	return nil
}

// run keeps the lease alive until ctx ends, and gives it back then.
func (s *session) run(ctx context.Context) {
	tick := time.NewTicker(sessionTTL / 5)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if err := s.keep(ctx); err != nil && ctx.Err() == nil {
				s.store.options.Log.Warn("lease of this replica was not kept", "err", err)
			}
		case <-ctx.Done():
			s.end()
			return
		}
	}
}

func (s *session) keep(ctx context.Context) error {
	ctx, cancel := s.store.bounded(ctx)
	defer cancel()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.id == 0 {
		return nil
	}
	return s.ready(ctx, nil)
}

func (s *session) end() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.id == 0 {
		return
	}
	if _, err := s.store.client.Revoke(ctx, s.id); err != nil && !errors.Is(err, context.Canceled) {
		s.store.options.Log.Warn("lease of this replica was not given back", "err", err)
	}
}
