package envoy

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// digest is the content hash of an encoded message: a truncated SHA-256 of a
// canonical form of our own. Protobuf promises no stable encoding between
// releases, and a hash that moves would send everything again after an upgrade
// (D7). The form is read from the bytes: the way through the messages costs three
// times as much.
func (c *canonical) digest(of protoreflect.MessageDescriptor, encoded []byte) (string, error) {
	c.buf, c.values = c.buf[:0], c.values[:0]
	c.text(string(of.FullName()))
	if err := c.message(of, encoded); err != nil {
		return "", fmt.Errorf("read an encoded %s: %w", of.FullName(), err)
	}
	return sum(c.buf), nil
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
	values []value // of the messages that are being written, the outermost first
}

// value is one value of a field as it is encoded.
type value struct {
	number  protowire.Number
	bits    uint64 // of a number
	content []byte // of anything with a length
}

var errEncoded = errors.New("not what the descriptor says")

func (c *canonical) number(n uint64) { c.buf = binary.AppendUvarint(c.buf, n) }

func (c *canonical) text(s string) {
	c.number(uint64(len(s)))
	c.buf = append(c.buf, s...)
}

func (c *canonical) bytes(b []byte) {
	c.number(uint64(len(b)))
	c.buf = append(c.buf, b...)
}

// read appends the values of an encoded message, in the order of their fields'
// numbers.
func (c *canonical) read(encoded []byte) error {
	first, sorted := len(c.values), true
	for len(encoded) > 0 {
		number, kind, n := protowire.ConsumeTag(encoded)
		if n < 0 {
			return protowire.ParseError(n)
		}
		encoded = encoded[n:]
		v := value{number: number}
		switch kind {
		case protowire.VarintType:
			v.bits, n = protowire.ConsumeVarint(encoded)
		case protowire.Fixed64Type:
			v.bits, n = protowire.ConsumeFixed64(encoded)
		case protowire.Fixed32Type:
			var bits uint32
			bits, n = protowire.ConsumeFixed32(encoded)
			v.bits = uint64(bits)
		case protowire.BytesType:
			v.content, n = protowire.ConsumeBytes(encoded)
		default:
			return errEncoded
		}
		if n < 0 {
			return protowire.ParseError(n)
		}
		encoded = encoded[n:]
		sorted = sorted && (len(c.values) == first || c.values[len(c.values)-1].number <= number)
		c.values = append(c.values, v)
	}
	if !sorted {
		slices.SortStableFunc(c.values[first:], func(a, b value) int { return int(a.number) - int(b.number) })
	}
	return nil
}

// anyName is the message that holds another one, encoded.
const anyName = "google.protobuf.Any"

func (c *canonical) message(of protoreflect.MessageDescriptor, encoded []byte) error {
	first := len(c.values)
	if err := c.read(encoded); err != nil {
		return err
	}
	last := len(c.values)
	defer func() { c.values = c.values[:first] }()
	if of.FullName() == anyName {
		if known, err := c.packed(c.values[first:last]); known || err != nil {
			return err
		}
	}
	fields := of.Fields()
	c.buf = append(c.buf, '{')
	for i := first; i < last; {
		j := i + 1
		for j < last && c.values[j].number == c.values[i].number {
			j++
		}
		f := fields.ByNumber(c.values[i].number)
		if f == nil {
			return errEncoded
		}
		if err := c.field(f, i, j); err != nil {
			return err
		}
		i = j
	}
	c.buf = append(c.buf, '}')
	return nil
}

// packed writes the message inside an Any, if its type is known.
func (c *canonical) packed(values []value) (known bool, err error) {
	var url string
	var content []byte
	for _, v := range values {
		switch v.number {
		case 1:
			url = string(v.content)
		case 2:
			content = v.content
		}
	}
	if url == "" {
		return false, nil
	}
	inner, err := protoregistry.GlobalTypes.FindMessageByURL(url)
	if err != nil {
		return false, nil //nolint:nilerr // an Any of a type that nobody knows is bytes
	}
	c.buf = append(c.buf, 'a')
	c.text(url)
	return true, c.message(inner.Descriptor(), content)
}

// field writes the values from i to j, which are all of one field.
func (c *canonical) field(f protoreflect.FieldDescriptor, i, j int) error {
	c.number(uint64(f.Number()))
	switch {
	case f.IsMap():
		return c.entries(f, i, j)
	case f.IsList():
		return c.list(f, i, j)
	}
	return c.value(f, c.values[j-1]) // the last one counts
}

func (c *canonical) list(f protoreflect.FieldDescriptor, i, j int) error {
	first := len(c.values)
	switch f.Kind() {
	case protoreflect.MessageKind, protoreflect.StringKind, protoreflect.BytesKind:
	default:
		for k := i; k < j; k++ { // several numbers may be in one value
			if err := c.unpack(f.Kind(), c.values[k]); err != nil {
				return err
			}
		}
		i, j = first, len(c.values)
	}
	c.buf = append(c.buf, '[')
	c.number(uint64(j - i))
	for k := i; k < j; k++ {
		if err := c.value(f, c.values[k]); err != nil {
			return err
		}
	}
	c.values = c.values[:first]
	return nil
}

// unpack appends the numbers of a value of a list.
func (c *canonical) unpack(kind protoreflect.Kind, v value) error {
	if v.content == nil {
		c.values = append(c.values, v)
		return nil
	}
	for rest := v.content; len(rest) > 0; {
		one, n := value{number: v.number}, 0
		switch kind {
		case protoreflect.DoubleKind, protoreflect.Fixed64Kind, protoreflect.Sfixed64Kind:
			one.bits, n = protowire.ConsumeFixed64(rest)
		case protoreflect.FloatKind, protoreflect.Fixed32Kind, protoreflect.Sfixed32Kind:
			var bits uint32
			bits, n = protowire.ConsumeFixed32(rest)
			one.bits = uint64(bits)
		default:
			one.bits, n = protowire.ConsumeVarint(rest)
		}
		if n < 0 {
			return protowire.ParseError(n)
		}
		c.values, rest = append(c.values, one), rest[n:]
	}
	return nil
}

// entries writes a map.
func (c *canonical) entries(f protoreflect.FieldDescriptor, i, j int) error {
	type entry struct {
		key string
		of  value
	}
	var all []entry
	for k := i; k < j; k++ {
		first := len(c.values)
		if err := c.read(c.values[k].content); err != nil {
			return err
		}
		e := entry{key: keyText(f.MapKey(), value{})}
		for _, v := range c.values[first:] {
			switch v.number {
			case 1:
				e.key = keyText(f.MapKey(), v)
			case 2:
				e.of = v
			}
		}
		c.values = c.values[:first]
		all = append(all, e)
	}
	slices.SortFunc(all, func(a, b entry) int { return strings.Compare(a.key, b.key) })
	c.buf = append(c.buf, '<')
	c.number(uint64(len(all)))
	for _, e := range all {
		c.text(e.key)
		if err := c.value(f.MapValue(), e.of); err != nil {
			return err
		}
	}
	return nil
}

// keyText is a map's key as text.
func keyText(f protoreflect.FieldDescriptor, v value) string {
	switch f.Kind() {
	case protoreflect.StringKind:
		return string(v.content)
	case protoreflect.BoolKind:
		return strconv.FormatBool(v.bits != 0)
	case protoreflect.Uint32Kind, protoreflect.Uint64Kind, protoreflect.Fixed32Kind, protoreflect.Fixed64Kind:
		return strconv.FormatUint(v.bits, 10)
	}
	return strconv.FormatInt(signed(f.Kind(), v.bits), 10)
}

func signed(kind protoreflect.Kind, bits uint64) int64 {
	switch kind {
	case protoreflect.Sint32Kind, protoreflect.Sint64Kind:
		return protowire.DecodeZigZag(bits)
	case protoreflect.Sfixed32Kind, protoreflect.Int32Kind:
		return int64(int32(bits))
	}
	return int64(bits)
}

func (c *canonical) value(f protoreflect.FieldDescriptor, v value) error {
	switch f.Kind() {
	case protoreflect.MessageKind:
		return c.message(f.Message(), v.content)
	case protoreflect.GroupKind:
		return errEncoded
	case protoreflect.StringKind, protoreflect.BytesKind:
		c.bytes(v.content)
	case protoreflect.BoolKind:
		if v.bits == 0 {
			c.buf = append(c.buf, 'f')
		} else {
			c.buf = append(c.buf, 't')
		}
	case protoreflect.FloatKind:
		c.number(math.Float64bits(float64(math.Float32frombits(uint32(v.bits)))))
	case protoreflect.DoubleKind, protoreflect.Uint32Kind, protoreflect.Uint64Kind, protoreflect.Fixed32Kind, protoreflect.Fixed64Kind, protoreflect.EnumKind:
		c.number(v.bits)
	default:
		c.number(uint64(signed(f.Kind(), v.bits)))
	}
	return nil
}
