// Package storetest gives tests a real store within milliseconds: one embedded
// etcd for the whole test program, and a prefix of its own for every New.
//
// The etcd runs while some test uses it. A program with many tests keeps it
// from the first to the last with
//
//	func TestMain(m *testing.M) { os.Exit(storetest.Main(m)) }
package storetest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
	"github.com/evermesh/evermesh/internal/store"
	"github.com/evermesh/evermesh/internal/testenv"
)

// New opens an empty store and closes it when the test ends.
func New(t testing.TB) *store.Store {
	t.Helper()
	return Replicas(t, 1)[0]
}

// Replicas opens several stores on the same empty data, as the replicas of one
// control plane have them.
func Replicas(t testing.TB, n int) []*store.Store {
	t.Helper()
	server, prefix := Server(t)
	out := make([]*store.Store, n)
	for i := range out {
		out[i] = Open(t, store.Options{Server: server, Prefix: prefix})
	}
	return out
}

// Open opens a store and closes it when the test ends. Where the options say nothing of
// time, a busy machine has as much as it may need.
func Open(t testing.TB, o store.Options) *store.Store {
	t.Helper()
	if o.Timeout == 0 {
		o.Timeout = testenv.Patience
	}
	if o.Patience == 0 {
		o.Patience = testenv.Patience
	}
	s, err := store.Open(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// Snapshot reads all that a store holds, as package publish knows it.
func Snapshot(data *store.Store) func(context.Context) (*mesh.Snapshot, error) {
	return func(ctx context.Context) (*mesh.Snapshot, error) {
		var out *mesh.Snapshot
		enough := errors.New("enough")
		err := data.Watch(ctx, func(b store.Batch) error {
			resources := make([]*api.Resource, len(b.Changes))
			for i, c := range b.Changes {
				resources[i] = c.New
			}
			out = mesh.NewSnapshot(b.Revision, resources)
			return enough
		})
		if errors.Is(err, enough) {
			err = nil
		}
		return out, err
	}
}

// Server returns the test program's etcd, until the test ends, and a prefix
// that nobody else has.
func Server(t testing.TB) (server *store.Server, prefix string) {
	t.Helper()
	s, prefix, err := shared.take()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := shared.give(); err != nil {
			t.Error(err)
		}
	})
	return s, prefix
}

// Main runs the tests with the etcd started once; it returns the exit code.
func Main(m *testing.M) int {
	if _, _, err := shared.take(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	if err := shared.give(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// WithEtcd are tests for testenv.VerifyTestMain: the etcd has ended when leaks are looked
// for.
type WithEtcd struct{ M *testing.M }

// Run satisfies goleak.TestingM.
func (w WithEtcd) Run() int { return Main(w.M) }

// shared is the one thing that the tests of a program share: a start of etcd
// costs a tenth of a second.
var shared counted

// counted is an etcd that runs while it has users.
type counted struct {
	mu     sync.Mutex
	users  int
	taken  int
	dir    string
	server *store.Server
}

func (c *counted) take() (*store.Server, string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.users == 0 {
		dir, err := os.MkdirTemp("", "storetest")
		if err != nil {
			return nil, "", err
		}
		server, err := store.StartServer(context.Background(), store.ServerOptions{Dir: dir, MinFree: 1, Test: true})
		if err != nil {
			return nil, "", err
		}
		c.dir, c.server = dir, server
	}
	c.users++
	c.taken++
	return c.server, fmt.Sprintf("/test-%d", c.taken), nil
}

func (c *counted) give() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.users--; c.users > 0 {
		return nil
	}
	if err := c.server.Close(); err != nil {
		return err
	}
	return os.RemoveAll(c.dir)
}
