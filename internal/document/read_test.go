package document

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRead(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, text string
		want       string // the documents as JSON, one in a line
	}{
		{"scalars", "a: 1\nb: 1.5\nc: true\nd: ~\ne: '1'\nf: 2020-01-01\ng: 0x10\nh: .inf\n", `{"a":1,"b":1.5,"c":true,"d":null,"e":"1","f":"2020-01-01","g":16,"h":".inf"}`},
		{"a number too large for the machine", "a: 123456789012345678901234567890\n", `{"a":123456789012345678901234567890}`},
		{"several documents, empty ones left out", "---\na: 1\n---\n---\n# nothing\n---\n[2]\n", "{\"a\":1}\n[2]"},
		{"JSON", "\ufeff{\"a\":\t[1, {\"b\": \"\\u00e9\"}]}", `{"a":[1,{"b":"é"}]}`},
		{"an alias", "a: &x [1]\nb: *x\n", `{"a":[1],"b":[1]}`},
		{"a merge key, whose members the object's own outdo", "a: &x {p: 1, q: 2}\nb:\n  <<: *x\n  q: 3\n", `{"a":{"p":1,"q":2},"b":{"p":1,"q":3}}`},
		{"keys that look like something else", "8080: a\ntrue: b\n", `{"8080":"a","true":"b"}`},
		{"nothing", "# nothing\n", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			all, err := Read([]byte(c.text))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, n := range all {
				text, err := json.Marshal(n.Any())
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, string(text))
			}
			if diff := cmp.Diff(c.want, strings.Join(got, "\n")); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestReadRefuses(t *testing.T) {
	t.Parallel()
	bomb := "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
	for c := 'b'; c < 'i'; c++ {
		bomb += fmt.Sprintf("%c: &%c [%s]\n", c, c, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*%c,", c-1), 10), ","))
	}
	for _, c := range []struct{ name, text, want string }{
		{"a key twice", "a: 1\nb:\n  c: 1\n  c: 2\n", `4:3 key "c" stands twice in one object`},
		{"aliases of aliases", bomb, "1:12 its aliases stand for too much: write out what they mean"},
		{"an alias of what it is in", "a: &x\n  b: *x\n", "1:4 it is nested too deeply"},
		{"too deep", strings.Repeat("[", 80) + strings.Repeat("]", 80), "1:66 it is nested too deeply"},
		{"a foreign tag", "a: !Ref b\n", "1:4 the tag !Ref means nothing here"},
		{"a foreign tag of an object", "a: !Thing {b: c}\n", "1:4 the tag !Thing means nothing here"},
		{"a key that is no text", "{[a]: b}\n", "1:2 a key is no text"},
		{"no YAML", "a: 'b\n\nc", "1:0 found unexpected end of stream"},
		{"a merge of a text", "a:\n  <<: b\n", "2:7 a merge key takes an object, or a list of objects"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := Read([]byte(c.text))
			e, ok := errors.AsType[*Error](err)
			if !ok {
				t.Fatalf("got %v", err)
			}
			if got := fmt.Sprintf("%d:%d %s", e.Line, e.Column, e); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

// The line is that of the fault, or of what is never ended, and not of the block
// around it.
func TestSyntaxLines(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("  x: [1, 2]\n", 3) // a key twice is no fault of syntax
	for _, c := range []struct {
		name, text string
		line       int
	}{
		{"a value behind another", "a: 1\nb: c: d\ne: 1\n", 2},
		{"a member that stands too far left", "a:\n    b: 1\n    c: 2\n  d: 3\ne: 1\n", 4},
		{"a member that stands too far right", "a:\n  b: 1\n  c: 2\n    d: 3\ne: 1\n", 4},
		{"a tab", "a:\n  b: 1\n\tc: 2\nd: 3\n", 3},
		{"an item among members", "a:\n  b: 1\n  c: 2\n  - d\ne: 1\n", 4},
		{"a text among members", "a: 1\nb: 2\nword\nc: 3\nd: 4\n", 3},
		{"a text that is never ended", "a: 1\nb: 'c\nd: 2\n" + long, 2},
		{"a list that is never ended", "a: 1\nb: [1,\n  2\nd: 2\n" + long, 2},
		{"an anchor that is nowhere", "a: 1\nb:\n  c: *x\nd: 1\n", 3},
		{"in the second document", "a: 1\n---\nb: 1\nc: d: e\n", 4},
		{"JSON, a comma too many", "{\n \"a\": 1,\n \"b\": [\n  1,\n  ,\n 2]\n}\n", 5},
		{"JSON, a colon that is not there", "{\n \"a\": {\n  \"b\": 1,\n  \"c\" 2\n }\n}\n", 4},
		{"JSON that ends too early", "{\n \"a\": {\n  \"b\": 1", 3},
		{"a chart", "{{- if .Values.mesh }}\na: 1\n{{- end }}\n", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := Read([]byte(c.text))
			e, ok := errors.AsType[*Error](err)
			if !ok || e.Line != c.line {
				t.Errorf("got line %d (%v), want %d", e.Line, err, c.line)
			}
		})
	}
}

// A fault at the end of a long text is found as well, without reading the text
// over and over.
func TestTheLineInALongText(t *testing.T) {
	t.Parallel()
	text := strings.Repeat("- {a: 1, b: [x, y]}\n", 20_000)
	for _, c := range []struct {
		name, text string
		line       int
	}{
		{"a fault", text + "- a: b: c\n" + text, 20_001},
		{"what is never ended, so that the parser's word is taken", "- 'a\n" + text, 20_002},
	} {
		_, err := Read([]byte(c.text))
		if e, ok := errors.AsType[*Error](err); !ok || e.Line != c.line {
			t.Errorf("%s: got %v in line %d, want line %d", c.name, err, e.Line, c.line)
		}
	}
}

func FuzzRead(f *testing.F) {
	for _, s := range []string{"a: 1", "{\"a\": [1, null]}", "a: &x [1]\nb: *x\nc:\n  <<: [{d: 1}]\n", "- !Ref a", "? [a]\n: b", "a: 0o17\nb: 1_000\nc: !!float 1\nd: !!bool x"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		all, err := Read(text)
		if err != nil {
			return
		}
		for _, n := range all {
			if _, err := json.Marshal(n.Any()); err != nil {
				t.Errorf("%q: %v", text, err)
			}
		}
	})
}
