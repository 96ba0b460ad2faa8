// Package adstest is the other end of the management service, for tests: a
// Stream sends and receives by hand, a Proxy behaves as Envoy does. Both speak
// both dialects over real gRPC.
package adstest

import (
	"context"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/evermesh/evermesh/internal/testenv"
)

// Patience is how long tests wait for what has to come; much, because a machine may be busy, and
// hundreds of streams may wait for each other.
const Patience = 2 * testenv.Patience

// The short names of the types, in the order in which Envoy opens them.
const (
	CDS = "cds"
	EDS = "eds"
	LDS = "lds"
	RDS = "rds"
	SDS = "sds"
)

var urls = map[string]string{
	CDS: "type.googleapis.com/envoy.config.cluster.v3.Cluster",
	EDS: "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
	LDS: "type.googleapis.com/envoy.config.listener.v3.Listener",
	RDS: "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
	SDS: "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
}

// Options say who connects, and how.
type Options struct {
	Node     string // node id
	Instance string // evermesh.instance in the node's metadata
	// Addresses are those of the interface eth0 (aws.appmesh.task.interfaces), with their
	// prefix lengths; those of IPv4 alone.
	Addresses []string
	Delta     bool
	// Metrics: the node asks for the metrics extension, and its Envoy can have it.
	Metrics bool
	// Ingress: the node says that nothing redirects its workload's traffic, and that this is its address.
	Ingress string
	// Headers are gRPC metadata.
	Headers map[string]string
	// NodeAlways repeats the node in every request, as Envoy does unless told
	// otherwise.
	NodeAlways bool
	// Drain is how long a real Envoy leaves connections of listeners that go, in whole
	// seconds; 0 is one.
	Drain time.Duration
	// Host has a real Envoy run in the network of the machine, where its listeners meet
	// others.
	Host bool
}

// Request is one request in either dialect.
type Request struct {
	Type  string // cds, eds, …, or a whole type URL
	Nonce string // of the response that it answers
	// Refusal makes it a NACK.
	Refusal string

	Subscribe, Unsubscribe []string          // delta
	Versions               map[string]string // delta, first request
	Names                  []string          // state of the world
	Version                string            // state of the world
}

// Response is one response in either dialect.
type Response struct {
	Type      string
	Nonce     string
	Version   string            // state of the world: of the type; delta: of the system
	Resources []*anypb.Any      // in the order of Names
	Names     []string          // delta: of the resources; state of the world: their first field
	Versions  map[string]string // delta: by name
	Removed   []string          // delta, sorted
}

// String is the type, the sorted names, and the removed ones with a minus.
func (r Response) String() string {
	parts := append([]string{r.Type}, slices.Sorted(slices.Values(r.Names))...)
	for _, n := range r.Removed {
		parts = append(parts, "-"+n)
	}
	return strings.Join(parts, " ")
}

// Stream is one ADS stream. Send and Recv may be called from two goroutines.
type Stream struct {
	options Options
	node    *corev3.Node
	named   bool
	cancel  context.CancelFunc
	delta   discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesClient
	sotw    discoveryv3.AggregatedDiscoveryService_StreamAggregatedResourcesClient
}

// Dial connects to the address, in plaintext; the test closes the connection.
func Dial(t testing.TB, address string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatalf("dial %s: %v", address, err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// Open opens a stream; the test ends it.
func Open(t testing.TB, conn *grpc.ClientConn, o Options) *Stream {
	t.Helper()
	ctx, cancel := context.WithCancel(metadata.NewOutgoingContext(context.Background(), metadata.New(o.Headers)))
	t.Cleanup(cancel)
	s, err := open(ctx, conn, o)
	if err != nil {
		t.Fatalf("open stream: %v", err)
	}
	s.cancel = cancel
	return s
}

func open(ctx context.Context, conn *grpc.ClientConn, o Options) (*Stream, error) {
	s := &Stream{options: o, node: &corev3.Node{Id: o.Node, Cluster: "test"}}
	if o.Instance != "" {
		s.node.Metadata = &structpb.Struct{Fields: map[string]*structpb.Value{"evermesh.instance": structpb.NewStringValue(o.Instance)}}
	}
	if len(o.Addresses) > 0 {
		if s.node.Metadata == nil {
			s.node.Metadata = &structpb.Struct{Fields: map[string]*structpb.Value{}}
		}
		var list []any
		for _, a := range o.Addresses {
			list = append(list, a)
		}
		interfaces, err := structpb.NewValue(map[string]any{"ipv4": map[string]any{"lo": []any{"127.0.0.1/8"}, "eth0": list}, "ipv6": map[string]any{}})
		if err != nil {
			return nil, err
		}
		s.node.Metadata.Fields["aws.appmesh.task.interfaces"] = interfaces
	}
	if o.Metrics {
		if s.node.Metadata == nil {
			s.node.Metadata = &structpb.Struct{Fields: map[string]*structpb.Value{}}
		}
		s.node.Metadata.Fields["aws.appmesh.metric_filter"] = structpb.NewStructValue(&structpb.Struct{
			Fields: map[string]*structpb.Value{"level": structpb.NewStringValue("1")},
		})
		s.node.Extensions = []*corev3.Extension{{Name: "envoy.access_loggers.stats"}, {Name: "envoy.access_loggers.extension_filters.cel"}}
		s.node.UserAgentVersionType = &corev3.Node_UserAgentBuildVersion{UserAgentBuildVersion: &corev3.BuildVersion{
			Version: &typev3.SemanticVersion{MajorNumber: 1, MinorNumber: 40},
		}}
	}
	if o.Ingress != "" {
		if s.node.Metadata == nil {
			s.node.Metadata = &structpb.Struct{Fields: map[string]*structpb.Value{}}
		}
		s.node.Metadata.Fields["evermesh.interception"] = structpb.NewStringValue("none")
		s.node.Metadata.Fields["evermesh.ingress"] = structpb.NewStructValue(&structpb.Struct{
			Fields: map[string]*structpb.Value{"address": structpb.NewStringValue(o.Ingress)},
		})
	}
	c := discoveryv3.NewAggregatedDiscoveryServiceClient(conn)
	var err error
	if o.Delta {
		s.delta, err = c.DeltaAggregatedResources(ctx, grpc.WaitForReady(true))
	} else {
		s.sotw, err = c.StreamAggregatedResources(ctx, grpc.WaitForReady(true))
	}
	return s, err
}

// Close ends the stream from this side at once.
func (s *Stream) Close() { s.cancel() }

// Send sends a request. On a stream that has ended it does nothing: Recv tells
// how it ended.
func (s *Stream) Send(r Request) error {
	err := s.send(r)
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func (s *Stream) send(r Request) error {
	node := s.node
	if s.named && !s.options.NodeAlways {
		node = nil
	}
	s.named = true
	url, ok := urls[r.Type]
	if !ok {
		url = r.Type
	}
	var detail *rpcstatus.Status
	if r.Refusal != "" {
		detail = &rpcstatus.Status{Code: int32(codes.InvalidArgument), Message: r.Refusal}
	}
	if s.options.Delta {
		return s.delta.Send(&discoveryv3.DeltaDiscoveryRequest{
			Node: node, TypeUrl: url, ResponseNonce: r.Nonce, ErrorDetail: detail,
			ResourceNamesSubscribe: r.Subscribe, ResourceNamesUnsubscribe: r.Unsubscribe, InitialResourceVersions: r.Versions,
		})
	}
	return s.sotw.Send(&discoveryv3.DiscoveryRequest{
		Node: node, TypeUrl: url, ResponseNonce: r.Nonce, ErrorDetail: detail, ResourceNames: r.Names, VersionInfo: r.Version,
	})
}

// Head waits for the head of the stream; it is nil when the stream ended without one.
func (s *Stream) Head(t testing.TB) metadata.MD {
	t.Helper()
	late := time.AfterFunc(Patience, s.cancel)
	defer late.Stop()
	var stream grpc.ClientStream = s.sotw
	if s.options.Delta {
		stream = s.delta
	}
	md, err := stream.Header()
	if err != nil {
		t.Fatalf("head of the stream: %v", err)
	}
	return md
}

// Recv waits for a response or the stream's end.
func (s *Stream) Recv() (Response, error) {
	if s.options.Delta {
		in, err := s.delta.Recv()
		if err != nil {
			return Response{}, err
		}
		r := Response{Type: short(in.GetTypeUrl()), Nonce: in.GetNonce(), Version: in.GetSystemVersionInfo(), Versions: map[string]string{}}
		for _, x := range in.GetResources() {
			r.Names = append(r.Names, x.GetName())
			r.Resources = append(r.Resources, x.GetResource())
			r.Versions[x.GetName()] = x.GetVersion()
		}
		r.Removed = slices.Sorted(slices.Values(in.GetRemovedResources()))
		return r, nil
	}
	in, err := s.sotw.Recv()
	if err != nil {
		return Response{}, err
	}
	r := Response{Type: short(in.GetTypeUrl()), Nonce: in.GetNonce(), Version: in.GetVersionInfo(), Resources: in.GetResources()}
	for _, x := range in.GetResources() {
		r.Names = append(r.Names, nameOf(x))
	}
	return r, nil
}

// Expect receives and checks what comes next.
func (s *Stream) Expect(t testing.TB, want string) Response {
	t.Helper()
	r := s.Next(t)
	if r.String() != want {
		t.Fatalf("got %q, want %q", r, want)
	}
	return r
}

// Next receives what comes next.
func (s *Stream) Next(t testing.TB) Response {
	t.Helper()
	type result struct {
		Response
		error
	}
	got := make(chan result, 1)
	go func() {
		r, err := s.Recv()
		got <- result{r, err}
	}()
	select {
	case r := <-got:
		if r.error != nil {
			t.Fatalf("stream ended with %v", r.error)
		}
		return r.Response
	case <-time.After(Patience):
		t.Fatal("nothing came")
	}
	return Response{}
}

// End waits for the stream's end and returns its code and text; responses on
// the way are passed over. Code 0 is a graceful end.
func (s *Stream) End(t testing.TB) (codes.Code, string) {
	t.Helper()
	timeout := time.AfterFunc(Patience, s.cancel)
	defer timeout.Stop()
	for {
		if _, err := s.Recv(); err != nil {
			return Status(err)
		}
	}
}

// Status is the code and text with which a stream ended.
func Status(err error) (codes.Code, string) {
	if err == nil || errors.Is(err, context.Canceled) {
		return codes.Canceled, ""
	}
	if err.Error() == "EOF" {
		return codes.OK, ""
	}
	s := status.Convert(err)
	return s.Code(), s.Message()
}

// Answer is the request that answers a response on a stream that asks for names.
func (s *Stream) Answer(r Response, refusal string, names ...string) Request {
	out := Request{Type: r.Type, Nonce: r.Nonce, Refusal: refusal}
	if !s.options.Delta {
		out.Names = names
		if out.Version = r.Version; refusal != "" {
			out.Version = ""
		}
	}
	return out
}

// Must fails the test on an error.
func Must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func short(url string) string {
	for s, u := range maps.All(urls) {
		if u == url {
			return s
		}
	}
	return url
}

// nameOf is the first field of a resource, which is its name in every type.
func nameOf(a *anypb.Any) string {
	m, err := a.UnmarshalNew()
	if err != nil {
		name, _, _ := strings.Cut(string(a.GetValue()), "=") // a stand-in of a test
		return name
	}
	fields := m.ProtoReflect().Descriptor().Fields()
	return m.ProtoReflect().Get(fields.ByNumber(1)).String()
}
