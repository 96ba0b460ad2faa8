package relay

import (
	"fmt"

	"google.golang.org/grpc/mem"
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
