package envoy

import (
	"encoding/json"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/evermesh/evermesh/internal/api"
)

// pack puts a message of ours into an Any. Only strings that are no UTF-8 could
// make it fail, and validation of the outer message then meets an empty Any.
func pack(m proto.Message) *anypb.Any {
	value, err := encode(m)
	if err != nil {
		return &anypb.Any{}
	}
	return &anypb.Any{TypeUrl: urlPrefix + string(m.ProtoReflect().Descriptor().FullName()), Value: value}
}

// tag is a dimension of the metrics extension, such as TargetVirtualNode.
type tag struct {
	key, value string
}

// aggregateStats is the metadata that App Mesh puts on listeners, routes and
// clusters: a JSON text, also where there are no tags.
func aggregateStats(tags ...tag) *corev3.Metadata {
	var space [256]byte
	text := append(space[:0], `{"tags":[`...)
	for i, t := range tags {
		if i > 0 {
			text = append(text, ',')
		}
		text = append(text, `{"key":`...)
		text = append(appendJSON(text, t.key), `,"value":`...)
		text = append(appendJSON(text, t.value), '}')
	}
	text = append(text, "]}"...)
	return &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{
		statsNamespace: {Fields: map[string]*structpb.Value{"config": structpb.NewStringValue(string(text))}},
	}}
}

// appendJSON writes a text as JSON does. Nearly all texts are names that JSON
// takes as they are.
func appendJSON(to []byte, text string) []byte {
	if !strings.ContainsFunc(text, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("-_.:/@ ", r)
	}) {
		return append(append(append(to, '"'), text...), '"')
	}
	quoted, _ := json.Marshal(text) // a text: cannot fail
	return append(to, quoted...)
}

func millis(n int64) *durationpb.Duration {
	return durationpb.New(time.Duration(n) * time.Millisecond)
}

// defaultTimeout is App Mesh's for a request without perRequest (EMS-059).
const defaultTimeout = 15 * time.Second

func perRequest(d *api.Duration) *durationpb.Duration {
	if got := duration(d); got != nil {
		return got
	}
	return durationpb.New(defaultTimeout)
}

// isHTTP says whether requests of the protocol are routed one by one.
func isHTTP(p api.PortProtocol) bool { return p != api.PortProtocolTCP }

func isHTTP2(p api.PortProtocol) bool {
	return p == api.PortProtocolHTTP2 || p == api.PortProtocolGRPC
}
