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
		{"no YAML", "a: 'b\n\nc", "3:0 found unexpected end of stream"},
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
