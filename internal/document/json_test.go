package document

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// The positions are those that the parser of YAML finds.
func TestReadJSON(t *testing.T) {
	t.Parallel()
	const text = "{\n  \"é\": [1, \"x\\\"y\", null],\n\t\"b\" : {\"c\":true ,\n\"d\":{}},\"e\":[]\n}"
	got, err := ReadJSON([]byte(text), 1, 1)
	if err != nil {
		t.Fatal(err)
	}
	want, err := Read([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want[0], got); diff != "" {
		t.Errorf("(-YAML +JSON)\n%s", diff)
	}
	if got, err := ReadJSON([]byte("[1] {}"), 7, 3); err != nil || len(got.Items) != 1 || got.Line != 7 || got.Items[0].Column != 4 {
		t.Errorf("in a file: got %+v, %v", got, err)
	}
	for _, broken := range []string{"", "{", "[1", "{\"a\" 1}", "]", strings.Repeat("[", 99)} {
		if got, err := ReadJSON([]byte(broken), 1, 1); err == nil {
			t.Errorf("%q: got %+v", broken, got)
		}
	}
}

// What JSON writes is read as it was, whatever is in it.
func TestReadJSONIsWhatJSONWrites(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		in := rapid.MapOf(rapid.String(), rapid.SliceOf(rapid.String())).Draw(t, "value")
		text, err := json.MarshalIndent(in, "", rapid.SampledFrom([]string{"", "\t"}).Draw(t, "indent"))
		if err != nil {
			t.Fatal(err)
		}
		n, err := ReadJSON(text, 1, 1)
		if err != nil {
			t.Fatal(err)
		}
		var want any
		if err := json.Unmarshal(text, &want); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, n.Any()); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
		lines := strings.Split(string(text), "\n")
		for _, m := range n.Members {
			name := []rune(lines[m.Line-1])[m.Column-1:]
			if quoted, _ := json.Marshal(m.Name); !strings.HasPrefix(string(name), string(quoted)) {
				t.Errorf("%q is not at %d:%d", m.Name, m.Line, m.Column)
			}
		}
	})
}
