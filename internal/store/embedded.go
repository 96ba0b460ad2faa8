package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"google.golang.org/grpc"
)

const (
	// maxRequest is the largest transaction in bytes: a resource of 1 MiB and
	// the answer kept with its client token.
	maxRequest = 8 << 20
	// quota is the largest size of the embedded etcd's data in bytes.
	quota = 8 << 30
	// minFree is the free space below which nothing is written any more.
	minFree = 256 << 20
	// startLimit bounds the start of the embedded etcd.
	startLimit = time.Minute
)

// ServerOptions are the settings of an embedded etcd.
type ServerOptions struct {
	// Dir is the data directory; etcd has the folder etcd in it.
	Dir string
	// Log gets etcd's warnings; nil drops them.
	Log *slog.Logger
	// MinFree is the free space on the disk, in bytes, below which writes are
	// refused; 0 is 256 MiB.
	MinFree uint64
	// Quota is the largest size of etcd's data in bytes; 0 is 8 GiB.
	Quota int64
	// DefragEvery is how often the store looks whether half of its file is free,
	// and gives that back if the file has DefragFrom bytes; 0 is 10 minutes and 64
	// MiB.
	DefragEvery time.Duration
	DefragFrom  int64
	// Fatal is told when etcd cannot go on; it must not return. nil prints one
	// line on stderr and exits with code 1.
	Fatal func(message string)
	// Test trades durability for speed: no fsync, a fast clock.
	Test bool
}

// Server is an etcd of this process's own. It listens on no port: clients are
// in-process, its peer address is a socket without a name, and a socket in the
// data directory is for other processes of the same user.
type Server struct {
	etcd    *embed.Etcd
	served  *grpc.Server // on the socket
	lock    *os.File
	minFree uint64
	quota   int64
	every   time.Duration // see ServerOptions.DefragEvery
	from    int64         // bytes
	dir     string
	low     atomic.Bool // disk space
	log     *slog.Logger
	stop    context.CancelFunc
	running sync.WaitGroup
}

// StartServer starts an etcd and waits until it serves. A data directory that
// another process uses is an error at once.
func StartServer(ctx context.Context, o ServerOptions) (*Server, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.MinFree == 0 {
		o.MinFree = minFree
	}
	if o.Quota == 0 {
		o.Quota = quota
	}
	if o.DefragEvery == 0 {
		o.DefragEvery = defragEvery
	}
	if o.DefragFrom == 0 {
		o.DefragFrom = defragFrom
	}
	if o.Fatal == nil {
		o.Fatal = exit
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("start store: %w", err)
	}
	// etcd's own lock would make a second process wait without a word.
	lock, err := lockDir(o.Dir)
	if err != nil {
		return nil, err
	}
	s := &Server{lock: lock, minFree: o.MinFree, quota: o.Quota, every: o.DefragEvery, from: o.DefragFrom, dir: o.Dir, log: o.Log}
	err = sound(filepath.Join(o.Dir, "etcd"))
	if err == nil {
		err = s.start(ctx, o)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start store in %s: %w", o.Dir, err), s.Close())
	}
	s.checkSpace()
	working, stop := context.WithCancel(context.Background())
	s.stop = stop
	s.running.Go(func() { s.watch(working, o.Fatal) })
	s.running.Go(func() { s.upkeep(working) })
	if err := s.listen(); err != nil {
		// Some file systems have no sockets; all that needs one is said to.
		o.Log.Warn("commands of evermeshd will need this process to be stopped first", "err", err)
	}
	return s, nil
}

func (s *Server) start(ctx context.Context, o ServerOptions) error {
	// A unix socket's path has at most 107 bytes; a data directory's may be
	// longer, a temporary directory's is not.
	sockets, err := os.MkdirTemp("", "evermesh")
	if err != nil {
		return err
	}
	// etcd binds a URL's host and ignores its path. Without one it would take an
	// abstract socket, which every user of the machine may connect to.
	peer := url.URL{Scheme: "unix", Host: filepath.Join(sockets, "peer")}
	advertised := url.URL{Scheme: "unix", Path: peer.Host}
	c := embed.NewConfig()
	c.Name = "evermesh"
	c.Dir = filepath.Join(o.Dir, "etcd")
	c.ListenClientUrls, c.AdvertiseClientUrls = nil, nil
	c.ListenPeerUrls, c.AdvertisePeerUrls = []url.URL{peer}, []url.URL{advertised}
	c.InitialCluster = c.Name + "=" + advertised.String()
	c.AuthToken = "" // nobody logs in
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zapLogger(o.Log, o.Fatal))
	c.AutoCompactionMode, c.AutoCompactionRetention = embed.CompactorModePeriodic, "1h"
	c.QuotaBackendBytes = o.Quota
	c.MaxRequestBytes = maxRequest
	c.MaxTxnOps = 1024
	// Entries that are applied wait in memory for members that are slow. There
	// are none, and 5,000 of them are much to hold and to scan.
	c.SnapshotCatchUpEntries = 100
	if o.Test {
		c.UnsafeNoFsync = true
		c.TickMs, c.ElectionMs = 10, 100
	}
	s.etcd, err = embed.StartEtcd(c)
	// Once bound, the socket needs no name: nobody connects to it, and what
	// ends with SIGKILL leaves nothing behind.
	if err := errors.Join(err, os.RemoveAll(sockets)); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	select {
	case <-s.etcd.Server.ReadyNotify():
		return nil
	case err := <-s.etcd.Err():
		return err
	case <-ctx.Done():
		return fmt.Errorf("etcd did not become ready: %w", ctx.Err())
	}
}

// watch ends the process when etcd has ended by itself.
func (s *Server) watch(ctx context.Context, fatal func(string)) {
	select {
	case err := <-s.etcd.Err():
		fatal(fmt.Sprintf("the embedded etcd ended: %v", err))
	case <-s.etcd.Server.StopNotify():
		if ctx.Err() == nil {
			fatal("the embedded etcd ended")
		}
	case <-ctx.Done():
	}
}

// Close stops etcd; its data stay. Stores that use it are closed before.
func (s *Server) Close() error {
	if s.stop != nil {
		s.stop()
		s.unlisten()
		s.running.Wait()
	}
	if s.etcd != nil {
		s.etcd.Close()
	}
	return s.lock.Close()
}
