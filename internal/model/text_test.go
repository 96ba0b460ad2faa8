package model_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/evermesh/evermesh/internal/model"
)

// decoded reads a text the slow way.
func decoded(text []byte) (any, error) {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	v, err := model.Decode(dec)
	if err == nil {
		if _, end := dec.Token(); !errors.Is(end, io.EOF) {
			err = errors.New("something follows")
		}
	}
	return v, err
}

// same checks that DecodeText takes a text as Decode does.
func same(t rapid.TB, text []byte) {
	t.Helper()
	want, wantErr := decoded(text)
	got, err := model.DecodeText(text)
	if (err == nil) != (wantErr == nil) {
		t.Fatalf("%q: error %v, Decode has %v", text, err, wantErr)
	}
	if err != nil {
		return
	}
	if !reflect.DeepEqual(want, got) { // cmp takes a time that doubles with each level
		t.Fatalf("%q is %#v, for Decode %#v", text, got, want)
	}
}

func textSeeds() []string {
	return []string{
		``, ` `, `{}`, `[]`, ` { } `, `[ ]`, `null`, `true`, `false`, `0`, `-1.5e+10`, `""`, `"a"`, `"\u00e9\n\"\\"`, `"\ud800"`, "\"\xff\"", `"é"`,
		`{"a":1,"b":[true,null,{"c":"d"}], "e" : -0.1 }`, `{"a":1,"a":2}`, `{"a":1,"\u0061":2}`, `{"\"":1}`, `[1,2,]`, `{"a"}`, `{"a":1`, `[1 2]`,
		`1 2`, `{} {}`, `{"a":1}x`, `01`, `+1`, `nul`, `"a`, "\"\n\"", `{"a":{"a":{}}}`, "\t[\r\n1\t,\n2 ]\n",
		strings.Repeat("[", model.MaxDepth) + strings.Repeat("]", model.MaxDepth),
		strings.Repeat("[", model.MaxDepth+1) + strings.Repeat("]", model.MaxDepth+1),
		strings.Repeat("[", model.MaxDepth+2) + strings.Repeat("]", model.MaxDepth+2),
		strings.Repeat(`{"a":`, model.MaxDepth+1) + "1" + strings.Repeat("}", model.MaxDepth+1),
	}
}

func TestDecodeTextReadsWhatDecodeReads(t *testing.T) {
	t.Parallel()
	for _, text := range textSeeds() {
		same(t, []byte(text))
	}
	pieces := rapid.SampledFrom([]string{
		"{", "}", "[", "]", ",", ":", `"a"`, `"b"`, `"\u0061"`, `"\\\""`, `"é"`, "1", "-2.5e3", "true", "false", "null", " ", "\n", `"`, `\`, "0", "x", "\xff",
	})
	rapid.Check(t, func(t *rapid.T) {
		same(t, []byte(strings.Join(rapid.SliceOfN(pieces, 0, 30).Draw(t, "pieces"), "")))
	})
	rapid.Check(t, func(t *rapid.T) {
		var document func(depth int) any
		document = func(depth int) any {
			kind := rapid.IntRange(0, 5).Draw(t, "kind")
			if depth == 0 {
				kind %= 4
			}
			switch kind {
			case 0:
				return rapid.String().Draw(t, "text")
			case 1:
				return rapid.Float64Range(-1e9, 1e9).Draw(t, "number")
			case 2:
				return rapid.Bool().Draw(t, "truth")
			case 3:
				return nil
			case 4:
				out := []any{}
				for range rapid.IntRange(0, 4).Draw(t, "items") {
					out = append(out, document(depth-1))
				}
				return out
			}
			out := map[string]any{}
			for range rapid.IntRange(0, 4).Draw(t, "members") {
				out[rapid.String().Draw(t, "key")] = document(depth - 1)
			}
			return out
		}
		text, err := json.Marshal(document(4))
		if err != nil {
			t.Fatal(err)
		}
		same(t, text)
	})
}

func FuzzDecodeText(f *testing.F) {
	for _, text := range textSeeds() {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) { same(t, text) })
}
