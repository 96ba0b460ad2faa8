package envoy

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"math"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
)

// digest is the content hash of a message: a truncated SHA-256 of a canonical
// form of our own. Protobuf promises no stable encoding between releases, and a
// hash that moves would send everything again after an upgrade (D7).
func digest(m proto.Message) string {
	var c canonical
	c.text(string(m.ProtoReflect().Descriptor().FullName()))
	c.message(m.ProtoReflect())
	return sum(c.buf)
}

// combined is the hash of something that consists of hashed parts.
func combined(parts []string) string {
	var space [4 << 10]byte // on the stack, if that is enough
	buf := space[:0]
	for _, p := range parts {
		buf = append(binary.AppendUvarint(buf, uint64(len(p))), p...)
	}
	return sum(buf)
}

func sum(b []byte) string {
	h := sha256.Sum256(b)
	var text [32]byte
	hex.Encode(text[:], h[:16])
	return string(text[:])
}

// canonical writes set fields in the order of their numbers, map entries in the
// order of their keys, and texts with their lengths: no two contents look alike.
type canonical struct {
	buf    []byte
	fields []field // of the messages that are being written, the outermost first
}

func (c *canonical) number(n uint64) { c.buf = binary.AppendUvarint(c.buf, n) }

func (c *canonical) text(s string) {
	c.number(uint64(len(s)))
	c.buf = append(c.buf, s...)
}

type field struct {
	descriptor protoreflect.FieldDescriptor
	value      protoreflect.Value
}

func (c *canonical) message(m protoreflect.Message) {
	if packed, ok := m.Interface().(*anypb.Any); ok {
		// The packed bytes are protobuf's own: look inside.
		if inner, err := packed.UnmarshalNew(); err == nil {
			c.buf = append(c.buf, 'a')
			c.text(packed.GetTypeUrl())
			c.message(inner.ProtoReflect())
			return
		}
	}
	first := len(c.fields)
	m.Range(func(d protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		c.fields = append(c.fields, field{d, v})
		return true
	})
	last := len(c.fields)
	slices.SortFunc(c.fields[first:], func(a, b field) int { return int(a.descriptor.Number()) - int(b.descriptor.Number()) })
	c.buf = append(c.buf, '{')
	for i := first; i < last; i++ {
		f := c.fields[i] // it may move while a message in this one is written
		c.number(uint64(f.descriptor.Number()))
		switch {
		case f.descriptor.IsList():
			list := f.value.List()
			c.buf = append(c.buf, '[')
			c.number(uint64(list.Len()))
			for i := range list.Len() {
				c.value(f.descriptor, list.Get(i))
			}
		case f.descriptor.IsMap():
			c.entries(f.descriptor, f.value.Map())
		default:
			c.value(f.descriptor, f.value)
		}
	}
	c.buf = append(c.buf, '}')
	c.fields = c.fields[:first]
}

func (c *canonical) entries(d protoreflect.FieldDescriptor, m protoreflect.Map) {
	keys := make([]protoreflect.MapKey, 0, m.Len())
	m.Range(func(k protoreflect.MapKey, _ protoreflect.Value) bool {
		keys = append(keys, k)
		return true
	})
	slices.SortFunc(keys, func(a, b protoreflect.MapKey) int { return strings.Compare(a.String(), b.String()) })
	c.buf = append(c.buf, '<')
	c.number(uint64(len(keys)))
	for _, k := range keys {
		c.text(k.String())
		c.value(d.MapValue(), m.Get(k))
	}
}

func (c *canonical) value(d protoreflect.FieldDescriptor, v protoreflect.Value) {
	switch d.Kind() {
	case protoreflect.MessageKind, protoreflect.GroupKind:
		c.message(v.Message())
	case protoreflect.StringKind:
		c.text(v.String())
	case protoreflect.BytesKind:
		c.text(string(v.Bytes()))
	case protoreflect.BoolKind:
		c.buf = append(c.buf, 'f')
		if v.Bool() {
			c.buf[len(c.buf)-1] = 't'
		}
	case protoreflect.EnumKind:
		c.number(uint64(v.Enum()))
	case protoreflect.FloatKind, protoreflect.DoubleKind:
		c.number(math.Float64bits(v.Float()))
	case protoreflect.Uint32Kind, protoreflect.Uint64Kind, protoreflect.Fixed32Kind, protoreflect.Fixed64Kind:
		c.number(v.Uint())
	default:
		c.number(uint64(v.Int()))
	}
}
