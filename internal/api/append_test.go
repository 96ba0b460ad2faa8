package api_test

import (
	"bytes"
	"encoding/json"
	"testing"

	"pgregory.net/rapid"

	"github.com/evermesh/evermesh/internal/api"
)

// viaJSON is what package json writes of a value, without HTML's escapes.
func viaJSON(t interface{ Fatal(...any) }, v any) string {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		t.Fatal(err)
	}
	return string(bytes.TrimSuffix(b.Bytes(), []byte("\n")))
}

// documents draws what calls are made of, not deeper than so much.
func documents(depth int) *rapid.Generator[any] {
	texts := rapid.OneOf(rapid.String(), rapid.StringMatching(`[a-z<>&"\\/]{0,8}`), rapid.SampledFrom([]string{"\u2028", "\xff", "\x00", "\x7f", "é"}))
	leaf := []*rapid.Generator[any]{
		rapid.Just[any](nil), rapid.Bool().AsAny(), texts.AsAny(),
		rapid.SampledFrom([]json.Number{"0", "-1.5e3", "12345678901234567890"}).AsAny(), rapid.Int64().AsAny(), rapid.Float64().AsAny(),
		rapid.SampledFrom([]json.RawMessage{nil, []byte("null"), []byte(`{"b":1,"a":"\u003c"}`), []byte("{\n\t\"a\": 1 }")}).AsAny(),
		rapid.SampledFrom([]any{map[string]any(nil), []any(nil), []string{"a"}, map[string]string{"b": "<"}, struct{ A int }{1}}),
	}
	if depth == 0 {
		return rapid.OneOf(leaf...)
	}
	below := documents(depth - 1)
	return rapid.OneOf(append(leaf, rapid.SliceOfN(below, 0, 4).AsAny(), rapid.MapOfN(texts, below, 0, 20).AsAny())...)
}

func TestDocumentsAreWrittenAsByPackageJSON(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		doc := documents(3).Draw(r, "document")
		got, err := api.AppendDocument([]byte("before "), doc)
		if want := "before " + viaJSON(r, doc); err != nil || string(got) != want {
			r.Fatalf("%#v: %v\n got %s\nwant %s", doc, err, got, want)
		}
	})
}

func TestWhatIsNoDocumentIsAnError(t *testing.T) {
	for name, doc := range map[string]any{
		"a function":                 func() {},
		"a number that is none":      json.Number("1x"),
		"a word as a number":         json.Number("true"),
		"a number with spaces":       json.Number(" 1 "),
		"a number with a line break": json.Number("1\n"),
		"deep in a list of a member": map[string]any{"a": []any{1, func() {}}},
	} {
		if text, err := api.AppendDocument(nil, doc); err == nil {
			t.Errorf("%s is written as %s", name, text)
		}
	}
}

// A spec as it comes in a call, by hand and by package json.
func BenchmarkDocument(b *testing.B) {
	var doc any
	dec := json.NewDecoder(bytes.NewReader([]byte(`{"httpRoute":{"action":{"weightedTargets":[{"virtualNode":"a","weight":90},{"virtualNode":"b","weight":10}]},"match":{"prefix":"/"},"retryPolicy":{"httpRetryEvents":["server-error","gateway-error"],"maxRetries":2,"perRetryTimeout":{"unit":"ms","value":2000}}}}`)))
	dec.UseNumber()
	if err := dec.Decode(&doc); err != nil {
		b.Fatal(err)
	}
	b.Run("by hand", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := api.AppendDocument(make([]byte, 0, 512), doc); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("package json", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			viaJSON(b, doc)
		}
	})
}
