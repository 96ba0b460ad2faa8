package store_test

import (
	"bytes"
	"context"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/evermesh/evermesh/internal/store"
)

// What D3 says of the embedded etcd: history is compacted every hour, its quota
// is 8 GiB, and it is looked every 10 minutes whether half of its file is free.
func TestTheServersSchedule(t *testing.T) {
	server := startServer(t, store.ServerOptions{Dir: t.TempDir()})
	defer closeServer(t, server)
	c := server.Config()
	if c.AutoCompactionMode != "periodic" || c.AutoCompactionRetention != "1h" {
		t.Errorf("compaction is %s, %s", c.AutoCompactionMode, c.AutoCompactionRetention)
	}
	if c.QuotaBackendBytes != 8<<30 {
		t.Errorf("the quota is %d bytes", c.QuotaBackendBytes)
	}
	if every, from := server.Schedule(); every != 10*time.Minute || from != 64<<20 {
		t.Errorf("it looks every %v, from %d bytes on", every, from)
	}
}

// The server gives space back by itself, when it is time to.
func TestTheServerDefragmentsByItself(t *testing.T) {
	server := startServer(t, store.ServerOptions{Dir: t.TempDir(), DefragEvery: 50 * time.Millisecond, DefragFrom: 1 << 20})
	defer closeServer(t, server)
	s, err := store.Open(context.Background(), store.Options{Server: server})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx := context.Background()
	client, _ := s.Etcd()
	size := func() int64 {
		t.Helper()
		status, err := client.Status(ctx, "")
		if err != nil {
			t.Fatal(err)
		}
		return status.DbSize
	}
	for range 16 {
		write(t, s, false, store.Op{Key: "endpoints/x", Value: bytes.Repeat([]byte("x"), 1<<20)})
	}
	before := max(size(), 16<<20)
	resp, err := client.Get(ctx, "nothing")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Compact(ctx, resp.Header.Revision, clientv3.WithCompactPhysical()); err != nil {
		t.Fatal(err)
	}
	deadline := time.After(patience)
	for size() >= before/2 {
		write(t, s, false, store.Op{Key: "endpoints/y", Value: []byte("1")}) // etcd counts what is free when it commits
		select {
		case <-time.After(20 * time.Millisecond):
		case <-deadline:
			t.Fatalf("size was %d and is %d", before, size())
		}
	}
}
