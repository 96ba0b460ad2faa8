package store

import (
	"context"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"golang.org/x/sys/unix"
)

const (
	spaceEvery  = 10 * time.Second
	defragEvery = 10 * time.Minute
	// defragFrom is the size in bytes below which nothing is won.
	defragFrom = 64 << 20
)

// upkeep looks after the disk until ctx ends.
func (s *Server) upkeep(ctx context.Context) {
	space, defrag := time.NewTicker(spaceEvery), time.NewTicker(defragEvery)
	defer space.Stop()
	defer defrag.Stop()
	for {
		select {
		case <-space.C:
			s.checkSpace()
		case <-defrag.C:
			if err := s.defragment(ctx, defragFrom); err != nil && ctx.Err() == nil {
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

// defragment gives space back when half of the file is free, and lets etcd
// write again when it had stopped at its quota.
func (s *Server) defragment(ctx context.Context, from int64) error {
	backend := s.etcd.Server.Backend()
	if size := backend.Size(); size >= from && backend.SizeInUse() <= size/2 {
		// Not through a client: the in-process one has no service for it.
		if err := backend.Defrag(); err != nil {
			return err
		}
	}
	if len(s.etcd.Server.Alarms()) == 0 || backend.Size() >= quota/10*9 {
		return nil
	}
	client := v3client.New(s.etcd.Server)
	defer func() { _ = client.Close() }() // it always says that it was canceled
	_, err := client.AlarmDisarm(ctx, &clientv3.AlarmMember{})
	return err
}
