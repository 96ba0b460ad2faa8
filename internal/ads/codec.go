package ads

import (
	"errors"
	"fmt"
	"unicode/utf8"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/evermesh/evermesh/internal/envoy"
)

// codec reads and writes the messages of the protocol by hand, for all methods
// of the server. A response is put together from resources that are encoded
// already, into a buffer of gRPC's pool; of a request only what a stream still
// has to know is decoded: Envoys repeat their node in every one of them.
type codec struct{}

// Name is the content subtype that the codec replaces.
func (codec) Name() string { return "proto" }

// Marshal encodes an *outgoing.
func (codec) Marshal(v any) (mem.BufferSlice, error) {
	out, ok := v.(*outgoing)
	if !ok {
		return nil, fmt.Errorf("encode message: %T is not a response of this server", v)
	}
	pool := mem.DefaultBufferPool()
	buf := pool.Get(out.bytes)
	*buf = out.append((*buf)[:0])
	return mem.BufferSlice{mem.NewBuffer(buf, pool)}, nil
}

// Unmarshal decodes into an *incoming.
func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	in, ok := v.(*incoming)
	if !ok {
		return fmt.Errorf("decode message: %T is not a request to this server", v)
	}
	whole := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer whole.Free()
	return in.decode(whole.ReadOnlyData())
}

// The numbers of the fields in the messages of envoy.service.discovery.v3.
const (
	responseVersion   = protowire.Number(1) // system_version_info in delta
	responseResources = protowire.Number(2)
	responseTypeURL   = protowire.Number(4)
	responseNonce     = protowire.Number(5)
	responseRemoved   = protowire.Number(6) // delta

	resourceVersion = protowire.Number(1)
	resourceMessage = protowire.Number(2)
	resourceName    = protowire.Number(3)

	anyURL   = protowire.Number(1)
	anyValue = protowire.Number(2)
)

// outgoing is a flight as it goes over the wire: a DeltaDiscoveryResponse or a
// DiscoveryResponse.
type outgoing struct {
	*flight
	delta bool
}

// outgoingOf also notes the flight's size.
func outgoingOf(f *flight, delta bool) *outgoing {
	o := &outgoing{f, delta}
	f.bytes = o.size()
	return o
}

func (o *outgoing) size() int {
	version := o.version
	if o.delta {
		version = o.system
	}
	url := o.typ.URL()
	n := sizeOfText(responseVersion, version) + sizeOf(responseTypeURL, len(url)) + sizeOfText(responseNonce, o.nonce)
	for _, r := range o.sent {
		n += sizeOf(responseResources, o.resourceSize(r, anySize(url, r)))
	}
	for _, name := range o.removed {
		n += sizeOf(responseRemoved, len(name))
	}
	return n
}

func (o *outgoing) append(b []byte) []byte {
	version := o.version
	if o.delta {
		version = o.system
	}
	url := o.typ.URL()
	b = appendText(b, responseVersion, version)
	for _, r := range o.sent {
		size := anySize(url, r)
		b = protowire.AppendTag(b, responseResources, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(o.resourceSize(r, size)))
		if o.delta {
			b = appendText(b, resourceVersion, r.Hash)
			b = protowire.AppendTag(b, resourceMessage, protowire.BytesType)
			b = protowire.AppendVarint(b, uint64(size))
		}
		b = appendText(b, anyURL, url)
		b = protowire.AppendTag(b, anyValue, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(r.Size()))
		b = r.Append(b)
		if o.delta {
			b = appendText(b, resourceName, r.Name)
		}
	}
	b = appendText(b, responseTypeURL, url)
	b = appendText(b, responseNonce, o.nonce)
	for _, name := range o.removed {
		b = protowire.AppendTag(b, responseRemoved, protowire.BytesType)
		b = protowire.AppendString(b, name)
	}
	return b
}

// resourceSize is the size of what stands for a resource in the response: in
// delta a Resource around its Any, in state of the world the Any.
func (o *outgoing) resourceSize(r *envoy.Resource, message int) int {
	if !o.delta {
		return message
	}
	return sizeOfText(resourceVersion, r.Hash) + sizeOf(resourceMessage, message) + sizeOfText(resourceName, r.Name)
}

func anySize(url string, r *envoy.Resource) int {
	return sizeOf(anyURL, len(url)) + sizeOf(anyValue, r.Size())
}

// sizeOf is the size of a field with so many bytes.
func sizeOf(field protowire.Number, n int) int {
	return protowire.SizeTag(field) + protowire.SizeBytes(n)
}

// sizeOfText is the size of what appendText adds.
func sizeOfText(field protowire.Number, s string) int {
	if s == "" {
		return 0
	}
	return sizeOf(field, len(s))
}

// appendText adds a text, which protobuf leaves out where it is empty.
func appendText(b []byte, field protowire.Number, s string) []byte {
	if s == "" {
		return b
	}
	return protowire.AppendString(protowire.AppendTag(b, field, protowire.BytesType), s)
}

// incoming is a DeltaDiscoveryRequest or a DiscoveryRequest.
type incoming struct {
	delta bool
	// anonymous says that the stream does not know yet whose it is: only then
	// the node is decoded.
	anonymous bool
	node      *corev3.Node

	url string // of a type that is not served
	request
}

var errRequest = errors.New("decode request: it is not what protobuf makes of one")

// What the fields of both requests mean, by their numbers: those of
// DiscoveryRequest, and those of DeltaDiscoveryRequest.
var (
	worldFields = [...]meaning{1: isVersion, 2: isNode, 3: isName, 4: isType, 5: isNonce, 6: isRefusal}
	deltaFields = [...]meaning{1: isNode, 2: isType, 3: isSubscribed, 4: isUnsubscribed, 5: isHeld, 6: isNonce, 7: isRefusal}
)

type meaning byte

const (
	isNothing meaning = iota
	isVersion
	isNode
	isName
	isType
	isNonce
	isRefusal
	isSubscribed
	isUnsubscribed
	isHeld
)

func (in *incoming) decode(b []byte) error {
	fields := worldFields[:]
	if in.delta {
		fields = deltaFields[:]
	}
	in.typ = noType
	var node, refusal []byte
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return errRequest
		}
		b = b[n:]
		if kind != protowire.BytesType || int(number) >= len(fields) {
			if n = protowire.ConsumeFieldValue(number, kind, b); n < 0 {
				return errRequest
			}
			b = b[n:]
			continue
		}
		value, n := protowire.ConsumeBytes(b)
		if n < 0 {
			return errRequest
		}
		b = b[n:]
		switch m := fields[number]; m {
		case isNothing:
		case isNode:
			if in.anonymous {
				node = append(node, value...) // twice in a message is both, merged
			}
		case isRefusal:
			in.refused, refusal = true, append(refusal, value...)
		default:
			if err := in.field(m, value); err != nil {
				return err
			}
		}
	}
	if in.anonymous && node != nil {
		in.node = &corev3.Node{}
		if err := proto.Unmarshal(node, in.node); err != nil {
			return fmt.Errorf("decode node: %w", err)
		}
	}
	if in.refused {
		detail := &rpcstatus.Status{}
		if err := proto.Unmarshal(refusal, detail); err != nil {
			return fmt.Errorf("decode refusal: %w", err)
		}
		in.reason = detail.GetMessage()
	}
	return nil
}

// field takes in a text, or the entry of a map of texts.
func (in *incoming) field(m meaning, value []byte) error {
	if m == isHeld {
		return in.held(value)
	}
	if !utf8.Valid(value) {
		return errRequest
	}
	switch m {
	case isType:
		if t, ok := typeNamed(value); ok {
			in.typ, in.url = t, ""
		} else {
			in.typ, in.url = noType, string(value)
		}
	case isNonce:
		in.nonce = string(value)
	case isVersion:
		in.version = string(value)
	case isName:
		in.names = in.named(in.names, value)
	case isSubscribed:
		in.subscribe = in.named(in.subscribe, value)
	case isUnsubscribed:
		in.unsubscribe = in.named(in.unsubscribe, value)
	}
	return nil
}

// named adds a name. Of more than may be, the first is kept that is too many or
// too long, for bounded to find.
func (in *incoming) named(names []string, name []byte) []string {
	if in.weigh(len(name)); len(names) > maxNames || in.weight > maxNamesBytes {
		return names
	}
	return append(names, string(name))
}

// weigh counts what a request names.
func (in *incoming) weigh(bytes int) {
	in.count++
	in.weight += bytes
}

// held takes in an entry of initial_resource_versions.
func (in *incoming) held(entry []byte) error {
	var text [3][]byte // by the numbers of a map's entry
	for len(entry) > 0 {
		number, kind, n := protowire.ConsumeTag(entry)
		if n < 0 {
			return errRequest
		}
		entry = entry[n:]
		if n = protowire.ConsumeFieldValue(number, kind, entry); n < 0 {
			return errRequest
		}
		if kind == protowire.BytesType && int(number) < len(text) {
			if text[number], _ = protowire.ConsumeBytes(entry); !utf8.Valid(text[number]) {
				return errRequest
			}
		}
		entry = entry[n:]
	}
	if in.weigh(len(text[1]) + len(text[2])); len(in.versions) > maxNames || in.weight > maxNamesBytes {
		return nil
	}
	if in.versions == nil {
		in.versions = map[string]string{}
	}
	in.versions[string(text[1])] = string(text[2])
	return nil
}
