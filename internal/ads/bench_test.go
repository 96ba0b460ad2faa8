package ads

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/evermesh/evermesh/internal/ads/adstest"
	"github.com/evermesh/evermesh/internal/envoy"
)

// BenchmarkAChangeForAll sends one changed route configuration of 9 KiB to many
// streams, each of a client and with a connection of its own, and waits until all
// have it and acknowledge. The other end is in the same process and the same in both:
// what differs between the server and a bare sender of the same bytes is the
// server's.
func BenchmarkAChangeForAll(b *testing.B) {
	const streams, size = 200, 9 << 10
	b.Run("server", func(b *testing.B) {
		r := bareRig(nil)
		address := serve(b, func(ctx context.Context, l net.Listener) error { return r.Serve(ctx, l, nil) })
		goals := [2]*goal{}
		for i := range goals {
			s := changed(i, size)
			for _, t := range []envoy.Type{envoy.Cluster, envoy.LoadAssignment, envoy.Listener} {
				s[t] = nil
			}
			s[envoy.Route][0].Hosts[0].Clusters = nil
			goals[i] = goalWith(s)
		}
		for i := range streams {
			r.goals[client(fmt.Sprint(i))] = goals[1]
		}
		peers := dial(b, address, streams)
		b.ReportAllocs()
		for n := 0; b.Loop(); n++ {
			for i := range streams {
				r.set(client(fmt.Sprint(i)), goals[n%2])
			}
			peers.Wait(b)
		}
	})
	b.Run("bare sender", func(b *testing.B) {
		s := &sender{}
		address := serve(b, func(ctx context.Context, l net.Listener) error {
			g := grpc.NewServer(grpc.ForceServerCodec(rawBytes{}), grpc.UnknownServiceHandler(s.serve), grpc.WriteBufferSize(0), grpc.ReadBufferSize(0), grpc.WaitForHandlers(true))
			defer context.AfterFunc(ctx, g.Stop)()
			return g.Serve(l)
		})
		encoded := changed(0, size)[envoy.Route][0]
		push, err := codec{}.Marshal(outgoingOf(&flight{typ: envoy.Route, nonce: "1", system: "1", sent: []*envoy.Resource{encoded}}, true))
		adstest.Must(b, err)
		s.push = push.Materialize()
		peers := dial(b, address, streams)
		b.ReportAllocs()
		for b.Loop() {
			for _, stream := range s.all() {
				adstest.Must(b, stream.SendMsg(s.push))
			}
			peers.Wait(b)
		}
	})
}

// serve runs a server until the benchmark ends.
func serve(b *testing.B, run func(ctx context.Context, l net.Listener) error) (address string) {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	adstest.Must(b, err)
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = run(ctx, l) })
	b.Cleanup(func() { stop(); running.Wait() })
	return l.Addr().String()
}

// peers are proxies that acknowledge what they get, without looking into it.
type peers struct {
	n    int
	done chan error
}

// dial connects them; each asks for the route configuration r and has got it.
func dial(b *testing.B, address string, n int) *peers {
	b.Helper()
	p := &peers{n: n, done: make(chan error, n)}
	ask := func(i int, nonce string, names ...string) []byte {
		m := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: envoy.Route.URL(), ResponseNonce: nonce, ResourceNamesSubscribe: names}
		encoded, err := proto.Marshal(m)
		adstest.Must(b, err)
		if nonce == "" { // the node, with its id alone
			id := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), nodeID(fmt.Sprint(i)))
			encoded = protowire.AppendBytes(protowire.AppendTag(encoded, 1, protowire.BytesType), id)
		}
		return encoded
	}
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	b.Cleanup(func() { stop(); running.Wait() })
	for i := range n {
		conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.ForceCodec(rawBytes{})))
		adstest.Must(b, err)
		b.Cleanup(func() { _ = conn.Close() })
		stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResources_FullMethodName)
		adstest.Must(b, err)
		adstest.Must(b, stream.SendMsg(ask(i, "", "r")))
		running.Go(func() {
			for {
				var got []byte
				err := stream.RecvMsg(&got)
				if err == nil {
					err = stream.SendMsg(ask(i, nonceOf(got)))
				}
				if ctx.Err() != nil {
					return
				}
				p.done <- err
				if err != nil {
					return
				}
			}
		})
	}
	p.Wait(b)
	return p
}

// Wait waits until each has got one response.
func (p *peers) Wait(b *testing.B) {
	b.Helper()
	for range p.n {
		adstest.Must(b, <-p.done)
	}
}

// nonceOf finds the nonce of a response, which is behind its resources.
func nonceOf(b []byte) string {
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return ""
		}
		b = b[n:]
		if number == responseNonce {
			nonce, _ := protowire.ConsumeBytes(b)
			return string(nonce)
		}
		if n = protowire.ConsumeFieldValue(number, kind, b); n < 0 {
			return ""
		}
		b = b[n:]
	}
	return ""
}

// sender is the bare sender: it answers a first request and nothing else.
type sender struct {
	push []byte

	mu      sync.Mutex
	streams []grpc.ServerStream
}

func (s *sender) serve(_ any, stream grpc.ServerStream) error {
	var request []byte
	if err := stream.RecvMsg(&request); err != nil {
		return err
	}
	s.mu.Lock()
	s.streams = append(s.streams, stream)
	s.mu.Unlock()
	if err := stream.SendMsg(s.push); err != nil {
		return err
	}
	for {
		if err := stream.RecvMsg(&request); err != nil {
			return nil
		}
	}
}

func (s *sender) all() []grpc.ServerStream {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.streams)
}

// rawBytes passes messages on as they are.
type rawBytes struct{}

func (rawBytes) Name() string { return "proto" }

func (rawBytes) Marshal(v any) ([]byte, error) { return v.([]byte), nil }

func (rawBytes) Unmarshal(data []byte, v any) error {
	*v.(*[]byte) = bytes.Clone(data)
	return nil
}
