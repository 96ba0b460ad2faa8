package relay

import (
	"slices"
	"strings"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/evermesh/evermesh/internal/agent/agenttest"
)

// mostAdded is what the relay may add to an answer of the control plane.
const mostAdded = time.Millisecond

// BenchmarkRelay asks for one answer of a usual size, and for one of a megabyte, by turns through the relay and without
// it: added-µs is the difference of the medians. What is kept of it as the last good configuration is in it.
func BenchmarkRelay(b *testing.B) {
	for name, resources := range map[string]int{"10KB": 1, "1MB": 100} {
		b.Run(name, func(b *testing.B) {
			answer := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: "type.googleapis.com/envoy.config.route.v3.RouteConfiguration", SystemVersionInfo: "1", Nonce: "1"}
			for i := range resources {
				answer.Resources = append(answer.Resources, &discoveryv3.Resource{
					Name: strings.Repeat("r", 1+i), Version: "1", Resource: &anypb.Any{TypeUrl: answer.TypeUrl, Value: []byte(strings.Repeat("x", 10_000))},
				})
			}
			c := agenttest.NewControlPlane(b, "")
			c.Delta = func(s discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
				for {
					if _, err := s.Recv(); err != nil {
						return nil
					}
					if err := s.Send(answer); err != nil {
						return err
					}
				}
			}
			conn, err := grpc.NewClient(c.Addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)))
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { conn.Close() })
			_, relayed := proven(b, "http://"+c.Addr)
			var times [2][]time.Duration
			var streams [2]discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesClient
			for i, client := range []discoveryv3.AggregatedDiscoveryServiceClient{discoveryv3.NewAggregatedDiscoveryServiceClient(conn), relayed} {
				if streams[i], err = client.DeltaAggregatedResources(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
			ask := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: answer.TypeUrl, ResponseNonce: "1"}
			turn := func(i int) time.Duration {
				began := time.Now()
				if err := streams[i].Send(ask); err != nil {
					b.Fatal(err)
				}
				if _, err := streams[i].Recv(); err != nil {
					b.Fatal(err)
				}
				return time.Since(began)
			}
			for i := range streams { // connections and credentials are not the question
				turn(i)
			}
			for b.Loop() {
				for i := range streams {
					times[i] = append(times[i], turn(i))
				}
			}
			var median [2]time.Duration
			for i, all := range times {
				slices.Sort(all)
				median[i] = all[len(all)/2]
			}
			added := median[1] - median[0]
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(float64(median[0].Microseconds()), "direct-µs")
			b.ReportMetric(float64(median[1].Microseconds()), "relayed-µs")
			b.ReportMetric(float64(added.Microseconds()), "added-µs")
			if resources == 1 && b.N >= 100 && added > mostAdded {
				b.Errorf("the relay adds %s, at most %s is allowed", added, mostAdded)
			}
		})
	}
}
