package store_test

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/evermesh/evermesh/internal/store"
	"github.com/evermesh/evermesh/internal/store/storetest"
)

func rows(t *testing.T, s *store.Store, prefix string) map[string]string {
	t.Helper()
	all, err := s.Read(context.Background(), prefix)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for key, value := range all {
		out[key] = string(value)
	}
	return out
}

func write(t *testing.T, s *store.Store, lease bool, ops ...store.Op) {
	t.Helper()
	if err := s.Write(context.Background(), lease, ops); err != nil {
		t.Fatal(err)
	}
}

func TestRows(t *testing.T) {
	replicas := storetest.Replicas(t, 2)
	write(t, replicas[0], false, store.Op{Key: "endpoints/a", Value: []byte("1")}, store.Op{Key: "endpoints/b", Value: []byte("2")})
	write(t, replicas[0], true, store.Op{Key: "ledger/a", Value: []byte("3")})
	write(t, replicas[0], false, store.Op{Key: "endpoints/a"}, store.Op{Key: "endpoints/c", Value: []byte{}})
	write(t, replicas[0], false)
	if diff := cmp.Diff(map[string]string{"endpoints/b": "2", "endpoints/c": ""}, rows(t, replicas[1], "endpoints/")); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]string{"ledger/a": "3"}, rows(t, replicas[1], "ledger/")); diff != "" {
		t.Error(diff)
	}
	for _, key := range []string{"mesh/x", "lock/x", "head", "heads/x", "token/x", "account/x", "outbox/x"} {
		if err := replicas[0].Write(context.Background(), false, []store.Op{{Key: key, Value: []byte("1")}}); err == nil {
			t.Errorf("row %s is written", key)
		}
	}
}

func TestMoreRowsThanAPage(t *testing.T) {
	s := storetest.New(t)
	for i := range 25 {
		var ops []store.Op
		for j := range 100 {
			ops = append(ops, store.Op{Key: fmt.Sprintf("ledger/%d/%d", i, j), Value: []byte("1")})
		}
		write(t, s, true, ops...)
	}
	if got := len(rows(t, s, "ledger/")); got != 2500 {
		t.Errorf("%d rows are read of 2500", got)
	}
}

// The rows of a replica vanish with it, and only those.
func TestLeasedRowsVanishWithTheirReplica(t *testing.T) {
	server, prefix := storetest.Server(t)
	s := storetest.Open(t, store.Options{Server: server, Prefix: prefix})
	leaving, err := store.Open(context.Background(), store.Options{Server: server, Prefix: prefix})
	if err != nil {
		t.Fatal(err)
	}
	write(t, leaving, true, store.Op{Key: "ledger/leaving", Value: []byte("1")})
	write(t, leaving, false, store.Op{Key: "endpoints/kept", Value: []byte("1")})
	write(t, s, true, store.Op{Key: "ledger/staying", Value: []byte("1")})
	client, _ := s.Etcd()
	life, err := client.TimeToLive(context.Background(), leaving.SessionLease())
	if err != nil || life.GrantedTTL != 30 {
		t.Errorf("lease lives %v, error %v", life, err)
	}
	if err := leaving.Close(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"ledger/staying": "1"}, rows(t, s, "ledger/")); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]string{"endpoints/kept": "1"}, rows(t, s, "endpoints/")); diff != "" {
		t.Error(diff)
	}
}

// Rows are cut so that an etcd with its own settings takes each transaction.
func TestBatches(t *testing.T) {
	of := func(sizes ...int) []store.Op {
		ops := make([]store.Op, len(sizes))
		for i, size := range sizes {
			ops[i] = store.Op{Key: "k", Value: make([]byte, size-1)}
		}
		return ops
	}
	const m = 1 << 20
	for name, c := range map[string]struct {
		ops  []store.Op
		want []int // rows of each transaction
	}{
		"none":            {nil, nil},
		"few":             {of(10, 10), []int{2}},
		"many":            {of(slices.Repeat([]int{10}, 250)...), []int{100, 100, 50}},
		"just a mebibyte": {of(m/2, m/2, 10), []int{2, 1}},
		"large rows":      {of(10, m, 10, m+1, 10), []int{1, 1, 1, 1, 1}},
	} {
		t.Run(name, func(t *testing.T) {
			var got []int
			for batch := range store.Batches(c.ops) {
				got = append(got, len(batch))
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// An etcd with its own settings takes what a replica writes again: its rows are
// more than one transaction may hold.
func TestManyBytesComeBackAfterALostLease(t *testing.T) {
	s := storetest.Open(t, store.Options{Endpoints: []string{newExternal(t, nil).endpoint}, Prefix: "/evermesh"})
	for i := range 4 {
		write(t, s, true, store.Op{Key: fmt.Sprintf("ledger/%d", i), Value: make([]byte, 900<<10)})
	}
	client, _ := s.Etcd()
	if _, err := client.Revoke(context.Background(), s.SessionLease()); err != nil {
		t.Fatal(err)
	}
	if err := s.KeepSession(context.Background()); err != nil {
		t.Fatal(err)
	}
	if got := len(rows(t, s, "ledger/")); got != 4 {
		t.Errorf("%d rows came back of 4", got)
	}
}

// A lasting row outlives its replica, and by the time that it is written the
// others are there, though their lease was lost.
func TestLastingRows(t *testing.T) {
	server, prefix := storetest.Server(t)
	s := storetest.Open(t, store.Options{Server: server, Prefix: prefix})
	leaving, err := store.Open(context.Background(), store.Options{Server: server, Prefix: prefix})
	if err != nil {
		t.Fatal(err)
	}
	write(t, leaving, true, store.Op{Key: "ledger/a", Value: []byte("1")}, store.Op{Key: "ledger/lasting", Value: []byte("1"), Lasting: true})
	client, _ := s.Etcd()
	if _, err := client.Revoke(context.Background(), leaving.SessionLease()); err != nil {
		t.Fatal(err)
	}
	write(t, leaving, true, store.Op{Key: "ledger/lasting", Value: []byte("2"), Lasting: true})
	if diff := cmp.Diff(map[string]string{"ledger/a": "1", "ledger/lasting": "2"}, rows(t, s, "ledger/")); diff != "" {
		t.Error(diff)
	}
	if err := leaving.Close(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"ledger/lasting": "2"}, rows(t, s, "ledger/")); diff != "" {
		t.Error(diff)
	}
}

// A replica that was away longer than its lease writes its rows again.
func TestRowsComeBackAfterALostLease(t *testing.T) {
	for name, recover := range map[string]func(t *testing.T, s *store.Store){
		"with the next write": func(t *testing.T, s *store.Store) { write(t, s, true, store.Op{Key: "ledger/c", Value: []byte("3")}) },
		"without a write": func(t *testing.T, s *store.Store) {
			if err := s.KeepSession(context.Background()); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := storetest.New(t)
			if err := s.KeepSession(context.Background()); err != nil {
				t.Errorf("without any row: %v", err)
			}
			write(t, s, true, store.Op{Key: "ledger/a", Value: []byte("1")}, store.Op{Key: "ledger/b", Value: []byte("2")})
			write(t, s, true, store.Op{Key: "ledger/b"})
			client, _ := s.Etcd()
			lost := s.SessionLease()
			if _, err := client.Revoke(context.Background(), lost); err != nil {
				t.Fatal(err)
			}
			if got := rows(t, s, "ledger/"); len(got) != 0 {
				t.Fatalf("rows outlive their lease: %v", got)
			}
			recover(t, s)
			got := rows(t, s, "ledger/")
			delete(got, "ledger/c")
			if diff := cmp.Diff(map[string]string{"ledger/a": "1"}, got); diff != "" {
				t.Error(diff)
			}
			if s.SessionLease() == lost {
				t.Error("the lost lease is still used")
			}
		})
	}
}
