package store

import (
	"context"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Expiring rows have a lease of their own, whichever replica wrote them: they last for a
// time, unless somebody prolongs them.

// Row is a row as a watch tells it.
type Row struct {
	Key   string
	Value []byte
	// Created is the revision at which it came to be; writing it again leaves that.
	Created int64
	// Written is the revision at which it was written last.
	Written int64
}

// RowBatch is Batch for rows.
type RowBatch struct {
	Revision int64
	Reset    bool
	Rows     []Row    // new or rewritten
	Gone     []string // keys of the removed, and of those whose time is over
}

// WriteExpiring writes a row that vanishes after the time, to the second. A row of that
// key is replaced and begins its own time anew, under the lease that it has: who writes
// often leaves no leases behind. It returns the revision of the write.
func (s *Store) WriteExpiring(ctx context.Context, key string, value []byte, lasts time.Duration) (revision int64, err error) {
	if err := s.writable(); err != nil {
		return 0, err
	}
	bounded, cancel := s.bounded(ctx)
	defer cancel()
	lease, err := s.leaseOf(bounded, key, lasts)
	if err != nil {
		return 0, s.failure(ctx, "write row", err)
	}
	done, err := s.client.Put(bounded, s.key(key), string(value), clientv3.WithLease(lease))
	if err != nil {
		return 0, s.failure(ctx, "write row", err)
	}
	return done.Header.Revision, nil
}

// WriteTogether writes rows that vanish together after the time, to the second; those
// of the same keys are replaced. They share one lease, which nobody prolongs.
func (s *Store) WriteTogether(ctx context.Context, ops []Op, lasts time.Duration) error {
	if err := s.writable(); err != nil {
		return err
	}
	bounded, cancel := s.bounded(ctx)
	defer cancel()
	lease, err := s.client.Grant(bounded, int64(lasts.Seconds()))
	if err != nil {
		return s.failure(ctx, "write rows", err)
	}
	for batch := range Batches(ops) {
		if err := s.put(bounded, batch, clientv3.WithLease(lease.ID)); err != nil {
			return s.failure(ctx, "write rows", err)
		}
	}
	return nil
}

// leaseOf is the lease of the row that is there, begun anew, or a new one.
func (s *Store) leaseOf(ctx context.Context, key string, lasts time.Duration) (clientv3.LeaseID, error) {
	found, err := s.client.Get(ctx, s.key(key), clientv3.WithKeysOnly())
	if err != nil {
		return 0, err
	}
	for _, kv := range found.Kvs {
		if kv.Lease == 0 {
			continue
		}
		_, err := s.client.KeepAliveOnce(ctx, clientv3.LeaseID(kv.Lease))
		if err == nil || !says(err, textLeaseNotFound) {
			return clientv3.LeaseID(kv.Lease), err
		}
	}
	lease, err := s.client.Grant(ctx, int64(lasts.Seconds()))
	if err != nil {
		return 0, err
	}
	return lease.ID, nil
}

// Prolong lets an expiring row begin its time anew; a row that is gone stays gone.
func (s *Store) Prolong(ctx context.Context, key string) error {
	bounded, cancel := s.bounded(ctx)
	defer cancel()
	found, err := s.client.Get(bounded, s.key(key))
	if err != nil {
		return s.failure(ctx, "prolong row", err)
	}
	for _, kv := range found.Kvs {
		if kv.Lease == 0 {
			continue
		}
		if _, err := s.client.KeepAliveOnce(bounded, clientv3.LeaseID(kv.Lease)); err != nil && !says(err, textLeaseNotFound) {
			return s.failure(ctx, "prolong row", err)
		}
	}
	return nil
}

// WatchRows is Watch for the rows whose keys begin with prefix.
func (s *Store) WatchRows(ctx context.Context, prefix string, fn func(RowBatch) error) error {
	rows := func(kvs []*mvccpb.KeyValue) []Row {
		out := make([]Row, 0, len(kvs))
		for _, kv := range kvs {
			out = append(out, Row{Key: s.tail(kv.Key), Value: kv.Value, Created: kv.CreateRevision, Written: kv.ModRevision})
		}
		return out
	}
	f := follower{
		store: s, tail: strings.TrimSuffix(prefix, "/") + "/",
		reset: func(revision int64, all []*mvccpb.KeyValue) error {
			return fn(RowBatch{Revision: revision, Reset: true, Rows: rows(all)})
		},
		step: func(revision int64, put, gone []*mvccpb.KeyValue) error {
			b := RowBatch{Revision: revision, Rows: rows(put)}
			for _, kv := range gone {
				b.Gone = append(b.Gone, s.tail(kv.Key))
			}
			return fn(b)
		},
	}
	return f.run(ctx)
}
