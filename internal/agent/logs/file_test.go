package logs

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// beside is what a File cannot take.
type beside struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *beside) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

func newFile(t *testing.T, maxBytes int64, keep int) (*File, string, *beside) {
	t.Helper()
	path, other := filepath.Join(t.TempDir(), "appnet_envoy.log"), &beside{}
	at := time.Unix(1_700_000_000, 0)
	f, err := OpenFile(FileOptions{Path: path, MaxBytes: maxBytes, Keep: keep, Else: other, Now: func() time.Time { return at }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f, path, other
}

// contents are the files of a log in the order in which they were written, the current one last.
func contents(t *testing.T, path string) []string {
	t.Helper()
	names, err := filepath.Glob(path + ".*")
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	var out []string
	for _, name := range append(names, path) {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, string(text))
	}
	return out
}

func TestFileTurns(t *testing.T) {
	f, path, other := newFile(t, 10, 3)
	for i := range 8 {
		fmt.Fprintf(f, "line %d\n", i)
	}
	if got, want := contents(t, path), []string{"line 4\n", "line 5\n", "line 6\n", "line 7\n"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want the last full ones and the newest: %q", got, want)
	}
	if other.Len() != 0 {
		t.Errorf("also %q", other)
	}
}

// The order of full files is that in which they were written, whatever the clock does.
func TestFileTurnsWhenTheClockIsSetBack(t *testing.T) {
	f, path, _ := newFile(t, 10, 9)
	for i, at := range []int64{1_700_000_000, 1_700_086_400, 1_699_913_600, 1_700_086_400, 1_700_086_500} {
		f.o.Now = func() time.Time { return time.Unix(at, 0) }
		fmt.Fprintf(f, "line %d\n", i)
	}
	if got, want := contents(t, path), []string{"line 0\n", "line 1\n", "line 2\n", "line 3\n", "line 4\n"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if _, err := os.Stat(path + ".1700086500"); err != nil {
		t.Error("the clock that is right again does not name the file")
	}
}

func TestFileHoldsWholeLines(t *testing.T) {
	f, path, _ := newFile(t, 10, 9)
	fmt.Fprint(f, "aaa\nbbb\nccc\nddd\nmuch longer than a file\ne\nno end of a line, and long")
	want := []string{"aaa\nbbb\n", "ccc\nddd\n", "much longer than a file\n", "e\n", "no end of a line, and long"}
	if got := contents(t, path); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestFileGoesOn(t *testing.T) {
	t.Run("with what an earlier run left", func(t *testing.T) {
		f, path, _ := newFile(t, 10, 9)
		fmt.Fprint(f, "before\n")
		again, err := OpenFile(f.o)
		if err != nil {
			t.Fatal(err)
		}
		defer again.Close()
		fmt.Fprint(again, "behind\n")
		if got, want := contents(t, path), []string{"before\n", "behind\n"}; !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
		// The first one still has what is now a full file: it goes to the new one, and does not turn that.
		fmt.Fprint(f, "aside\n")
		if got, want := contents(t, path), []string{"before\n", "behind\n", "aside\n"}; !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	})
	t.Run("in the same file when the directory takes no other", func(t *testing.T) {
		f, path, other := newFile(t, 10, 9)
		fmt.Fprint(f, "before\n")
		f.o.Now = func() time.Time { return time.Unix(1, 0) }
		f.o.Path = filepath.Join(filepath.Dir(path), strings.Repeat("x", 250)) // with a number behind it, too long for a name
		if err := os.Rename(path, f.o.Path); err != nil {
			t.Fatal(err)
		}
		f.o.Now = func() time.Time { return time.Unix(1_700_000_000, 0) }
		fmt.Fprint(f, "behind\n")
		text, err := os.ReadFile(f.o.Path)
		if err != nil || string(text) != "before\nbehind\n" || !strings.Contains(other.String(), "cannot make room for a new log file") {
			t.Errorf("got %q, %v, beside %q", text, err, other)
		}
	})
}

// Processes write at once, as fast as they can, while files turn: every line is there once and whole.
func TestFileLosesNothing(t *testing.T) {
	f, path, other := newFile(t, 4096, 10_000)
	const lines = 2000
	var wg sync.WaitGroup
	for _, who := range []string{"a", "b"} {
		wg.Go(func() {
			cmd := exec.Command("sh", "-c", "i=0; while [ $i -lt "+strconv.Itoa(lines)+" ]; do echo "+who+" $i; i=$((i+1)); done")
			cmd.Stdout, cmd.Stderr = f.Pipe(), f.Pipe()
			if err := cmd.Run(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Go(func() {
		for i := range lines {
			fmt.Fprintf(f, "agent %d\n", i)
		}
	})
	wg.Wait()
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	next := map[string]int{}
	files := contents(t, path)
	for line := range strings.Lines(strings.Join(files, "")) {
		who, number, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if number != strconv.Itoa(next[who]) {
			t.Fatalf("%q where %d was to come", line, next[who])
		}
		next[who]++
	}
	if next["a"] != lines || next["b"] != lines || next["agent"] != lines || len(next) != 3 {
		t.Errorf("got %v", next)
	}
	if len(files) < 10 || other.Len() != 0 {
		t.Errorf("%d files, beside %q", len(files), other)
	}
	for _, text := range files {
		if len(text) > 4096 {
			t.Errorf("a file of %d bytes", len(text))
		}
	}
}

// A full disk, as /dev/full is one: nothing is lost, and it is said once.
func TestFullDisk(t *testing.T) {
	f, path, other := newFile(t, 1<<20, 1)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	mine := f.file
	f.file = full
	fmt.Fprint(f, "one\n")
	fmt.Fprint(f, "two\n")
	if got := other.String(); !strings.HasSuffix(got, "one\ntwo\n") || strings.Count(got, "cannot write to the log file") != 1 {
		t.Errorf("beside: %q", got)
	}
	f.file = mine
	fmt.Fprint(f, "three\n")
	f.file = full
	fmt.Fprint(f, "four\n")
	if got := other.String(); strings.Count(got, "cannot write to the log file") != 2 || strings.Contains(got, "three") {
		t.Errorf("beside, after it was written again: %q", got)
	}
	f.file = mine
	_ = full.Close()
}

func TestFileCannotBe(t *testing.T) {
	dir := t.TempDir()
	for _, test := range []struct{ name, path, want string }{
		{"where nothing is", filepath.Join(dir, "no", "log"), "no such file"},
		{"in what is no directory", filepath.Join(dir, "file", "log"), "is no directory"},
		{"where a directory is", dir, "is a directory"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := OpenFile(FileOptions{Path: test.path}); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// A process that still has the pipe does not keep the File from closing, and a log that is closed writes elsewhere.
func TestCloseWithWriters(t *testing.T) {
	f, _, other := newFile(t, 1<<20, 1)
	kept, err := unix.Dup(int(f.Pipe().Fd()))
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(kept)
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	fmt.Fprint(f, "late\n")
	if other.String() != "late\n" {
		t.Errorf("beside: %q", other)
	}
}

func TestEnvironment(t *testing.T) {
	var b bytes.Buffer
	Environment(New(&b, "info"), []string{
		"PATH=/bin", "APPNET_AGENT_HTTP_PORT=1", "ENVOY_LOG_LEVEL=off", "APPMESH_PREVIEW=1", "EVERMESH_TOKEN_FILE=/token", "AWS_SECRET_ACCESS_KEY=x",
		"ENVOY_API_TOKEN=hidden", "APPNET_EMPTY_TOKEN=",
	})
	var got []string
	for line := range strings.Lines(b.String()) {
		_, rest, _ := strings.Cut(line, "environment ")
		got = append(got, strings.TrimSpace(rest))
	}
	want := []string{
		"variable=APPMESH_PREVIEW value=1", "variable=APPNET_AGENT_HTTP_PORT value=1", "variable=APPNET_EMPTY_TOKEN value=\"\"",
		"variable=ENVOY_API_TOKEN value=[redacted]", "variable=ENVOY_LOG_LEVEL value=off", "variable=EVERMESH_TOKEN_FILE value=/token",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}
