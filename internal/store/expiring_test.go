package store_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/store"
	"github.com/evermesh/evermesh/internal/store/storetest"
)

// An expiring row is seen by the watches of all replicas, is another's to prolong, and
// goes when nobody does, whoever wrote it lives or not.
func TestExpiringRows(t *testing.T) {
	t.Parallel()
	replicas := storetest.Replicas(t, 2)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	first, err := replicas[0].WriteExpiring(ctx, "ledger/drains/a", []byte("1"), 2*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	batches := make(chan store.RowBatch, 16)
	ended := make(chan error, 1)
	watching, stop := context.WithCancel(ctx)
	go func() {
		ended <- replicas[1].WatchRows(watching, "ledger/drains/", func(b store.RowBatch) error { batches <- b; return nil })
	}()
	if b := <-batches; !b.Reset || len(b.Rows) != 1 || b.Rows[0].Key != "ledger/drains/a" || b.Rows[0].Created != first || b.Revision < first {
		t.Fatalf("at first %+v", b)
	}
	again, err := replicas[1].WriteExpiring(ctx, "ledger/drains/a", []byte("2"), 3*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if b := <-batches; b.Reset || b.Revision != again || b.Rows[0].Created != first || string(b.Rows[0].Value) != "2" {
		t.Fatalf("written again: %+v", b)
	}
	began := time.Now()
	for range 3 { // it lasts for longer than its time
		select {
		case b := <-batches:
			t.Fatalf("while it is prolonged: %+v", b)
		case <-time.After(1500 * time.Millisecond):
		}
		if err := replicas[0].Prolong(ctx, "ledger/drains/a"); err != nil {
			t.Fatal(err)
		}
	}
	if b := <-batches; !slices.Equal(b.Gone, []string{"ledger/drains/a"}) {
		t.Fatalf("at the end: %+v", b)
	}
	if took := time.Since(began); took < 6*time.Second {
		t.Errorf("it went after %v", took)
	}
	if err := replicas[0].Prolong(ctx, "ledger/drains/a"); err != nil {
		t.Errorf("what is gone: %v", err)
	}
	stop()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
