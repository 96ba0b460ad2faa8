package lastgood

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/evermesh/evermesh/internal/testenv"
)

const nodeID = "mesh/shop/virtualNode/orders"

// bench is a store with a clock that the test moves, and what it logged.
type bench struct {
	*Store
	now time.Time
	out *testenv.Output
}

func newBench(dir string, keys ...string) *bench {
	b := &bench{now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), out: &testenv.Output{}}
	b.Store = New(Options{
		Dir: dir, Log: slog.New(slog.NewTextHandler(b.out, nil)), Now: func() time.Time { return b.now },
		Keys: func(context.Context) (out [][]byte) {
			for _, k := range keys {
				out = append(out, []byte(k))
			}
			return out
		},
	})
	return b
}

// pass moves the clock and has the store do what it does by itself.
func (b *bench) pass(t testing.TB, d time.Duration) {
	t.Helper()
	b.now = b.now.Add(d)
	b.save(context.Background(), false)
}

// content is what is kept, as type, name and version with bytes.
func (b *bench) content() map[string]string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.kept.content()
}

func (c *configuration) content() map[string]string {
	out := map[string]string{}
	if c == nil {
		return out
	}
	for typ, k := range c.kinds {
		for name, r := range k.resources {
			out[typ+" "+name] = r.version + " " + string(r.any)
		}
	}
	return out
}

func encoded(t testing.TB, m proto.Message) []byte {
	t.Helper()
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// thing is a resource whose first field is its name, as they all have it.
func thing(t testing.TB, typ, name, text string) *anypb.Any {
	t.Helper()
	return &anypb.Any{TypeUrl: typ, Value: appendString(appendString(nil, 1, name), 5, text)}
}

func node(id string, metadata map[string]any) *corev3.Node {
	s, _ := structpb.NewStruct(metadata)
	return &corev3.Node{Id: id, Metadata: s}
}

// speak is a delta conversation in which everything is acknowledged: names to texts by type.
func speak(t testing.TB, s *Stream, of map[string]map[string]string, metadata map[string]any) {
	t.Helper()
	for _, typ := range slices.Sorted(maps.Keys(of)) {
		q := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: typ, Node: node(nodeID, metadata)}
		if !wild(typ) {
			q.ResourceNamesSubscribe = slices.Sorted(maps.Keys(of[typ]))
		}
		s.Request(encoded(t, q))
		r := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: typ, Nonce: "n-" + typ}
		for name, text := range of[typ] {
			r.Resources = append(r.Resources, &discoveryv3.Resource{Name: name, Version: "v-" + text, Resource: thing(t, typ, name, text)})
		}
		s.Response(pieces(encoded(t, r)))
		s.Request(encoded(t, &discoveryv3.DeltaDiscoveryRequest{TypeUrl: typ, ResponseNonce: "n-" + typ}))
	}
}

// small is a configuration.
func small() map[string]map[string]string {
	return map[string]map[string]string{
		clusterType: {"c1": "one", "c2": "two"}, listenerType: {"l": "listener"}, endpointType: {"c1": "endpoints"},
	}
}

// issued is a secret with a key in it, filed one of which it has the path.
func issued(t testing.TB, name string) *anypb.Any { return secret(t, name, inline("PRIVATE")) }

func filed(t testing.TB, name string) *anypb.Any {
	return secret(t, name, &corev3.DataSource{Specifier: &corev3.DataSource_Filename{Filename: "/key.pem"}})
}

func inline(text string) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: text}}
}

func secret(t testing.TB, name string, key *corev3.DataSource) *anypb.Any {
	t.Helper()
	a, err := anypb.New(&tlsv3.Secret{Name: name, Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
		CertificateChain: inline("CHAIN"), PrivateKey: key, Password: inline(""),
	}}})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// readResponse reads a DiscoveryResponse, or a DeltaDiscoveryResponse.
func readResponse(b []byte, delta bool) (response, error) {
	return walkResponse(func(visit visitor) error { return fields(b, visit) }, delta)
}

// ask is what a fresh Envoy is given: all clusters and listeners, and the names that it asks for.
func ask(t testing.TB, s *Store, delta bool, names map[string][]string) map[string]string {
	t.Helper()
	stream := s.Begin(delta)
	types := append([]string{clusterType, listenerType}, slices.Sorted(maps.Keys(names))...)
	got := map[string]string{}
	var answers *Answers
	for i, typ := range types {
		message := request1(t, delta, typ, names[typ])
		if i == 0 {
			stream.Request(message)
			if answers = stream.Answers(t.Context()); answers == nil {
				return nil
			}
		}
		out, err := answers.Answer(message)
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range out {
			r, err := readResponse(text, delta)
			if err != nil || r.typ != typ || r.nonce == "" {
				t.Fatalf("got %+v, %v", r, err)
			}
			for _, one := range r.resources {
				got[typ+" "+one.name] = one.version + " " + string(one.any)
			}
			for _, name := range r.removed {
				got[typ+" "+name] = "removed"
			}
			if _, err := answers.Answer(acknowledge(t, delta, r, names[typ])); err != nil {
				t.Fatal(err)
			}
		}
	}
	stream.End()
	return got
}

func request1(t testing.TB, delta bool, typ string, names []string) []byte {
	if delta {
		return encoded(t, &discoveryv3.DeltaDiscoveryRequest{Node: node(nodeID, nil), TypeUrl: typ, ResourceNamesSubscribe: names})
	}
	return encoded(t, &discoveryv3.DiscoveryRequest{Node: node(nodeID, nil), TypeUrl: typ, ResourceNames: names})
}

func acknowledge(t testing.TB, delta bool, r response, names []string) []byte {
	if delta {
		return encoded(t, &discoveryv3.DeltaDiscoveryRequest{TypeUrl: r.typ, ResponseNonce: r.nonce})
	}
	return encoded(t, &discoveryv3.DiscoveryRequest{TypeUrl: r.typ, ResponseNonce: r.nonce, VersionInfo: r.version, ResourceNames: names})
}

// unlike lists what differs, for people.
func unlike(got, want map[string]string) (out []string) {
	for k, v := range want {
		if got[k] != v {
			out = append(out, fmt.Sprintf("%s: got %q, want %q", k, got[k], v))
		}
	}
	for k, v := range got {
		if _, ok := want[k]; !ok {
			out = append(out, fmt.Sprintf("%s: got %q, want none", k, v))
		}
	}
	slices.Sort(out)
	return out
}

// say is one more secret of a delta conversation, acknowledged.
func say(t testing.TB, s *Stream, name string, content *anypb.Any) {
	t.Helper()
	s.Request(encoded(t, &discoveryv3.DeltaDiscoveryRequest{TypeUrl: secretType, ResourceNamesSubscribe: []string{name}}))
	s.Response(pieces(encoded(t, &discoveryv3.DeltaDiscoveryResponse{
		TypeUrl: secretType, Nonce: "s-" + name, Resources: []*discoveryv3.Resource{{Name: name, Version: "1", Resource: content}},
	})))
	s.Request(encoded(t, &discoveryv3.DeltaDiscoveryRequest{TypeUrl: secretType, ResponseNonce: "s-" + name}))
}

// pieces is a message as gRPC gives it.
func pieces(message []byte) Reader {
	half := len(message) / 2
	return mem.BufferSlice{mem.SliceBuffer(message[:half]), mem.SliceBuffer(message[half:])}.Reader()
}
