package manifest_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"

	"github.com/evermesh/evermesh/internal/manifest"
	"github.com/evermesh/evermesh/internal/model"
)

var update = flag.Bool("update", false, "rewrite the expected sections of testdata/*.txtar")

// expected is the section of what the other sections of a case come to.
const expected = "want"

// TestManifests reads the sections of each case as files, and compares what they
// come to with the section want: the inputs of the API's calls, then what is
// said about the files. The first line of a case's comment is its name, with the
// requirements that it shows; "mesh: NAME" in the comment is --mesh.
func TestManifests(t *testing.T) {
	t.Parallel()
	m := appMesh(t)
	paths, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatalf("cases: %v, %v", paths, err)
	}
	for _, path := range paths {
		archive, err := txtar.ParseFile(path)
		if err != nil {
			t.Fatal(err)
		}
		name, rest, _ := strings.Cut(string(archive.Comment), "\n")
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var o manifest.Options
			for line := range strings.Lines(rest) {
				if value, ok := strings.CutPrefix(line, "mesh: "); ok {
					o.Mesh = strings.TrimSpace(value)
				}
			}
			var r manifest.Reader
			want := ""
			for _, f := range archive.Files {
				if f.Name == expected {
					want = string(f.Data)
				} else {
					r.Add(f.Name, f.Data)
				}
			}
			got := told(t, m, r.Resolve(m, o))
			if *update {
				archive.Files = slices.DeleteFunc(archive.Files, func(f txtar.File) bool { return f.Name == expected })
				archive.Files = append(archive.Files, txtar.File{Name: expected, Data: []byte(got)})
				if err := os.WriteFile(path, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s (-file +got)\n%s", path, diff)
			}
		})
	}
}

func appMesh(t testing.TB) *model.Model {
	t.Helper()
	m, err := model.AppMesh()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// told writes a result down, with what the model of the API has against it.
func told(t testing.TB, m *model.Model, result manifest.Result) string {
	t.Helper()
	var out, against strings.Builder
	for _, r := range result.Resources {
		text, err := json.MarshalIndent(r.Doc, "", " ")
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&out, "%s: %s %s\n", r.Place, r.Kind, text)
		row, _ := r.Kind.Row()
		for _, v := range m.Check("Create"+row.Type+"Input", r.Doc) {
			fmt.Fprintf(&against, "refused: %s: %s\n", r.At(v.Path), v)
		}
	}
	for _, s := range result.Skipped {
		fmt.Fprintln(&out, s)
	}
	for _, n := range result.Notes {
		fmt.Fprintln(&out, "note:", n)
	}
	for _, f := range result.Faults {
		fmt.Fprintln(&out, "fault:", f)
	}
	return out.String() + against.String()
}

// Whatever comes in, nothing panics, and what comes out can be written down.
func FuzzManifests(f *testing.F) {
	m := appMesh(f)
	paths, err := filepath.Glob("testdata/*.txtar")
	if err != nil {
		f.Fatal(err)
	}
	for _, path := range paths {
		archive, err := txtar.ParseFile(path)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range archive.Files {
			if file.Name != expected {
				f.Add(file.Data)
			}
		}
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var r manifest.Reader
		r.Add("f.yaml", text)
		told(t, m, r.Resolve(m, manifest.Options{}))
	})
}
