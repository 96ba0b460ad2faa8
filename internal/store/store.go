package store

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
)

// Options say which etcd a Store uses: exactly one of DataDir, Server and
// Endpoints is set.
type Options struct {
	// DataDir is the directory of an etcd of this process's own, which Open
	// starts and Close stops.
	DataDir string
	// Attach lets another process have DataDir: its etcd is used then.
	Attach bool
	// Restoring opens a store for Restore, also where one was interrupted.
	Restoring bool
	// Server is an embedded etcd that somebody else started and stops; several
	// Stores on it are several replicas.
	Server *Server
	// Endpoints are addresses of an external etcd.
	Endpoints []string
	// CACert, Cert and Key are files for TLS to Endpoints. Cert and Key are
	// read again for every connection.
	CACert, Cert, Key string

	// Prefix stands before every key: /evermesh.
	Prefix string
	// Log gets etcd's warnings and the Store's own; nil drops them.
	Log *slog.Logger
	// Timeout bounds every operation; 0 is 5 s.
	Timeout time.Duration
	// Patience is how long Open waits for Endpoints that do not answer.
	Patience time.Duration
	// Observe is told of each Update how long it took, waiting included, and
	// how often it ran again because another writer was first; nil is allowed.
	Observe func(took time.Duration, conflicts int)
}

// Store is one replica's access to what is stored. Its methods may be called
// from any goroutine.
type Store struct {
	options  Options
	prefix   string // <prefix>/v1/
	client   *clientv3.Client
	server   *Server     // when embedded
	own      bool        // the server is ours to stop
	tls      *tls.Config // to an external etcd
	holder   *InUse      // who has the data directory, when it is attached to
	full     atomic.Bool
	hourly   hourly
	outgoing outgoing
	session  *session
	stop     context.CancelFunc
	running  sync.WaitGroup

	mu     sync.Mutex
	scopes map[Scope]*memory
	recent recent
	known  known
}

// Open opens the store and reads from it once; ctx bounds the start only. An
// external etcd that does not answer in time is an error; settings with which it
// never would are a *Misconfigured.
func Open(ctx context.Context, o Options) (*Store, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Timeout == 0 {
		o.Timeout = 5 * time.Second
	}
	s := &Store{options: o, prefix: strings.TrimSuffix(o.Prefix, "/") + "/v1/", scopes: map[Scope]*memory{}}
	s.session = newSession(s)
	if err := s.connect(ctx); err != nil {
		return nil, err
	}
	if err := s.reach(ctx); err != nil {
		if s.holder != nil {
			err = fmt.Errorf("data directory %s is in use by %s, which does not answer through %s there: %w", s.holder.Dir, s.holder.By, socketName, err)
		}
		return nil, errors.Join(fmt.Errorf("open store %s: %w", o.where(), err), s.disconnect())
	}
	if !o.Restoring {
		if err := s.whole(ctx); err != nil {
			return nil, errors.Join(err, s.disconnect())
		}
	}
	working, stop := context.WithCancel(context.Background())
	s.stop = stop
	s.running.Go(func() { s.session.run(working) })
	return s, nil
}

// where names the etcd for whoever reads that it cannot be opened.
func (o Options) where() string {
	if len(o.Endpoints) > 0 {
		return "at " + strings.Join(o.Endpoints, ", ")
	}
	return "in " + o.DataDir
}

func (s *Store) connect(ctx context.Context) error {
	o := s.options
	switch {
	case len(o.Endpoints) > 0:
		return s.dialEndpoints()
	case o.Server != nil:
		s.server = o.Server
	case o.DataDir != "":
		server, err := StartServer(ctx, ServerOptions{Dir: o.DataDir, Log: o.Log})
		if taken, ok := errors.AsType[*InUse](err); ok && o.Attach {
			s.holder = taken
			return s.dial("http://"+socketName, throughSocket(o.DataDir))
		}
		if err != nil {
			return err
		}
		s.server, s.own = server, true
	default:
		return errors.New("open store: neither a data directory nor endpoints are given")
	}
	s.client = v3client.New(s.server.etcd.Server)
	return nil
}

// Close ends the Store; rows written with a lease vanish at once. Watch and
// Update must have returned, or their contexts ended, before.
func (s *Store) Close() error {
	s.stop()
	s.running.Wait()
	return s.disconnect()
}

func (s *Store) disconnect() error {
	err := s.client.Close()
	if errors.Is(err, context.Canceled) {
		err = nil // so it says when it closed what is in-process
	}
	if s.own {
		err = errors.Join(err, s.server.Close())
	}
	if err != nil {
		return fmt.Errorf("close store: %w", err)
	}
	return nil
}

// bounded is a context for one operation.
func (s *Store) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, s.options.Timeout)
}

// key is the key in etcd of a tail.
func (s *Store) key(tail string) string { return s.prefix + tail }

// tail is the inverse of key.
func (s *Store) tail(key []byte) string { return string(key[len(s.prefix):]) }
