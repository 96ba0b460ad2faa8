package relay

import (
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/evermesh/evermesh/internal/agent/lastgood"
)

// frame is one message as it came over the wire. Whoever sends it gives its buffers away.
type frame struct{ data mem.BufferSlice }

// rawCodec passes messages on unread: what Envoy and the control plane say to each other is theirs, and a message
// with fields or types newer than the agent arrives whole.
type rawCodec struct{}

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	f, ok := v.(*frame)
	if !ok {
		return nil, fmt.Errorf("relay a %T", v)
	}
	data := f.data
	f.data = nil
	return data, nil
}

func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	f, ok := v.(*frame)
	if !ok {
		return fmt.Errorf("relay a %T", v)
	}
	data.Ref()
	f.data = data
	return nil
}

// typeURL is the field of an answer of ADS, in both dialects, that every one of them has.
const typeURL = protowire.Number(4)

var errNoAnswer = errors.New("what it sends is no xDS")

// answers says whether a message can be an answer of ADS: fields as protobuf encodes them, with a type's URL among them.
// What is in them is not looked at.
func (f *frame) answers() error {
	r := f.data.Reader()
	defer func() { _ = r.Close() }()
	typed := false
	for r.Remaining() > 0 {
		n, kind, length, err := lastgood.Next(r)
		if err != nil {
			return errNoAnswer
		}
		typed = typed || n == typeURL && kind == protowire.BytesType && length > 0
		if _, err := r.Discard(length); err != nil && !errors.Is(err, io.EOF) {
			return errNoAnswer
		}
	}
	if !typed {
		return errNoAnswer
	}
	return nil
}
