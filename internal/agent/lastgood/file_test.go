package lastgood

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/anypb"

	"github.com/evermesh/evermesh/internal/testenv"
)

// kept is a directory with a file of the small configuration.
func kept(t *testing.T, dir string, keys ...string) *bench {
	t.Helper()
	b := newBench(dir, keys...)
	s := b.Begin(true)
	speak(t, s, small(), nil)
	b.pass(t, saveEvery)
	return b
}

// names are what a fresh Envoy asks for beside clusters and listeners.
var names = map[string][]string{endpointType: {"c1"}}

func TestFileIsReadBack(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	written := kept(t, dir)
	info, err := os.Stat(path(dir, nodeID))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("got mode %v, %v", info.Mode(), err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) != 1 {
		t.Errorf("files: %q", left)
	}
	for _, delta := range []bool{true, false} {
		got := ask(t, newBench(dir).Store, delta, names)
		want := written.content()
		if !delta { // the dialect has no versions of resources
			for k, v := range want {
				_, text, _ := strings.Cut(v, " ")
				want[k] = " " + text
			}
		}
		if diff := unlike(got, want); diff != nil {
			t.Errorf("delta %t: %v", delta, diff)
		}
	}
}

// A file that is not right is as good as none, and the log says so once.
func TestFileIsNotUsed(t *testing.T) {
	whole := func(t *testing.T) (dir string, text []byte) {
		dir = t.TempDir()
		kept(t, dir)
		text, err := os.ReadFile(path(dir, nodeID))
		if err != nil {
			t.Fatal(err)
		}
		return dir, text
	}
	sealed := func(text []byte) []byte {
		sum := sha256.Sum256(text)
		return append(text, sum[:]...)
	}
	for _, test := range []struct {
		name, want string
		of         func(text []byte) []byte
	}{
		{"half written", "its checksum is wrong", func(b []byte) []byte { return b[:len(b)/2] }},
		{"cut to its first line", "half written", func(b []byte) []byte { return b[:len(fileForm)] }},
		{"changed", "its checksum is wrong", func(b []byte) []byte { b[len(b)/2] ^= 1; return b }},
		{"empty", "not of an agent", func([]byte) []byte { return nil }},
		{"another program's", "not of an agent", func([]byte) []byte { return []byte("{}") }},
		{"of another release", "of another release", func(b []byte) []byte {
			return sealed(append([]byte(fileMark+"9\n"), b[len(fileForm):len(b)-sha256.Size]...))
		}},
		{"of another node", "not of", func(b []byte) []byte {
			return sealed(bytes.Replace(b[:len(b)-sha256.Size], []byte("orders"), []byte("oracle"), 1))
		}},
		{"not of fields", "cannot be read", func([]byte) []byte { return sealed([]byte(fileForm + "\xff")) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir, text := whole(t)
			if err := os.WriteFile(path(dir, nodeID), test.of(text), 0o600); err != nil {
				t.Fatal(err)
			}
			b := newBench(dir)
			for range 3 {
				if got := ask(t, b.Store, true, names); got != nil {
					t.Errorf("served %v", got)
				}
			}
			if n := strings.Count(b.out.String(), "the last good configuration cannot be used"); n != 1 || !strings.Contains(b.out.String(), test.want) {
				t.Errorf("said %d times: %s", n, b.out)
			}
			// The next one that is whole replaces it.
			s := b.Begin(true)
			speak(t, s, small(), nil)
			b.pass(t, saveEvery)
			if got := ask(t, newBench(dir).Store, true, names); len(got) != 4 {
				t.Errorf("after it was written anew: %v", got)
			}
		})
	}
	nobody := 65534
	for _, test := range []struct {
		name string
		do   func(dir, file string) error
	}{
		{"everybody may write to it", func(_, file string) error { return os.Chmod(file, 0o606) }},
		{"a group may write to it", func(_, file string) error { return os.Chmod(file, 0o660) }},
		{"it is another user's", func(_, file string) error { return os.Chown(file, nobody, nobody) }},
		{"its directory is another user's", func(dir, _ string) error { return os.Chown(dir, nobody, nobody) }},
		{"everybody may write to its directory", func(dir, _ string) error { return os.Chmod(dir, 0o777|os.ModeSticky) }},
		{"a group may write to its directory", func(dir, _ string) error { return os.Chmod(dir, 0o770) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir, _ := whole(t)
			if err := test.do(dir, path(dir, nodeID)); errors.Is(err, fs.ErrPermission) {
				t.Skip("only root may give files away")
			} else if err != nil {
				t.Fatal(err)
			}
			if got := ask(t, newBench(dir).Store, true, names); got != nil {
				t.Errorf("served %v", got)
			}
		})
	}
	t.Run("a link", func(t *testing.T) {
		dir, _ := whole(t)
		if err := os.Rename(path(dir, nodeID), filepath.Join(dir, "there")); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("there", path(dir, nodeID)); err != nil {
			t.Fatal(err)
		}
		if got := ask(t, newBench(dir).Store, true, names); got != nil {
			t.Errorf("served %v", got)
		}
	})
	t.Run("made for an Envoy that was asked for otherwise", func(t *testing.T) {
		dir := t.TempDir()
		b := newBench(dir)
		speak(t, b.Begin(true), small(), map[string]any{"evermesh.interception": "none", "evermesh.instance": "1"})
		b.pass(t, saveEvery)
		if got := ask(t, newBench(dir).Store, true, names); got != nil {
			t.Errorf("served %v", got)
		}
	})
}

// Another instance is the same proxy, as is one whose metadata differ in what configurations do not depend on.
func TestFileIsOfTheNode(t *testing.T) {
	dir := t.TempDir()
	b := newBench(dir)
	speak(t, b.Begin(true), small(), map[string]any{"evermesh.instance": "1", "aws.appmesh.platformInfo": map[string]any{"k": "v"}})
	b.pass(t, saveEvery)
	if got := ask(t, newBench(dir).Store, true, names); len(got) != 4 {
		t.Errorf("got %v", got)
	}
}

func TestDiskIsFull(t *testing.T) {
	dir := testenv.SmallDisk(t, "128k")
	b := kept(t, dir)
	before := ask(t, newBench(dir).Store, true, names)
	large := small()
	large[clusterType]["c3"] = strings.Repeat("x", 1<<20)
	s := b.Begin(true)
	speak(t, s, large, nil)
	for range 3 {
		b.pass(t, saveEvery)
	}
	if n := strings.Count(b.out.String(), "cannot be kept on disk"); n != 1 || !strings.Contains(b.out.String(), "no space left") {
		t.Errorf("said %d times: %s", n, b.out)
	}
	if diff := unlike(ask(t, newBench(dir).Store, true, names), before); diff != nil {
		t.Errorf("the file of before: %v", diff)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*"+tempSuffix)); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
	// From memory it is served all the same; and it is written when there is room.
	if got := ask(t, b.Store, true, names); len(got) != 5 {
		t.Errorf("from memory: %d resources", len(got))
	}
	delete(large[clusterType], "c3")
	speak(t, b.Begin(true), large, nil)
	b.pass(t, saveEvery)
	if got := ask(t, newBench(dir).Store, true, names); len(got) != 4 {
		t.Errorf("afterwards: %v", got)
	}
}

func TestDirectoryIsReadOnly(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	b := kept(t, filepath.Join(file, "in"))
	if n := strings.Count(b.out.String(), "cannot be kept on disk"); n != 1 {
		t.Errorf("said %d times: %s", n, b.out)
	}
	if got := ask(t, b.Store, true, names); len(got) != 4 {
		t.Errorf("from memory: %v", got)
	}
}

// killed is the environment variable that makes this test binary write files until it is killed.
const killed = "LASTGOOD_WRITE"

func TestMain(m *testing.M) {
	testenv.HoldSmallDisk()
	if dir := os.Getenv(killed); dir != "" {
		for i := 0; ; i++ {
			c := &configuration{node: nodeID, kinds: map[string]keptKind{clusterType: {resources: map[string]resource{}}}}
			text := strings.Repeat(string(rune('a'+(i+os.Getpid())%26)), 200_000)
			for _, name := range []string{"a", "b"} {
				c.kinds[clusterType].resources[name] = resource{name: name, any: bare(clusterType, appendString(appendString(nil, 1, name), 5, text))}
			}
			if err := write(dir, c, nil); err != nil {
				os.Exit(1)
			}
			if i == 0 {
				fmt.Println("writes")
			}
		}
	}
	os.Exit(m.Run())
}

// kill -9 at any moment leaves a file that is whole.
func TestKilledWhileItWrites(t *testing.T) {
	dir := t.TempDir()
	seen := map[string]bool{}
	left := 0
	for i := range 60 {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), killed+"="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// It has written something, and is somewhere else in the next write each time.
		if line, err := bufio.NewReader(out).ReadString('\n'); line != "writes\n" {
			t.Fatalf("got %q, %v", line, err)
		}
		<-time.After(time.Duration(i) * 700 * time.Microsecond)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		c, _, err := read(path(dir, nodeID), nodeID)
		if err != nil {
			t.Fatalf("after kill %d: %v", i, err)
		}
		a, b := c.kinds[clusterType].resources["a"].any, c.kinds[clusterType].resources["b"].any
		if len(a) < 200_000 || !bytes.Equal(a[len(a)-1000:], b[len(b)-1000:]) {
			t.Fatalf("after kill %d: resources of two configurations", i)
		}
		seen[string(a[len(a)-1:])] = true
		if some, _ := filepath.Glob(filepath.Join(dir, "*"+tempSuffix)); len(some) > left {
			left = len(some)
		}
	}
	if len(seen) < 2 || left == 0 {
		t.Errorf("files of %d kinds, %d half written: the kills came at no interesting moment", len(seen), left)
	}
	// What was left half written goes when it is old.
	some, _ := filepath.Glob(filepath.Join(dir, "*"+tempSuffix))
	old := time.Now().Add(-2 * staleAfter)
	for _, name := range some {
		if err := os.Chtimes(name, old, old); err != nil {
			t.Fatal(err)
		}
	}
	sweep(dir)
	if some, _ = filepath.Glob(filepath.Join(dir, "*")); len(some) != 1 {
		t.Errorf("left: %q", some)
	}
}

func TestKeysAreSealed(t *testing.T) {
	of := func(t *testing.T, b *bench) {
		t.Helper()
		s := b.Begin(true)
		speak(t, s, small(), nil)
		for name, any := range map[string]*anypb.Any{"acm": issued(t, "acm"), "file": filed(t, "file")} {
			say(t, s, name, any)
		}
		b.pass(t, saveEvery)
	}
	secrets := map[string][]string{secretType: {"acm", "file"}}
	file := secretType + " file"
	acm := secretType + " acm"
	for _, test := range []struct {
		name             string
		writing, reading []string
		opens            bool
	}{
		{"by the same identity", []string{"one"}, []string{"one"}, true},
		{"by another", []string{"one"}, []string{"two"}, false},
		{"by nobody", []string{"one"}, nil, false},
		{"after a rotation, by the key in a file", []string{"key in a file", "one"}, []string{"key in a file", "two"}, true},
		{"by one of two", []string{"one", "two"}, []string{"two"}, true},
		{"without an identity", nil, nil, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			written := newBench(dir, test.writing...)
			of(t, written)
			text, err := os.ReadFile(path(dir, nodeID))
			if err != nil {
				t.Fatal(err)
			}
			if bytes.Contains(text, []byte("PRIVATE")) || !bytes.Contains(text, []byte("/key.pem")) {
				t.Error("the key is in the file, or the path of one is not")
			}
			b := newBench(dir, test.reading...)
			got := ask(t, b.Store, true, secrets)
			want := maps.Clone(written.content())
			delete(want, endpointType+" c1")
			if !test.opens {
				want[acm] = "removed"
			}
			if diff := unlike(got, want); diff != nil {
				t.Errorf("%v", diff)
			}
			if got[file] == "" {
				t.Error("a certificate in a file is not served")
			}
			if said := strings.Contains(b.out.String(), "cannot be read"); len(test.writing) > 0 && said == test.opens {
				t.Errorf("the log: %s", b.out)
			}
			if strings.Contains(b.out.String()+written.out.String(), "PRIVATE") {
				t.Error("the log tells a key")
			}
		})
	}
	t.Run("written anew when the identity is another", func(t *testing.T) {
		dir := t.TempDir()
		keys := [][]byte{[]byte("one")}
		b := newBench(dir)
		b.Keys = func(context.Context) [][]byte { return keys }
		of(t, b)
		b.reconfirm(t.Context())
		keys = [][]byte{[]byte("two")}
		b.reconfirm(t.Context())
		if got := ask(t, newBench(dir, "two").Store, true, secrets); got[acm] == "removed" || got[acm] == "" {
			t.Errorf("got %q", got[acm])
		}
	})
	t.Run("what is secret", func(t *testing.T) {
		for name, test := range map[string]struct {
			any  *anypb.Any
			want bool
		}{
			"issued": {issued(t, "n"), true}, "filed": {filed(t, "n"), false},
			"authority":   {&anypb.Any{TypeUrl: secretType, Value: appendBytes(appendString(nil, 1, "n"), 4, []byte{})}, false},
			"ticket keys": {&anypb.Any{TypeUrl: secretType, Value: appendBytes(appendString(nil, 1, "n"), 3, []byte{})}, true},
			"later":       {&anypb.Any{TypeUrl: secretType, Value: appendBytes(appendString(nil, 1, "n"), 99, []byte{})}, true},
			"garbage":     {&anypb.Any{TypeUrl: secretType, Value: []byte{0xff}}, true},
		} {
			if got := sensitive(encoded(t, test.any)); got != test.want {
				t.Errorf("%s: got %t", name, got)
			}
		}
	})
}

// FuzzFile: whatever a file holds, it is read whole or not at all.
func FuzzFile(f *testing.F) {
	c := &configuration{node: nodeID, traits: "t", kinds: map[string]keptKind{clusterType: {version: "1", resources: map[string]resource{"a": {name: "a", version: "2", any: []byte("x")}}}}}
	var b bytes.Buffer
	if err := c.encode(&b, [][]byte{[]byte("key")}); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add(b.Bytes()[:b.Len()-sha256.Size])
	f.Add([]byte(fileForm + "\x1a\x02\x0a\x00\x22\x00"))
	f.Fuzz(func(t *testing.T, text []byte) {
		for _, text := range [][]byte{text, func() []byte { sum := sha256.Sum256(text); return append(slices.Clone(text), sum[:]...) }()} {
			c, err := decode(text)
			if err != nil {
				continue
			}
			_ = c.secret()
			_, _ = c.open([][]byte{[]byte("key")})
			var again bytes.Buffer
			if err := c.encode(&again, nil); err != nil {
				t.Fatal(err)
			}
			d, err := decode(again.Bytes())
			if err != nil {
				t.Fatalf("what was written is not read: %v", err)
			}
			for typ, k := range c.kinds {
				for name, r := range k.resources {
					if got := d.kinds[typ].resources[name]; !bytes.Equal(got.any, r.any) && (typ != secretType || !sensitive(r.any)) {
						t.Errorf("%s %s: got %q, want %q", typ, name, got.any, r.any)
					}
				}
			}
		}
	})
}

// FuzzMessages: whatever is said on a stream, following it does no harm.
func FuzzMessages(f *testing.F) {
	f.Add(request1(f, true, clusterType, nil), response{typ: clusterType, nonce: "1", resources: []resource{{name: "a", any: []byte("x")}}}.write(true), true)
	f.Add(request1(f, false, clusterType, nil), response{typ: clusterType, nonce: "1", resources: []resource{{name: "a", any: bare(clusterType, nil)}}}.write(false), false)
	f.Fuzz(func(t *testing.T, ask, answer []byte, delta bool) {
		b := newBench("")
		for range 2 {
			s := b.Begin(delta)
			s.Request(ask)
			s.Response(pieces(answer))
			s.Request(ask)
			b.pass(t, unrest)
			if a := s.Answers(t.Context()); a != nil {
				_, _ = a.Answer(ask)
			}
			s.End()
		}
	})
}

// Where others may write to the directory, one of this user's own in it is used, and nothing else.
func TestDirectoryOfOthers(t *testing.T) {
	open := func(t *testing.T) (dir, own string) {
		dir = t.TempDir()
		if err := os.Chmod(dir, 0o777); err != nil { // as an emptyDir of Kubernetes is
			t.Fatal(err)
		}
		return dir, filepath.Join(dir, "evermesh-state-"+strconv.Itoa(os.Geteuid()))
	}
	t.Run("it is made, and read again", func(t *testing.T) {
		dir, own := open(t)
		kept(t, dir)
		info, err := os.Stat(own)
		if err != nil || info.Mode().Perm() != 0o700 {
			t.Fatalf("%v, %v", info, err)
		}
		if got := ask(t, newBench(dir).Store, true, names); len(got) != 4 {
			t.Errorf("served %v", got)
		}
	})
	for _, test := range []struct {
		name string
		do   func(dir, own string) error
	}{
		{"others may write to that, too", func(_, own string) error { return os.Chmod(own, 0o777) }},
		{"it is another user's", func(_, own string) error { return os.Chown(own, 65534, 65534) }},
		{"it is a link", func(dir, own string) error {
			return errors.Join(os.Rename(own, filepath.Join(dir, "there")), os.Symlink("there", own))
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir, own := open(t)
			kept(t, dir)
			if err := test.do(dir, own); errors.Is(err, fs.ErrPermission) {
				t.Skip("only root may give files away")
			} else if err != nil {
				t.Fatal(err)
			}
			b := newBench(dir)
			for range 3 {
				if got := ask(t, b.Store, true, names); got != nil {
					t.Errorf("served %v", got)
				}
			}
			if n := strings.Count(b.out.String(), "make one of them this user's own"); n != 1 {
				t.Errorf("said %d times: %s", n, b.out)
			}
			b = kept(t, dir)
			if !strings.Contains(b.out.String(), "cannot be kept on disk") {
				t.Errorf("kept: %s", b.out)
			}
		})
	}
}
