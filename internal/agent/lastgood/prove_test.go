package lastgood

import (
	"bytes"
	"context"
	"crypto/sha256"
	"os"
	"strings"
	"testing"
)

// forge writes the text of a file anew, with a checksum that is right.
func forge(t *testing.T, dir string, change func(body []byte) []byte) {
	t.Helper()
	text, err := os.ReadFile(path(dir, nodeID))
	if err != nil {
		t.Fatal(err)
	}
	body := change(text[:len(text)-sha256.Size])
	sum := sha256.Sum256(body)
	if err := os.WriteFile(path(dir, nodeID), append(body, sum[:]...), 0o600); err != nil {
		t.Fatal(err)
	}
}

// unsealedFile is the body of a file without its last field, which is the seal.
func unsealedFile(t *testing.T, body []byte) []byte {
	t.Helper()
	c := &configuration{kinds: map[string]keptKind{}}
	if err := c.fill(body[len(fileForm):]); err != nil || len(c.sealed) == 0 {
		t.Fatalf("no sealed file: %v", err)
	}
	return body[:len(body)-sizeOf(5, len(c.sealed))]
}

// An agent that has a key is given nothing that it, or one like it, did not write.
func TestNobodyElsesFileIsServed(t *testing.T) {
	t.Parallel()
	changed := func(_ *testing.T, body []byte) []byte {
		return bytes.ReplaceAll(body, []byte("three"), []byte("THREE"))
	}
	for _, test := range []struct {
		name, says       string
		writing, reading []string
		strict           bool
		change           func(t *testing.T, body []byte) []byte
		want             int // resources, of five
	}{
		{name: "as it was written", writing: []string{"one"}, reading: []string{"one"}, want: 5},
		{name: "as it was written, by the key in a file", writing: []string{"file", "one"}, reading: []string{"file", "two"}, strict: true, want: 5},
		{name: "its seal taken off", writing: []string{"one"}, reading: []string{"one"}, change: unsealedFile, says: "it is not sealed"},
		{name: "written without a key", reading: []string{"one"}, says: "it is not sealed"},
		{name: "written without a key, for an agent without one", want: 4},
		{name: "changed, for an agent with the key in a file", writing: []string{"file"}, reading: []string{"file"}, strict: true, change: changed, says: "or changed"},
		{name: "of another identity, for an agent with the key in a file", writing: []string{"one"}, reading: []string{"file", "two"}, strict: true, says: "sealed by another identity"},
		{name: "for an agent whose key in a file is gone", writing: []string{"file"}, strict: true, says: "nothing is there to prove it by"},
		{name: "of another identity, without its secrets", writing: []string{"one"}, reading: []string{"two"}, want: 4, says: "sealed by another identity"},
		{name: "for an agent without a key, without its secrets", writing: []string{"one"}, want: 4, says: "sealed by another identity"},
		{name: "something behind the seal", writing: []string{"one"}, reading: []string{"one"}, says: "cannot be read", change: func(_ *testing.T, body []byte) []byte {
			return appendBytes(body, 3, appendString(nil, 1, "later"))
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			written := newBench(dir, test.writing...)
			of := small()
			of[clusterType]["c2"] = "three"
			s := written.Begin(true)
			speak(t, s, of, nil)
			say(t, s, "acm", issued(t, "acm"))
			written.pass(t, saveEvery)
			if test.change != nil {
				forge(t, dir, func(body []byte) []byte { return test.change(t, body) })
			}
			b := newBench(dir, test.reading...)
			b.Strict = test.strict
			got := ask(t, b.Store, true, map[string][]string{endpointType: {"c1"}, secretType: {"acm"}})
			served := 0
			for _, v := range got {
				if v != "removed" {
					served++
				}
			}
			if served != test.want {
				t.Errorf("served %d resources, want %d: %v", served, test.want, got)
			}
			if log := b.out.String(); test.says == "" && strings.Contains(log, "trouble") || !strings.Contains(log, test.says) {
				t.Errorf("the log has not %q, or a trouble: %s", test.says, log)
			}
		})
	}
}

// What nobody proved is not sealed by who read it; what the control plane says since is.
func TestWhatIsReadUnprovenIsNotSealed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	kept(t, dir)
	var keys [][]byte
	b := newBench(dir)
	b.Keys = func(context.Context) [][]byte { return keys }
	if got := ask(t, b.Store, true, names); len(got) != 4 {
		t.Fatalf("served %v", got)
	}
	keys = [][]byte{[]byte("one")} // found later
	b.reconfirm(t.Context())
	if got := ask(t, newBench(dir, "one").Store, true, names); got != nil {
		t.Errorf("served %v", got)
	}
	speak(t, b.Begin(true), small(), nil)
	b.pass(t, saveEvery)
	if got := ask(t, newBench(dir, "one").Store, true, names); len(got) != 4 {
		t.Errorf("what the control plane said is not served: %v", got)
	}
}

// What was read while the keys' source was silent is served by the same agent, once it has a key, as if it were read then.
func TestReadWhileNoKeyWasThere(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, says string
		writing    []string
		later      string
		want       int // resources, of five
	}{
		{name: "somebody else's, for there is no seal", later: "one", says: "it is not sealed"},
		{name: "as it was written", writing: []string{"one"}, later: "one", want: 5},
		{name: "of another identity, without its secrets", writing: []string{"one"}, later: "two", want: 4, says: "sealed by another identity"},
		{name: "without a key that is silent still", want: 4},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			written := newBench(dir, test.writing...)
			s := written.Begin(true)
			speak(t, s, small(), nil)
			say(t, s, "acm", issued(t, "acm"))
			written.pass(t, saveEvery)
			served := func(b *bench) (n int) {
				t.Helper()
				for _, v := range ask(t, b.Store, true, map[string][]string{endpointType: {"c1"}, secretType: {"acm"}}) {
					if v != "removed" {
						n++
					}
				}
				return n
			}
			var keys [][]byte
			b := newBench(dir)
			b.Keys = func(context.Context) [][]byte { return keys }
			before := b.Begin(true)
			before.Request(request1(t, true, clusterType, nil))
			if !before.Kept() {
				t.Fatal("what was read is not kept")
			}
			before.End()
			if test.later != "" {
				keys = [][]byte{[]byte(test.later)}
			}
			for range 2 { // what is dropped stays so
				if got := served(b); got != test.want {
					t.Errorf("served %d resources, want %d", got, test.want)
				}
				keys = nil // silent again
			}
			if log := b.out.String(); !strings.Contains(log, test.says) {
				t.Errorf("the log has not %q: %s", test.says, log)
			}
		})
	}
}

// A key that is found late seals what the control plane said before; while its source is silent it goes on.
func TestKeysThatComeAndGo(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var keys [][]byte
	b := newBench(dir)
	b.Keys = func(context.Context) [][]byte { return keys }
	speak(t, b.Begin(true), small(), nil)
	b.pass(t, saveEvery)
	keys = [][]byte{[]byte("one")}
	b.reconfirm(t.Context())
	if got := ask(t, newBench(dir, "one").Store, true, names); len(got) != 4 {
		t.Errorf("found late: served %v", got)
	}
	keys = nil
	of := small()
	of[clusterType]["c3"] = "three"
	speak(t, b.Begin(true), of, nil)
	b.pass(t, saveEvery)
	if got := ask(t, newBench(dir, "one").Store, true, names); len(got) != 5 {
		t.Errorf("while their source is silent: served %v", got)
	}
}
