package audit_test

import (
	"context"
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/google/uuid"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/audit/segment"
	"github.com/evermesh/evermesh/internal/client"
	"github.com/evermesh/evermesh/internal/rest/resttest"
	"github.com/evermesh/evermesh/internal/store/storetest"
)

// What an event costs: made, and made and on the disk, by one caller and by many.
func BenchmarkEvent(b *testing.B) {
	k := trail(nil)
	r := call(0, "DescribeMesh")
	b.ReportAllocs()
	var n int
	for b.Loop() {
		n = len(k.Event(r))
	}
	b.ReportMetric(float64(n), "bytes/event")
}

func BenchmarkAppend(b *testing.B) {
	for _, callers := range []int{1, 32, 256} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			l := opened(b, b.TempDir())
			k := trail(l)
			r := call(0, "DescribeMesh")
			r.ReadOnly = true
			b.SetParallelism(callers)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := k.Append(context.Background(), r); err != nil {
						b.Error(err)
					}
				}
			})
			s := l.Stats()
			b.ReportMetric(float64(s.Entries)/b.Elapsed().Seconds(), "events/s")
			b.ReportMetric(float64(s.Entries)/float64(s.Groups), "events/fsync")
		})
	}
}

// A lookup over as much as a replica keeps: the newest page, and a rare event.
func BenchmarkLookup(b *testing.B) {
	r := replicas(b, 1)[0]
	const events = 200_000
	k := r.trail
	var n atomic.Int64
	k.NewID = func() string { return fmt.Sprint("id-", n.Add(1)) }
	for done := 0; done < events; {
		var batch []segment.Entry
		for range 2000 {
			done++
			name := "DescribeMesh"
			if done == 100 {
				name = "DeleteMesh"
			}
			entries, err := segment.Lines(k.Event(call(time.Duration(done)*time.Second, name)))
			if err != nil {
				b.Fatal(err)
			}
			batch = append(batch, entries...)
		}
		if err := r.log.Append(context.Background(), batch...); err != nil {
			b.Fatal(err)
		}
	}
	b.Logf("%d MB", r.log.Stats().Bytes>>20)
	b.Run("newest", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if got, _, err := r.lookup(b, account, nil); err != nil || len(got) != 50 {
				b.Fatal(got, err)
			}
		}
	})
	b.Run("rare", func(b *testing.B) {
		b.ReportAllocs()
		input := map[string]any{"LookupAttributes": []any{map[string]any{"AttributeKey": "EventName", "AttributeValue": "DeleteMesh"}}}
		pages := 0
		for b.Loop() {
			var found []string
			for token := ""; ; pages++ {
				if token != "" {
					input["NextToken"] = token
				}
				got, next, err := r.lookup(b, account, input)
				if err != nil {
					b.Fatal(err)
				}
				found = append(found, got...)
				if token = next; token == "" {
					break
				}
			}
			delete(input, "NextToken")
			if len(found) != 1 {
				b.Fatalf("found %q", found)
			}
		}
		b.ReportMetric(float64(pages)/float64(b.N), "pages/op")
	})
}

// What a read of the API costs with its event, and without: 32 callers, and one.
func BenchmarkDescribe(b *testing.B) {
	for _, callers := range []int{1, 16} { // per processor
		for _, with := range []string{"off", "all"} {
			b.Run(fmt.Sprintf("callers=%d/audit=%s", callers, with), func(b *testing.B) {
				o := resttest.Options{Store: storetest.New(b)}
				if with == "all" {
					k := trail(opened(b, b.TempDir()))
					k.NewID = uuid.NewString
					o.Audit = k
				}
				server := resttest.Serve(b, o)
				key := resttest.Root(resttest.AccountA)
				c, err := client.New(client.Config{
					Endpoint: server.URL, Region: region, Credentials: credentials.NewStaticCredentialsProvider(key.ID, key.Secret, ""),
					HTTP: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}},
				})
				if err != nil {
					b.Fatal(err)
				}
				if err := c.Call(b.Context(), "CreateMesh", api.CreateMeshInput{MeshName: "m"}, nil); err != nil {
					b.Fatal(err)
				}
				b.SetParallelism(callers)
				b.ResetTimer()
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						if err := c.Call(b.Context(), "DescribeMesh", api.DescribeMeshInput{MeshName: "m"}, nil); err != nil {
							b.Error(err)
							return
						}
					}
				})
			})
		}
	}
}
