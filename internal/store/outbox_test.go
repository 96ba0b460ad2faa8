package store_test

import (
	"context"
	"fmt"
	"slices"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/evermesh/evermesh/internal/store"
	"github.com/evermesh/evermesh/internal/store/storetest"
)

func TestEventsStayUntilTheyAreMoved(t *testing.T) {
	replicas := storetest.Replicas(t, 2)
	here, there := replicas[0], replicas[1]
	write := func(n int) {
		t.Helper()
		if _, err := here.Update(context.Background(), scopes("m"), func(tx *store.Tx) error {
			tx.Put(resource(t, nodeKey("m", fmt.Sprint("n", n)), 1))
			tx.Outbox(fmt.Append(nil, "event ", n))
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	write(0) // before anybody asks
	wake := here.Outgoing()
	there.Outgoing()
	for n := range 250 {
		write(n + 1)
	}
	<-wake
	mine := here.Committed()
	if len(mine) != 250 || string(mine[0].Value) != "event 1" || len(here.Committed()) != 0 {
		t.Errorf("%d events were committed here", len(mine))
	}
	if other := there.Committed(); len(other) != 0 {
		t.Errorf("%d events were committed there", len(other))
	}
	read := func() (keys []string) {
		t.Helper()
		after := ""
		for {
			events, more, err := there.Outbox(context.Background(), after, 100)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range events {
				keys = append(keys, e.Key)
				after = e.Key
			}
			if !more {
				return keys
			}
		}
	}
	keys := read()
	if len(keys) != 251 || !slices.IsSorted(keys) {
		t.Fatalf("%d events are stored", len(keys))
	}
	client, key := there.Etcd()
	stored, err := client.Get(context.Background(), key("outbox/"), clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	for _, kv := range stored.Kvs {
		if kv.Lease != 0 {
			t.Fatalf("%s ends with a lease", kv.Key)
		}
	}
	var moved []string
	for _, e := range mine {
		moved = append(moved, e.Key)
	}
	if err := there.Moved(context.Background(), moved); err != nil {
		t.Fatal(err)
	}
	if err := here.Moved(context.Background(), moved[:1]); err != nil {
		t.Errorf("moved twice: %v", err)
	}
	if keys := read(); len(keys) != 1 {
		t.Errorf("%d events are left", len(keys))
	}
}
