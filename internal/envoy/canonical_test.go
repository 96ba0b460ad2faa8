package envoy_test

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"math"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
	"pgregory.net/rapid"

	"github.com/evermesh/evermesh/internal/envoy"
	"github.com/evermesh/evermesh/internal/envoy/envoytest"
	"github.com/evermesh/evermesh/internal/mesh"
)

// reflectedDigest is the content hash as it was first written, by the way through
// the messages. What is read from the bytes must be the same: a hash that moves
// would send everything again after an upgrade (D7).
func reflectedDigest(m proto.Message) string {
	var c reflected
	c.text(string(m.ProtoReflect().Descriptor().FullName()))
	c.message(m.ProtoReflect())
	h := sha256.Sum256(c.buf)
	return hex.EncodeToString(h[:16])
}

// reflected writes set fields in the order of their numbers, map entries in the
// order of their keys, and texts with their lengths: no two contents look alike.
type reflected struct {
	buf    []byte
	fields []reflectedField // of the messages that are being written, the outermost first
}

func (c *reflected) number(n uint64) { c.buf = binary.AppendUvarint(c.buf, n) }

func (c *reflected) text(s string) {
	c.number(uint64(len(s)))
	c.buf = append(c.buf, s...)
}

type reflectedField struct {
	descriptor protoreflect.FieldDescriptor
	value      protoreflect.Value
}

func (c *reflected) message(m protoreflect.Message) {
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
		c.fields = append(c.fields, reflectedField{d, v})
		return true
	})
	last := len(c.fields)
	slices.SortFunc(c.fields[first:], func(a, b reflectedField) int { return int(a.descriptor.Number()) - int(b.descriptor.Number()) })
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

func (c *reflected) entries(d protoreflect.FieldDescriptor, m protoreflect.Map) {
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

func (c *reflected) value(d protoreflect.FieldDescriptor, v protoreflect.Value) {
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

// TestDigests compares both ways over all goldens and random meshes.
func TestDigests(t *testing.T) {
	t.Parallel()
	count := 0
	check := func(bundle *envoy.Bundle) {
		bundle = bundle.WithEndpoints(func(q envoy.EndpointQuery) ([]envoy.Endpoint, bool) {
			return []envoy.Endpoint{{Address: "10.0.0.1", Port: q.Port}}, true
		})
		for _, of := range []envoy.Type{envoy.Listener, envoy.Cluster, envoy.LoadAssignment} {
			for _, r := range bundle.List(of).Resources {
				m, err := (&anypb.Any{TypeUrl: of.URL(), Value: r.Encoded}).UnmarshalNew()
				if err != nil {
					t.Fatal(err)
				}
				if want := reflectedDigest(m); r.Hash != want {
					t.Errorf("%s has hash %s, want %s", r.Name, r.Hash, want)
				}
				count++
			}
		}
		for _, r := range bundle.List(envoy.Route).Resources {
			routes := decoded(t, r)
			for i, h := range r.Hosts {
				if want := reflectedDigest(routes.GetVirtualHosts()[i]); h.Hash != want {
					t.Errorf("host %s has hash %s, want %s", h.Name, h.Hash, want)
				}
				count++
			}
		}
	}
	for _, c := range envoytest.Cases(t) {
		for _, client := range c.Clients(t) {
			bundle, _ := c.Bundle(t, client)
			check(bundle)
		}
	}
	meshes := rapid.Custom(func(t *rapid.T) *world {
		w := newWorld()
		w.fill(t)
		return w
	})
	for seed := range 30 {
		for _, view := range meshes.Example(seed).views(mesh.Traits{}) {
			bundle, _ := new(envoy.Builder).Build(view, nil)
			check(bundle)
		}
	}
	if count < 1000 {
		t.Errorf("only %d hashes were compared", count)
	}
}
