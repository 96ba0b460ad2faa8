package store

import (
	"context"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
)

// QueueLimit is queueLimit.
const QueueLimit = queueLimit

// Etcd returns the store's client and the key in etcd of a tail, for tests that
// play another release or an operator.
func (s *Store) Etcd() (*clientv3.Client, func(tail string) string) { return s.client, s.key }

// RoundTrips counts the requests to etcd's key space from now on.
func (s *Store) RoundTrips() *atomic.Int64 {
	c := &counting{KV: s.client.KV}
	s.client.KV = c
	return &c.n
}

// Remembered is how many scopes the store remembers.
func (s *Store) Remembered() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.scopes)
}

// MostRecentBytes is mostRecentBytes.
const MostRecentBytes = mostRecentBytes

// Recent is how many writes the store remembers whose events have not come, and
// how many bytes they count.
func (s *Store) Recent() (writes, bytes int) {
	s.recent.mu.Lock()
	defer s.recent.mu.Unlock()
	for _, of := range s.recent.writes {
		for _, w := range of {
			writes++
			bytes += 2 * len(w.value)
		}
	}
	return writes, bytes
}

// KeepSession does what the store does every few seconds.
func (s *Store) KeepSession(ctx context.Context) error { return s.session.keep(ctx) }

// SessionLease is the lease of this replica's rows.
func (s *Store) SessionLease() clientv3.LeaseID {
	s.session.mu.Lock()
	defer s.session.mu.Unlock()
	return s.session.id
}

// Defragment does what the server does every few minutes, from a size on.
func (s *Server) Defragment(ctx context.Context, from int64) error { return s.defragment(ctx, from) }

// Config is the configuration that etcd runs with.
func (s *Server) Config() embed.Config { return s.etcd.Config() }

// Schedule is how often the server looks whether to defragment, and from which
// size on.
func (s *Server) Schedule() (time.Duration, int64) { return s.every, s.from }

type counting struct {
	clientv3.KV
	n atomic.Int64
}

func (c *counting) Get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	c.n.Add(1)
	return c.KV.Get(ctx, key, opts...)
}

func (c *counting) Txn(ctx context.Context) clientv3.Txn {
	c.n.Add(1)
	return c.KV.Txn(ctx)
}
