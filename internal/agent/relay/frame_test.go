package relay

import (
	"crypto/rand"
	"slices"
	"testing"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// What can be an answer is passed on, however it is cut into buffers; what cannot is not taken for the control plane.
func TestAnswers(t *testing.T) {
	noise := make([]byte, 256)
	if _, err := rand.Read(noise); err != nil {
		t.Fatal(err)
	}
	encoded := func(m proto.Message) []byte {
		b, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	resource := &anypb.Any{TypeUrl: "t", Value: noise}
	delta := encoded(&discoveryv3.DeltaDiscoveryResponse{TypeUrl: "t", Nonce: "1", Resources: []*discoveryv3.Resource{{Name: "n", Resource: resource}}})
	later := protowire.AppendString(protowire.AppendTag(slices.Clone(delta), 1000, protowire.BytesType), "later")
	for _, test := range []struct {
		name    string
		message []byte
		ok      bool
	}{
		{"delta", delta, true},
		{"state of the world", encoded(&discoveryv3.DiscoveryResponse{TypeUrl: "t", VersionInfo: "1", Resources: []*anypb.Any{resource}, Canary: true}), true},
		{"a field of a later release", later, true},
		{"a later one, of a fixed length", protowire.AppendFixed64(protowire.AppendTag(slices.Clone(delta), 1000, protowire.Fixed64Type), 1), true},
		{"nothing", nil, false},
		{"no type", encoded(&discoveryv3.DeltaDiscoveryResponse{Nonce: "1"}), false},
		{"cut", delta[:len(delta)-1], false},
		{"a length beyond the end", append(slices.Clone(delta), 0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01), false},
		{"a fixed length beyond the end", append(slices.Clone(delta), 0x0d, 0x01), false},
		{"a tag of a kind that there is not", append(slices.Clone(delta), 0x0f), false},
		{"field 0", append(slices.Clone(delta), 0x00, 0x00), false},
		{"a group", append(slices.Clone(delta), 0x0b), false},
		{"HTML", []byte("<html><body>Bad gateway</body></html>"), false},
	} {
		for _, size := range []int{1, 7, len(test.message) + 1} {
			f := &frame{}
			for piece := range slices.Chunk(test.message, size) {
				f.data = append(f.data, mem.SliceBuffer(piece))
			}
			if err := f.answers(); (err == nil) != test.ok {
				t.Errorf("%s, in pieces of %d: %v", test.name, size, err)
			}
			if got := f.data.Materialize(); !slices.Equal(got, test.message) {
				t.Errorf("%s, in pieces of %d: it was changed", test.name, size)
			}
		}
	}
}
