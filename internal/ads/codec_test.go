package ads

import (
	"fmt"
	"maps"
	"math"
	"runtime"
	"slices"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/google/go-cmp/cmp"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"
	"pgregory.net/rapid"

	"github.com/evermesh/evermesh/internal/envoy"
)

// What the codec writes is byte for byte what protobuf writes of the message.
func TestResponsesAreWhatProtobufWrites(t *testing.T) {
	text := rapid.StringN(0, 40, 300)
	rapid.Check(t, func(t *rapid.T) {
		f := &flight{
			typ:   rapid.SampledFrom(append(envoy.Types(), envoy.Secret)).Draw(t, "type"),
			nonce: text.Draw(t, "nonce"), version: text.Draw(t, "version"), system: text.Draw(t, "system"),
			removed: rapid.SliceOfN(text, 0, 4).Draw(t, "removed"),
		}
		for range rapid.IntRange(0, 4).Draw(t, "resources") {
			value := rapid.SliceOfN(rapid.Byte(), 1, 300).Draw(t, "value")
			f.sent = append(f.sent, &envoy.Resource{Name: text.Draw(t, "name"), Hash: text.Draw(t, "hash"), Encoded: value})
		}
		delta := rapid.Bool().Draw(t, "delta")
		var want proto.Message
		if delta {
			m := &discoveryv3.DeltaDiscoveryResponse{SystemVersionInfo: f.system, TypeUrl: f.typ.URL(), Nonce: f.nonce, RemovedResources: f.removed}
			for _, r := range f.sent {
				m.Resources = append(m.Resources, &discoveryv3.Resource{Name: r.Name, Version: r.Hash, Resource: &anypb.Any{TypeUrl: f.typ.URL(), Value: r.Encoded}})
			}
			want = m
		} else {
			f.removed = nil
			m := &discoveryv3.DiscoveryResponse{VersionInfo: f.version, TypeUrl: f.typ.URL(), Nonce: f.nonce}
			for _, r := range f.sent {
				m.Resources = append(m.Resources, &anypb.Any{TypeUrl: f.typ.URL(), Value: r.Encoded})
			}
			want = m
		}
		out := outgoingOf(f, delta)
		data, err := codec{}.Marshal(out)
		if err != nil {
			t.Fatal(err)
		}
		defer data.Free()
		encoded := data.Materialize()
		if out.bytes != len(encoded) {
			t.Fatalf("%d bytes were announced, %d are written", out.bytes, len(encoded))
		}
		got := want.ProtoReflect().New().Interface()
		if err := proto.Unmarshal(encoded, got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
			t.Fatal(diff)
		}
		reference, err := proto.MarshalOptions{Deterministic: true}.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		if len(reference) != len(encoded) {
			t.Fatalf("%d bytes, protobuf makes %d", len(encoded), len(reference))
		}
	})
}

// What the codec reads is what protobuf reads, in however many buffers it comes.
func TestRequestsAreWhatProtobufReads(t *testing.T) {
	text := rapid.StringN(0, 20, 100)
	rapid.Check(t, func(t *rapid.T) {
		types := []string{"", "type.googleapis.com/envoy.service.runtime.v3.Runtime"}
		for _, of := range append(envoy.Types(), envoy.Secret) {
			types = append(types, of.URL())
		}
		url := rapid.SampledFrom(types).Draw(t, "type")
		node := &corev3.Node{Id: text.Draw(t, "id"), Metadata: &structpb.Struct{Fields: map[string]*structpb.Value{"evermesh.instance": structpb.NewStringValue(text.Draw(t, "instance"))}}}
		var detail *rpcstatus.Status
		if rapid.Bool().Draw(t, "refused") {
			detail = &rpcstatus.Status{Code: 3, Message: text.Draw(t, "reason")}
		}
		names := rapid.SliceOfN(text, 0, 5)
		in := &incoming{delta: rapid.Bool().Draw(t, "delta"), anonymous: rapid.Bool().Draw(t, "anonymous")}
		want := request{nonce: text.Draw(t, "nonce"), refused: detail != nil, reason: detail.GetMessage()}
		var m proto.Message
		if in.delta {
			want.subscribe, want.unsubscribe = names.Draw(t, "subscribe"), names.Draw(t, "unsubscribe")
			want.versions = rapid.MapOfN(text, text, 0, 4).Draw(t, "versions")
			m = &discoveryv3.DeltaDiscoveryRequest{
				Node: node, TypeUrl: url, ResponseNonce: want.nonce, ErrorDetail: detail,
				ResourceNamesSubscribe: want.subscribe, ResourceNamesUnsubscribe: want.unsubscribe, InitialResourceVersions: want.versions,
				ResourceLocatorsSubscribe: []*discoveryv3.ResourceLocator{{Name: "passed over"}},
			}
		} else {
			want.names, want.version = names.Draw(t, "names"), text.Draw(t, "version")
			m = &discoveryv3.DiscoveryRequest{
				Node: node, TypeUrl: url, ResponseNonce: want.nonce, ErrorDetail: detail, ResourceNames: want.names, VersionInfo: want.version,
				ResourceLocators: []*discoveryv3.ResourceLocator{{Name: "passed over"}},
			}
		}
		encoded, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		var data mem.BufferSlice
		for chunk := range slices.Chunk(encoded, max(1, rapid.IntRange(1, 200).Draw(t, "buffers"))) {
			data = append(data, mem.SliceBuffer(chunk))
		}
		if err := (codec{}).Unmarshal(data, in); err != nil {
			t.Fatal(err)
		}
		want.typ = noType
		for _, typ := range append(envoy.Types(), envoy.Secret) {
			if typ.URL() == url {
				want.typ = typ
			}
		}
		if want.typ == noType {
			if in.url != url {
				t.Errorf("type is %q, want %q", in.url, url)
			}
		}
		got := in.request
		got.count, got.weight = 0, 0
		for _, list := range []*[]string{&got.names, &got.subscribe, &got.unsubscribe, &want.names, &want.subscribe, &want.unsubscribe} {
			*list = slices.Concat(*list, []string{"end"})
		}
		if !maps.Equal(got.versions, want.versions) {
			t.Errorf("versions %q, want %q", got.versions, want.versions)
		}
		got.versions, want.versions = nil, nil
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(request{})); diff != "" {
			t.Fatal(diff)
		}
		if in.anonymous != (in.node != nil) || (in.node != nil && !proto.Equal(in.node, node)) {
			t.Errorf("node is %v", in.node)
		}
	})
}

func FuzzRequests(f *testing.F) {
	for _, m := range []proto.Message{
		&discoveryv3.DeltaDiscoveryRequest{Node: &corev3.Node{Id: "n"}, TypeUrl: envoy.Cluster.URL(), InitialResourceVersions: map[string]string{"a": "b"}},
		&discoveryv3.DiscoveryRequest{ResourceNames: []string{"a", "b"}, ErrorDetail: &rpcstatus.Status{Message: "no"}},
	} {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, true)
		f.Add(b, false)
	}
	f.Fuzz(func(t *testing.T, b []byte, delta bool) {
		in := &incoming{delta: delta, anonymous: true}
		err := in.decode(b)
		world, changes := &discoveryv3.DiscoveryRequest{}, &discoveryv3.DeltaDiscoveryRequest{}
		var m proto.Message = world
		if delta {
			m = changes
		}
		if proto.Unmarshal(b, m) != nil {
			return // it is not for anyone to read
		}
		if err != nil {
			t.Fatalf("protobuf reads it; here it is refused: %v", err)
		}
		for _, c := range []struct{ got, want []string }{
			{in.names, world.GetResourceNames()}, {in.subscribe, changes.GetResourceNamesSubscribe()}, {in.unsubscribe, changes.GetResourceNamesUnsubscribe()},
		} {
			if !slices.Equal(c.got, c.want) {
				t.Errorf("names %q, protobuf reads %q", c.got, c.want)
			}
		}
	})
}

// A request of a million names is refused without being kept: what is allocated for it is in proportion to the names
// that are allowed, not to those that it has, whose slice alone would be 16 MB.
func TestAMillionNamesAreNotEvenRead(t *testing.T) {
	names := make([]string, 1_000_000)
	for i := range names {
		names[i] = fmt.Sprint("n", i)
	}
	for name, m := range map[string]proto.Message{
		"subscribed": &discoveryv3.DeltaDiscoveryRequest{TypeUrl: envoy.LoadAssignment.URL(), ResourceNamesSubscribe: names},
		"given up":   &discoveryv3.DeltaDiscoveryRequest{TypeUrl: envoy.LoadAssignment.URL(), ResourceNamesUnsubscribe: names},
		"listed":     &discoveryv3.DiscoveryRequest{TypeUrl: envoy.LoadAssignment.URL(), ResourceNames: names},
	} {
		t.Run(name, func(t *testing.T) {
			encoded, err := proto.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			_, delta := m.(*discoveryv3.DeltaDiscoveryRequest)
			in, allocated := &incoming{}, uint64(math.MaxUint64)
			for range 3 { // what others allocate meanwhile is counted, too
				in = &incoming{delta: delta}
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				err = in.decode(encoded)
				runtime.ReadMemStats(&after)
				if err != nil {
					t.Fatal(err)
				}
				allocated = min(allocated, after.TotalAlloc-before.TotalAlloc)
			}
			t.Logf("%d bytes are allocated for a request of %d", allocated, len(encoded))
			if allocated > 4<<20 {
				t.Errorf("%d bytes are allocated for it", allocated)
			}
			if kept := len(in.names) + len(in.subscribe) + len(in.unsubscribe); kept > maxNames+1 {
				t.Errorf("%d names are kept", kept)
			}
			if err := bounded(in.request, nil); err == nil || !strings.Contains(err.Error(), "names 1000000 resources") {
				t.Errorf("it is answered with %v", err)
			}
		})
	}
}
