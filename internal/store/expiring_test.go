package store_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/evermesh/evermesh/internal/store"
	"github.com/evermesh/evermesh/internal/store/storetest"
	"github.com/evermesh/evermesh/internal/testenv"
)

// An expiring row is seen by the watches of all replicas, is another's to prolong, and
// goes when nobody does, whoever wrote it lives or not.
func TestExpiringRows(t *testing.T) {
	t.Parallel()
	server, prefix := storetest.Server(t)
	o := store.Options{Server: server, Prefix: prefix, Timeout: testenv.Patience}
	reader := storetest.Open(t, o)
	writer, err := store.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	// Long enough that nothing but the test's own acts decide whether it is there.
	const row, lasts = "ledger/drains/a", time.Hour
	first, err := writer.WriteExpiring(t.Context(), row, []byte("1"), lasts)
	if err != nil {
		t.Fatal(err)
	}
	batches := make(chan store.RowBatch, 16)
	ended := make(chan error, 1)
	watching, stop := context.WithCancel(t.Context())
	defer stop()
	go func() {
		ended <- reader.WatchRows(watching, "ledger/drains/", func(b store.RowBatch) error { batches <- b; return nil })
	}()
	if b := <-batches; !b.Reset || len(b.Rows) != 1 || b.Rows[0].Key != row || b.Rows[0].Created != first || b.Revision < first {
		t.Fatalf("at first %+v", b)
	}
	again, err := reader.WriteExpiring(t.Context(), row, []byte("2"), lasts)
	if err != nil {
		t.Fatal(err)
	}
	if b := <-batches; b.Reset || b.Revision != again || b.Rows[0].Created != first || string(b.Rows[0].Value) != "2" {
		t.Fatalf("written again: %+v", b)
	}

	// Its time runs, in whole seconds, and begins anew when it is prolonged by another
	// than its writer: what was left is less than what is left after that.
	left := func() int64 {
		t.Helper()
		client, key := reader.Etcd()
		found, err := client.Get(t.Context(), key(row))
		if err != nil || len(found.Kvs) != 1 {
			t.Fatalf("%v, error %v", found, err)
		}
		life, err := client.TimeToLive(t.Context(), clientv3.LeaseID(found.Kvs[0].Lease))
		if err != nil || life.GrantedTTL != int64(lasts.Seconds()) {
			t.Fatalf("%v, error %v", life, err)
		}
		return life.TTL
	}
	before := left()
	testenv.Eventually(t, "time passes", func() bool { return left() < before-1 })
	before = left()
	testenv.Eventually(t, "it is prolonged", func() bool {
		if err := reader.Prolong(t.Context(), row); err != nil {
			t.Fatal(err)
		}
		return left() > before
	})
	select {
	case b := <-batches:
		t.Fatalf("while it is prolonged: %+v", b)
	default:
	}

	if _, err := writer.WriteExpiring(t.Context(), "ledger/drains/b", []byte("1"), time.Second); err != nil {
		t.Fatal(err)
	}
	if err := writer.Close(); err != nil {
		t.Fatal(err)
	}
	if b := <-batches; len(b.Rows) != 1 || b.Rows[0].Key != "ledger/drains/b" {
		t.Fatalf("another: %+v", b)
	}
	if b := <-batches; !slices.Equal(b.Gone, []string{"ledger/drains/b"}) {
		t.Fatalf("at the end: %+v", b)
	}
	if err := reader.Prolong(t.Context(), "ledger/drains/b"); err != nil {
		t.Errorf("what is gone: %v", err)
	}
	stop()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// Rows that are written together share a lease of that time.
func TestRowsThatExpireTogether(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	ops := []store.Op{{Key: "ledger/left/a", Value: []byte("1")}, {Key: "ledger/left/b", Value: []byte("2")}}
	if err := s.WriteTogether(t.Context(), ops, time.Hour); err != nil {
		t.Fatal(err)
	}
	client, key := s.Etcd()
	leases := map[int64]bool{}
	for _, op := range ops {
		found, err := client.Get(t.Context(), key(op.Key))
		if err != nil || len(found.Kvs) != 1 || string(found.Kvs[0].Value) != string(op.Value) {
			t.Fatalf("%s: %v, error %v", op.Key, found, err)
		}
		leases[found.Kvs[0].Lease] = true
	}
	if len(leases) != 1 {
		t.Fatalf("they have %d leases", len(leases))
	}
	for id := range leases {
		lease, err := client.TimeToLive(t.Context(), clientv3.LeaseID(id))
		if err != nil || lease.GrantedTTL != 3600 {
			t.Errorf("it lasts %+v, error %v", lease, err)
		}
	}
}
