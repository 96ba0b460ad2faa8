package store

import (
	"context"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.etcd.io/etcd/server/v3/storage/backend"
	"go.etcd.io/etcd/server/v3/storage/schema"
	"golang.org/x/sys/unix"
)

const (
	spaceEvery  = time.Second
	defragEvery = 10 * time.Minute
	// rescueEvery is how often room is made in a store that is at its quota.
	rescueEvery = time.Minute
	// defragFrom is the size in bytes below which nothing is won.
	defragFrom = 64 << 20
)

// upkeep looks after the disk until ctx ends.
func (s *Server) upkeep(ctx context.Context) {
	space, defrag := time.NewTicker(spaceEvery), time.NewTicker(s.every)
	defer space.Stop()
	defer defrag.Stop()
	var rescued time.Time
	for {
		select {
		case <-space.C:
			s.checkSpace()
			if s.full() && time.Since(rescued) > rescueEvery {
				rescued = time.Now()
				if err := s.rescue(ctx); err != nil && ctx.Err() == nil {
					s.log.Warn("store stays full", "err", err)
				}
			}
		case <-defrag.C:
			if err := s.defragment(ctx, s.from); err != nil && ctx.Err() == nil {
				s.log.Warn("store was not defragmented", "err", err)
			}
		case <-ctx.Done():
			return
		}
	}
}

// checkSpace notes whether there is room to write: a full disk would end etcd
// in the middle of a write.
func (s *Server) checkSpace() {
	var fs unix.Statfs_t
	if err := unix.Statfs(s.dir, &fs); err != nil {
		s.log.Warn("free space of the store is not known", "err", err)
		return
	}
	free := fs.Bavail * uint64(fs.Bsize)
	low := free < s.minFree
	if s.low.Swap(low) != low {
		s.log.Warn("free space of the store has changed", "free_bytes", free, "least_bytes", s.minFree, "writes", !low)
	}
}

// full says whether etcd has stopped to take writes, at its quota.
func (s *Server) full() bool { return len(s.etcd.Server.Alarms()) > 0 }

// rescue makes room at once: all history goes, with what it takes, and etcd
// takes writes again if that was enough. Watches go on where they are.
func (s *Server) rescue(ctx context.Context) error {
	client := v3client.New(s.etcd.Server)
	defer func() { _ = client.Close() }() // it always says that it was canceled
	resp, err := client.Get(ctx, headTail, clientv3.WithCountOnly())
	if err == nil {
		_, err = client.Compact(ctx, resp.Header.Revision, clientv3.WithCompactPhysical())
	}
	if err != nil && !says(err, textCompacted) {
		return err
	}
	s.count(ctx)
	return s.defragment(ctx, 0)
}

// count has etcd count what is free, until that is half of its file. Pages that were
// given up are free some commits later, when nobody reads a state that had them, and a
// store that takes no writes commits nothing by itself.
func (s *Server) count(ctx context.Context) {
	db := s.etcd.Server.Backend()
	for range 10 {
		tx := db.BatchTx()
		tx.LockOutsideApply()
		tx.UnsafeDelete(schema.Meta, []byte("nothing")) // there is no such key: it is something to commit
		tx.Unlock()
		db.ForceCommit()
		if halfFree(db) {
			return
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return
		}
	}
}

func halfFree(b backend.Backend) bool { return b.SizeInUse() <= b.Size()/2 }

// defragment gives space back when half of the file is free, and lets etcd
// write again when it had stopped at its quota.
func (s *Server) defragment(ctx context.Context, from int64) error {
	db := s.etcd.Server.Backend()
	if db.Size() >= from && halfFree(db) {
		// Not through a client: the in-process one has no service for it.
		if err := db.Defrag(); err != nil {
			return err
		}
	}
	if !s.full() || db.Size() >= s.quota/10*9 {
		return nil
	}
	client := v3client.New(s.etcd.Server)
	defer func() { _ = client.Close() }() // it always says that it was canceled
	_, err := client.AlarmDisarm(ctx, &clientv3.AlarmMember{})
	if err == nil {
		s.log.Info("store was full and takes writes again", "bytes", db.Size(), "most_bytes", s.quota)
	}
	return err
}
