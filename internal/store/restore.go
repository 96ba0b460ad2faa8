package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// restoreTail is a row that is there while a restore runs, and after one that
// did not end. Whoever finds it knows that the store is not whole.
const restoreTail = "restore"

var errRestoring = errors.New("a restore into this store runs, or was interrupted: wait for it, or run evermeshd restore again")

// NotEmpty is Restore's refusal to write over what is there.
type NotEmpty struct{ Key string } // one of the keys

func (e *NotEmpty) Error() string {
	text := "the store is not empty (it has " + e.Key + "): restore into an empty --data-dir, or give another --etcd-prefix"
	if strings.HasPrefix(e.Key, ledgerTail) {
		text = "a replica runs on this store, or was killed on it (it has " + e.Key + "): stop it, and give another --etcd-prefix"
	}
	return text
}

// Restore puts a backup into the store, which must be empty, unless what is in
// it comes from a restore that was interrupted: that is begun again. Nothing is
// written before all of the backup was read and found whole. Nobody else may
// use the store meanwhile; other replicas refuse to open it until it is whole.
// Keys below one of without, such as account/, are left out, with their locks.
func (s *Store) Restore(ctx context.Context, r io.ReadSeeker, progress func(BackupInfo), without ...string) (BackupInfo, error) {
	info, err := CheckBackup(r)
	if err != nil {
		return info, err
	}
	if _, err := r.Seek(0, io.SeekStart); err != nil {
		return info, fmt.Errorf("read backup: %w", err)
	}
	if err := s.writable(); err != nil {
		return info, err
	}
	w := &restoring{store: s, id: uuid.NewString()}
	if err := w.begin(ctx); err != nil {
		return info, err
	}
	kept := time.Since(info.Created) < tokenKept
	var done BackupInfo
	again, err := readBackup(r, func(row backupRow) error {
		if row.Expires && !kept {
			return nil // it would be gone by now
		}
		if strings.HasPrefix(row.Key, outboxTail) {
			return nil // releases before this one kept events
		}
		tail := strings.TrimPrefix(row.Key, lockTail)
		if slices.ContainsFunc(without, func(prefix string) bool { return strings.HasPrefix(tail, prefix) || tail == headBelow(prefix) }) {
			return nil
		}
		done.Records++
		done.Bytes += int64(len(row.Value))
		if err := w.put(ctx, row); err != nil {
			return err
		}
		if progress != nil && done.Records%batchRows == 0 {
			progress(done)
		}
		return nil
	})
	if err == nil && again.Checksum != info.Checksum {
		err = errors.New("it was changed while it was read")
	}
	if err == nil {
		err = w.end(ctx)
	}
	if err != nil {
		return info, err
	}
	info.Records = done.Records
	return info, nil
}

// restoring writes under a marker: its id is compared in every transaction, so
// that two restores at once cannot mix.
type restoring struct {
	store *Store
	id    string
	ops   []clientv3.Op
	size  int
	count int64
	lease clientv3.LeaseID
}

// begin puts the marker into an empty store, or takes over an interrupted
// restore's and empties the store.
func (w *restoring) begin(ctx context.Context) error {
	s := w.store
	bounded, cancel := s.bounded(ctx)
	defer cancel()
	marker, all := s.key(restoreTail), s.key("")
	resp, err := s.client.Txn(bounded).
		If(clientv3.Compare(clientv3.CreateRevision(all), "=", 0).WithPrefix()).
		Then(clientv3.OpPut(marker, w.id)).
		Else(clientv3.OpGet(marker), clientv3.OpGet(all, clientv3.WithPrefix(), clientv3.WithKeysOnly(), clientv3.WithLimit(1))).
		Commit()
	if err != nil {
		return s.failure(ctx, "begin restore", err)
	}
	if resp.Succeeded {
		return nil
	}
	left := resp.Responses[0].GetResponseRange().Kvs
	if len(left) == 0 {
		key := "something"
		if some := resp.Responses[1].GetResponseRange().Kvs; len(some) > 0 {
			key = s.tail(some[0].Key)
		}
		return &NotEmpty{key}
	}
	resp, err = s.client.Txn(bounded).
		If(clientv3.Compare(clientv3.ModRevision(marker), "=", left[0].ModRevision)).
		Then(
			clientv3.OpDelete(all, clientv3.WithRange(marker)),
			clientv3.OpDelete(behind(marker), clientv3.WithRange(clientv3.GetPrefixRangeEnd(all))),
			clientv3.OpPut(marker, w.id),
		).Commit()
	if err != nil {
		return s.failure(ctx, "begin restore again", err)
	}
	if !resp.Succeeded {
		return errTakenOver
	}
	return nil
}

var errTakenOver = errors.New("another restore into this store has begun: wait for it")

func (w *restoring) put(ctx context.Context, row backupRow) error {
	var options []clientv3.OpOption
	if row.Expires {
		lease, err := w.expiry(ctx)
		if err != nil {
			return err
		}
		options = append(options, clientv3.WithLease(lease))
	}
	size := len(row.Key) + len(row.Value)
	if len(w.ops) == batchRows || len(w.ops) > 0 && w.size+size > batchBytes {
		if err := w.flush(ctx); err != nil {
			return err
		}
	}
	w.ops = append(w.ops, clientv3.OpPut(w.store.key(row.Key), string(row.Value), options...))
	w.size += size
	return nil
}

// expiry is a lease for client tokens, which outlasts each of them.
func (w *restoring) expiry(ctx context.Context) (clientv3.LeaseID, error) {
	if w.lease != 0 {
		return w.lease, nil
	}
	bounded, cancel := w.store.bounded(ctx)
	defer cancel()
	resp, err := w.store.client.Grant(bounded, int64((tokenKept + time.Hour).Seconds()))
	if err != nil {
		return 0, w.store.failure(ctx, "restore", err)
	}
	w.lease = resp.ID
	return w.lease, nil
}

func (w *restoring) flush(ctx context.Context) error {
	if err := w.commit(ctx, w.ops...); err != nil {
		return err
	}
	w.count += int64(len(w.ops))
	w.ops, w.size = w.ops[:0], 0
	return nil
}

func (w *restoring) commit(ctx context.Context, ops ...clientv3.Op) error {
	if len(ops) == 0 {
		return nil
	}
	s := w.store
	bounded, cancel := s.bounded(ctx)
	defer cancel()
	resp, err := s.client.Txn(bounded).If(clientv3.Compare(clientv3.Value(s.key(restoreTail)), "=", w.id)).Then(ops...).Commit()
	if err != nil {
		return s.failure(ctx, "restore", err)
	}
	if !resp.Succeeded {
		return errTakenOver
	}
	return nil
}

// end makes the store whole, if what is in it is what was put there.
func (w *restoring) end(ctx context.Context) error {
	if err := w.flush(ctx); err != nil {
		return err
	}
	s := w.store
	bounded, cancel := s.bounded(ctx)
	defer cancel()
	resp, err := s.client.Get(bounded, s.key(""), clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		return s.failure(ctx, "end restore", err)
	}
	if resp.Count != w.count+1 { // and the marker
		return fmt.Errorf("end restore: the store has %d records, and %d were put: somebody else writes to it; stop that and restore again", resp.Count-1, w.count)
	}
	return w.commit(ctx, clientv3.OpDelete(s.key(restoreTail)))
}

// whole refuses a store that a restore has not finished.
func (s *Store) whole(ctx context.Context) error {
	kvs, err := s.get(ctx, "open store", s.key(restoreTail))
	if err != nil {
		return err
	}
	if len(kvs) > 0 {
		return errRestoring
	}
	return nil
}
