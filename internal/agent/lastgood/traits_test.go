package lastgood

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/structpb"
	"pgregory.net/rapid"
)

// shuffled is a Struct as an Envoy may encode it, whose maps come in any order.
func shuffled(t *rapid.T, s *structpb.Struct) (out []byte) {
	for _, key := range rapid.Permutation(slices.Sorted(maps.Keys(s.GetFields()))).Draw(t, "order") {
		out = appendBytes(out, 1, appendBytes(appendString(nil, 1, key), 2, shuffledValue(t, s.GetFields()[key])))
	}
	return out
}

func shuffledValue(t *rapid.T, v *structpb.Value) []byte {
	switch of := v.GetKind().(type) {
	case *structpb.Value_StructValue:
		return appendBytes(nil, 5, shuffled(t, of.StructValue))
	case *structpb.Value_ListValue:
		var list []byte
		for _, one := range of.ListValue.GetValues() {
			list = appendBytes(list, 1, shuffledValue(t, one))
		}
		return appendBytes(nil, 6, list)
	default:
		return encoded(&testing.T{}, v)
	}
}

// anything draws a value as metadata hold it.
func anything(depth int) *rapid.Generator[any] {
	return rapid.Custom(func(t *rapid.T) any {
		switch k := rapid.IntRange(0, 5).Draw(t, "kind"); {
		case k == 0:
			return rapid.Bool().Draw(t, "bool")
		case k == 1:
			return float64(rapid.IntRange(-3, 70000).Draw(t, "number"))
		case k == 2 && depth > 0:
			return rapid.SliceOfN(anything(depth-1), 0, 3).Draw(t, "list")
		case k >= 3 && depth > 0:
			return metadata(depth-1).Draw(t, "struct")
		default:
			return rapid.StringN(0, 6, -1).Draw(t, "text")
		}
	})
}

func metadata(depth int) *rapid.Generator[map[string]any] {
	return rapid.Custom(func(t *rapid.T) map[string]any {
		out := map[string]any{}
		for range rapid.IntRange(0, 5).Draw(t, "entries") {
			out[rapid.SampledFrom([]string{"address", "ports", "a", "b", "c", ""}).Draw(t, "key")] = anything(depth).Draw(t, "value")
		}
		return out
	})
}

// Envoy's maps have no order: what a configuration depends on is told by what the metadata say, however deep.
func TestTraitsAreOfNoOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		of := map[string]any{
			"evermesh.interception": "none", "evermesh.ingress": metadata(3).Draw(t, "ingress"), "evermesh.x": metadata(2).Draw(t, "x"),
			"aws.appmesh.metric_filter": metadata(1).Draw(t, "filter"), "aws.appmesh.platformInfo": metadata(1).Draw(t, "platform"),
			"evermesh.instance": rapid.String().Draw(t, "instance"),
		}
		s, err := structpb.NewStruct(of)
		if err != nil {
			t.Fatal(err)
		}
		first, err := traitsOf(shuffled(t, s))
		if err != nil || first == "" {
			t.Fatalf("got %q, %v", first, err)
		}
		s.Fields["evermesh.instance"] = structpb.NewStringValue("another")
		delete(s.Fields, "aws.appmesh.platformInfo")
		if again, err := traitsOf(shuffled(t, s)); err != nil || again != first {
			t.Fatalf("another order is another fingerprint, %v", err)
		}
		key := rapid.SampledFrom([]string{"evermesh.ingress", "evermesh.x", "aws.appmesh.metric_filter"}).Draw(t, "changed")
		s.Fields[key].GetStructValue().Fields["new"] = structpb.NewBoolValue(true)
		if other, err := traitsOf(shuffled(t, s)); err != nil || other == first {
			t.Fatalf("%s says something else, and the fingerprint is the same, %v", key, err)
		}
	})
}

// What an Envoy without interception tells, and what one with the metric extension does, is found again from the file,
// in whatever order it comes.
func TestFileIsOfItsTraits(t *testing.T) {
	for name, of := range map[string]map[string]any{
		"without interception": {
			"evermesh.interception": "none",
			"evermesh.ingress":      map[string]any{"address": "10.0.0.7", "ports": map[string]any{"8080": 18080.0, "9090": 19090.0, "7070": 17070.0}, "egress": []any{map[string]any{"a": 1.0, "b": 2.0, "c": 3.0}}},
			"evermesh.sds":          "file", "evermesh.instance": "1",
		},
		"with the metric extension": {"aws.appmesh.metric_filter": map[string]any{"level": "1", "more": map[string]any{"a": "b", "c": "d", "e": "f"}}, "evermesh.sds": "file"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			b := newBench(dir)
			speak(t, b.Begin(true), small(), of)
			b.pass(t, saveEvery)
			rapid.Check(t, func(rt *rapid.T) {
				s, err := structpb.NewStruct(of)
				if err != nil {
					rt.Fatal(err)
				}
				node := appendBytes(appendString(nil, 1, nodeID), 3, shuffled(rt, s))
				stream := newBench(dir).Begin(true)
				stream.Request(appendString(appendBytes(nil, 1, node), 2, clusterType))
				if !stream.Kept() {
					rt.Fatal("it is not used")
				}
			})
		})
	}
}

// Metadata that are too deep, or none, end in an error and not in a crash.
func TestTraitsOfGarbage(t *testing.T) {
	t.Parallel()
	deep := []byte(nil)
	for range 100 {
		deep = appendBytes(nil, 5, appendBytes(nil, 1, appendBytes(appendString(nil, 1, "k"), 2, deep)))
	}
	list := []byte(nil)
	for range 100 {
		list = appendBytes(nil, 6, appendBytes(nil, 1, list))
	}
	for name, v := range map[string][]byte{
		"deep structs": deep, "deep lists": list, "half a tag": {0xff}, "half a field": protowire.AppendTag(nil, 5, protowire.BytesType),
	} {
		if _, err := traitsOf(appendBytes(nil, 1, appendBytes(appendString(nil, 1, "evermesh.x"), 2, v))); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if got, err := traitsOf(nil); got != "" || err != nil {
		t.Errorf("of nothing: %q, %v", got, err)
	}
}

// That what is kept is for another Envoy is told once nobody has answered for a while, and not before.
func TestUnfitIsToldInTime(t *testing.T) {
	dir := t.TempDir()
	b := newBench(dir)
	speak(t, b.Begin(true), small(), map[string]any{"evermesh.interception": "none"})
	b.pass(t, saveEvery)
	said := func(b *bench) int { return strings.Count(b.out.String(), "asked for otherwise") }
	next := newBench(dir)
	try := func(after int) *Stream {
		s := next.Begin(true)
		s.Request(request1(t, true, clusterType, nil))
		if s.Kept() {
			t.Fatal("it is used")
		}
		if n := said(next); n != after {
			t.Fatalf("said %d times, want %d: %s", n, after, next.out)
		}
		return s
	}
	try(0)
	next.pass(t, certain/2)
	try(0).Served() // the control plane answers
	next.pass(t, certain)
	try(0)
	next.pass(t, certain)
	try(1)
	try(1)
	late := newBench(dir)
	s := late.Begin(true)
	s.Request(request1(t, true, clusterType, nil))
	if s.Answers(t.Context()) != nil || said(late) != 1 {
		t.Errorf("an Envoy that has waited: %s", late.out)
	}
}

// A control plane that serves and says nothing stands by what its Envoy has, once that has told all.
func TestSilenceConfirms(t *testing.T) {
	dir := t.TempDir()
	kept(t, dir)
	b := newBench(dir)
	b.pass(t, certain)
	if ask(t, b.Store, true, names) == nil {
		t.Fatal("nothing is served")
	}
	b.confirmed = b.now.Add(-time.Hour)
	if serving, age := b.LastGood(); !serving || age != time.Hour {
		t.Fatalf("serving %v, age %s", serving, age)
	}
	s := b.Begin(true)
	has := func(typ string, names ...string) {
		q := appendBytes(appendString(nil, 2, typ), 1, appendString(nil, 1, nodeID))
		for _, name := range names {
			if !wild(typ) {
				q = appendString(q, 3, name)
			}
			q = appendBytes(q, 5, appendString(appendString(nil, 1, name), 2, "v-"+small()[typ][name]))
		}
		s.Request(q)
	}
	has(clusterType, "c1", "c2")
	s.Served()
	if serving, _ := b.LastGood(); serving {
		t.Error("the last good configuration is served yet")
	}
	b.pass(t, rest)
	if b.confirm(b.now) {
		t.Error("confirmed before Envoy has told what it has")
	}
	has(endpointType, "c1")
	has(listenerType, "l")
	b.pass(t, rest)
	if !b.confirm(b.now) || b.age() != 0 {
		t.Errorf("not confirmed: age %s", b.age())
	}
}
