package lastgood

import (
	"encoding/binary"
	"errors"
	"io"

	"google.golang.org/protobuf/encoding/protowire"
)

// The messages of both dialects, read as far as they matter here. Resources stay encoded: what is inside them may be
// newer than this program.

// request is what Envoy says. Strings are copies, so that the message may be given back.
type request struct {
	typ, nonce string
	refused    bool
	reason     string // of the refusal
	node       string // the node's id, in the first request of a stream
	traits     string // what else of the node its configuration depends on

	subscribe, unsubscribe []string          // delta
	versions               map[string]string // delta: what Envoy has, in the first request of a type
	names                  []string          // state of the world
	version                string            // state of the world
}

// response is what the control plane says. Its resources point into the message.
type response struct {
	typ, nonce string
	version    string // state of the world
	resources  []resource
	removed    []string // delta
	fresh      bool     // the resources' bytes are nobody else's
}

// resource is one as Envoy has it: any is the encoded google.protobuf.Any.
type resource struct {
	name, version string // a version is the delta dialect's; "" when the resource came by the other one
	any           []byte
	fleeting      bool // it has a time to live, and is not kept
}

var errMessage = errors.New("a message that cannot be read")

// fields calls visit with each field of an encoded message that is a string, bytes or a message.
func fields(b []byte, visit func(n protowire.Number, v []byte) error) error {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return errMessage
		}
		b = b[n:]
		if typ != protowire.BytesType {
			if n = protowire.ConsumeFieldValue(num, typ, b); n < 0 {
				return errMessage
			}
			b = b[n:]
			continue
		}
		v, n := protowire.ConsumeBytes(b)
		if n < 0 {
			return errMessage
		}
		b = b[n:]
		if err := visit(num, v); err != nil {
			return err
		}
	}
	return nil
}

// first is the first field of that number, "" without one.
func first(b []byte, number protowire.Number) string {
	found := ""
	_ = fields(b, func(n protowire.Number, v []byte) error {
		if n == number && found == "" {
			found = string(v)
		}
		return nil
	})
	return found
}

// readRequest reads a DiscoveryRequest, or a DeltaDiscoveryRequest.
func readRequest(b []byte, delta bool) (request, error) {
	r := request{}
	nodeField, typeField, nonceField, errorField := protowire.Number(2), protowire.Number(4), protowire.Number(5), protowire.Number(6)
	if delta {
		nodeField, typeField, nonceField, errorField = 1, 2, 6, 7
	}
	err := fields(b, func(n protowire.Number, v []byte) error {
		switch {
		case n == nodeField:
			return r.readNode(v)
		case n == typeField:
			r.typ = string(v)
		case n == nonceField:
			r.nonce = string(v)
		case n == errorField:
			r.refused, r.reason = true, first(v, 2)
		case !delta && n == 1:
			r.version = string(v)
		case !delta && n == 3:
			r.names = append(r.names, string(v))
		case delta && n == 3:
			r.subscribe = append(r.subscribe, string(v))
		case delta && n == 4:
			r.unsubscribe = append(r.unsubscribe, string(v))
		case delta && n == 5:
			if r.versions == nil {
				r.versions = map[string]string{}
			}
			r.versions[first(v, 1)] = first(v, 2)
		}
		return nil
	})
	return r, err
}

// readNode reads an envoy.config.core.v3.Node.
func (r *request) readNode(b []byte) error {
	return fields(b, func(n protowire.Number, v []byte) (err error) {
		switch n {
		case 1:
			r.node = string(v)
		case 3: // metadata
			r.traits, err = traitsOf(v)
		}
		return err
	})
}

// visitor is called with each field of a message.
type visitor = func(n protowire.Number, v []byte) error

// Reader is an encoded message that does not lie in one piece.
type Reader interface {
	io.Reader
	io.ByteReader
	Remaining() int
}

// Next reads the head of a message's next field: its number, its kind, and how many bytes of it follow. They are there.
func Next(r Reader) (n protowire.Number, kind protowire.Type, length int, err error) {
	tag, err := binary.ReadUvarint(r)
	if n, kind = protowire.DecodeTag(tag); err != nil || n < protowire.MinValidNumber {
		return 0, 0, 0, errMessage
	}
	follows := uint64(0)
	switch kind {
	case protowire.VarintType:
		_, err = binary.ReadUvarint(r)
	case protowire.Fixed32Type:
		follows = 4
	case protowire.Fixed64Type:
		follows = 8
	case protowire.BytesType:
		follows, err = binary.ReadUvarint(r)
	default:
		err = errMessage
	}
	if err != nil || follows > uint64(r.Remaining()) {
		return 0, 0, 0, errMessage
	}
	return n, kind, int(follows), nil
}

// pour is fields for a Reader: what visit is given is its own.
func pour(r Reader, visit visitor) error {
	for r.Remaining() > 0 {
		n, kind, length, err := Next(r)
		if err != nil {
			return err
		}
		v := make([]byte, length)
		if _, err := io.ReadFull(r, v); err != nil {
			return errMessage
		}
		if kind != protowire.BytesType {
			continue
		}
		if err := visit(n, v); err != nil {
			return err
		}
	}
	return nil
}

func walkResponse(walk func(visitor) error, delta bool) (response, error) {
	r := response{}
	err := walk(func(n protowire.Number, v []byte) error {
		switch {
		case n == 1:
			r.version = string(v)
		case n == 2:
			read := readBare
			if delta {
				read = readResource
			}
			one, err := read(v)
			if err != nil {
				return err
			}
			r.resources = append(r.resources, one)
		case n == 4:
			r.typ = string(v)
		case n == 5:
			r.nonce = string(v)
		case delta && n == 6:
			r.removed = append(r.removed, string(v))
		}
		return nil
	})
	return r, err
}

// readResource reads an envoy.service.discovery.v3.Resource.
func readResource(b []byte) (resource, error) {
	r := resource{}
	err := fields(b, func(n protowire.Number, v []byte) error {
		switch n {
		case 1:
			r.version = string(v)
		case 2:
			r.any = v
		case 3:
			r.name = string(v)
		case 6:
			r.fleeting = true
		}
		return nil
	})
	return r, err
}

// wrapped is the type of a resource of the state of the world that has a name beside it.
const wrapped = "type.googleapis.com/envoy.service.discovery.v3.Resource"

// readBare reads a google.protobuf.Any with a resource. Its name is its first field, of whatever type it is.
func readBare(b []byte) (resource, error) {
	typ, value := "", []byte(nil)
	err := fields(b, func(n protowire.Number, v []byte) error {
		switch n {
		case 1:
			typ = string(v)
		case 2:
			value = v
		}
		return nil
	})
	switch {
	case err != nil:
		return resource{}, err
	case typ == wrapped:
		return readResource(value)
	}
	return resource{name: first(value, 1), any: b}, nil
}

// write encodes the response in a dialect.
func (r response) write(delta bool) []byte {
	size := 0
	for _, one := range r.resources {
		size += len(one.any) + len(one.name) + len(one.version) + 32
	}
	b := make([]byte, 0, size+256)
	if r.version != "" {
		b = appendString(b, 1, r.version)
	}
	for _, one := range r.resources {
		if !delta {
			b = appendBytes(b, 2, one.any)
			continue
		}
		length := sizeOf(1, len(one.version)) + sizeOf(2, len(one.any)) + sizeOf(3, len(one.name))
		b = protowire.AppendVarint(protowire.AppendTag(b, 2, protowire.BytesType), uint64(length))
		b = appendString(appendBytes(appendString(b, 1, one.version), 2, one.any), 3, one.name)
	}
	b = appendString(appendString(b, 4, r.typ), 5, r.nonce)
	for _, name := range r.removed {
		b = appendString(b, 6, name)
	}
	return b
}

func appendString(b []byte, n protowire.Number, s string) []byte {
	return protowire.AppendString(protowire.AppendTag(b, n, protowire.BytesType), s)
}

func appendBytes(b []byte, n protowire.Number, v []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, n, protowire.BytesType), v)
}

func sizeOf(n protowire.Number, length int) int {
	return protowire.SizeTag(n) + protowire.SizeBytes(length)
}
