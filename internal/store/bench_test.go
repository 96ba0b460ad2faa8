package store_test

import (
	"bytes"
	"context"
	"fmt"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/evermesh/evermesh/internal/store"
	"github.com/evermesh/evermesh/internal/store/storetest"
)

// A write in a mesh of 1,000 resources with the event of an audit trail, beside
// etcd itself doing the same operations. Both without fsync.
func BenchmarkUpdate(b *testing.B) {
	s := storetest.New(b)
	for i := range 1000 {
		put(b, s, resource(b, nodeKey("m", fmt.Sprintf("n%d", i)), 1))
	}
	event := bytes.Repeat([]byte("e"), 1536)
	made := resource(b, nodeKey("m", "n"), 1)
	b.Run("store", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := s.Update(context.Background(), scopes("m"), func(tx *store.Tx) error {
				tx.Put(made)
				tx.Outbox(event)
				return nil
			}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("etcd", func(b *testing.B) {
		client, key := s.Etcd()
		value := string(bytes.Repeat([]byte("v"), 200))
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			_, err := client.Txn(context.Background()).If(clientv3.Compare(clientv3.ModRevision(key("x/absent")), "=", 0)).Then(
				clientv3.OpPut(key("x/resource"), value), clientv3.OpPut(key("x/lock"), ""), clientv3.OpPut(key("x/head"), ""),
				clientv3.OpPut(key("x/outbox"), string(event)),
			).Else(clientv3.OpGet(key("x/lock")), clientv3.OpGet(key("x/resource"))).Commit()
			if err != nil {
				b.Fatal(err)
			}
		}
	})
}
