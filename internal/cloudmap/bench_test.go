package cloudmap_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/cloudmap"
	"github.com/evermesh/evermesh/internal/store"
	"github.com/evermesh/evermesh/internal/store/storetest"
)

// BenchmarkLearn is a registry that reads 1,000 services with 10 instances each at its start, and one that learns of
// one registration more.
func BenchmarkLearn(b *testing.B) {
	const services, each = 1000, 10
	record := func(tail, kind string, body any) store.Record {
		text, err := json.Marshal(body)
		if err != nil {
			b.Fatal(err)
		}
		return store.Record{Key: "service/servicediscovery/" + account + "/" + tail, Type: kind, Schema: 1, Body: text}
	}
	all := store.RecordBatch{Reset: true}
	instance := func(s, i int) store.Record {
		return record(fmt.Sprintf("service/srv-%d/instance/i%d", s, i), "cloudmap-instance",
			map[string]any{"id": fmt.Sprint("i", i), "attributes": map[string]string{"AWS_INSTANCE_IPV4": fmt.Sprintf("10.0.%d.%d", s%256, i), "AWS_INSTANCE_PORT": "8080", "k8s.io/pod": "p"}})
	}
	for s := range services {
		for i := range each {
			all.Records = append(all.Records, instance(s, i))
		}
		all.Records = append(all.Records, record(fmt.Sprintf("service/srv-%d/service", s), "cloudmap-service",
			map[string]any{"id": fmt.Sprint("srv-", s), "name": fmt.Sprint("s", s), "namespace": "ns-1", "namespaceName": "apps.local", "namespaceType": "DNS_PRIVATE"}))
	}
	all.Records = append(all.Records, record("names/namespace/ns-1", "cloudmap-namespace", map[string]any{"id": "ns-1", "name": "apps.local", "type": "DNS_PRIVATE", "created": time.Unix(1, 0)}))
	r := cloudmap.NewRegistry(storetest.New(b), slog.New(slog.DiscardHandler))
	b.Run("everything", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			r.Take(all)
		}
	})
	one := store.RecordBatch{Records: []store.Record{instance(7, 7)}}
	b.Run("one", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			r.Take(one)
		}
	})
	if s, ok := r.Lookup("apps.local", "s7"); !ok || len(s.Instances) != each {
		b.Errorf("s7 has %v", s)
	}
}
