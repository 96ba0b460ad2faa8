package cloudformation_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"

	"github.com/evermesh/evermesh/internal/cloudformation"
)

var update = flag.Bool("update", false, "rewrite the expected sections of testdata/*.txtar")

// expected is the section of what the template of a case comes to.
const expected = "want"

// TestTemplates reads the template of each case, with the options of the section
// options.json over those of known, and compares what it comes to with the
// section want: inputs of the API's calls, outputs, what is skipped, faults.
// The first line of a case is its name, with the requirements that it shows.
func TestTemplates(t *testing.T) {
	t.Parallel()
	paths, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatalf("cases: %v, %v", paths, err)
	}
	for _, path := range paths {
		archive, err := txtar.ParseFile(path)
		if err != nil {
			t.Fatal(err)
		}
		name, _, _ := strings.Cut(string(archive.Comment), "\n")
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := known()
			got, want := "", ""
			for i, f := range archive.Files {
				switch f.Name {
				case expected:
					want = string(f.Data)
					archive.Files = archive.Files[:i]
				case "options.json":
					if err := json.Unmarshal(f.Data, &o); err != nil {
						t.Fatal(err)
					}
				default:
					got = told(t, f.Name, f.Data, o)
				}
			}
			if *update {
				archive.Files = append(archive.Files, txtar.File{Name: expected, Data: []byte(got)})
				if err := os.WriteFile(path, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

// known are the options that most cases have.
func known() cloudformation.Options {
	return cloudformation.Options{Partition: "aws", Region: "eu-west-1", Account: "111122223333", Stack: "shop"}
}

// told renders what a template comes to.
func told(t *testing.T, name string, text []byte, o cloudformation.Options) string {
	t.Helper()
	var out strings.Builder
	template, faults := cloudformation.Parse(name, text, o)
	for _, r := range template.Resources {
		var doc bytes.Buffer
		e := json.NewEncoder(&doc)
		e.SetEscapeHTML(false)
		if err := e.Encode(r.Doc); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&out, "%s: %s %s %s", r.Position, r.Kind, r.LogicalID, doc.Bytes())
	}
	for _, o := range template.Outputs {
		fmt.Fprintf(&out, "%s: output %s", o.Position, o.Name)
		if o.Export != "" {
			fmt.Fprintf(&out, ", exported as %s", o.Export)
		}
		if o.Unknown != "" {
			fmt.Fprintf(&out, " is not known: %s\n", o.Unknown)
			continue
		}
		fmt.Fprintf(&out, " = %s\n", o.Value)
	}
	for _, s := range template.Skipped {
		fmt.Fprintln(&out, s)
	}
	for _, p := range faults {
		fmt.Fprintln(&out, p)
	}
	fmt.Fprintf(&out, "takes %s\n", strings.Join(template.Takes, " "))
	return out.String()
}
