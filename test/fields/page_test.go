//go:build linux

package fields

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/evermesh/evermesh/internal/testenv"
)

// TestPage holds docs/fields.md to the cases.
func TestPage(t *testing.T) {
	if *update {
		return // TestFields writes it
	}
	got, err := os.ReadFile(pagePath(t))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(page(t), string(got)); diff != "" {
		t.Errorf("docs/fields.md is not what the cases say; go test ./test/fields -update writes it when they pass (-cases +file):\n%s", diff)
	}
}

func pagePath(t *testing.T) string {
	t.Helper()
	root, err := testenv.Root()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(root, "docs", "fields.md")
}

// page is docs/fields.md.
func page(t *testing.T) string {
	t.Helper()
	rows := map[string][]string{}
	for _, s := range scenes() {
		for _, f := range s.fields {
			what := fmt.Sprintf("%s → %s", f.before, f.after)
			if f.refused != "" {
				what = "the API refuses it: " + f.refused
			} else if f.ignored != "" {
				what = fmt.Sprintf("%s, as before; `explain` reports: %s", f.after, f.ignored)
			}
			rows[f.leaf(t)] = append(rows[f.leaf(t)], fmt.Sprintf("| `%s` | `%s` | %s | [%s](../test/fields/testdata/%s) | `%s` |\n",
				f.leaf(t), cell(changeOf(f)), cell(what), s.name, goldenName(s), strings.ReplaceAll("TestFields/all/"+s.name+"/"+f.test(t), " ", "_")))
		}
	}
	var b strings.Builder
	b.WriteString(preface)
	spec := ""
	for _, leaf := range leaves(t) {
		if of, _, _ := strings.Cut(leaf, "."); of != spec {
			spec = of
			fmt.Fprintf(&b, "\n## %s\n\n| field | changed to | a real Envoy, before → after | golden | live test |\n| --- | --- | --- | --- | --- |\n", spec)
		}
		for _, row := range rows[leaf] {
			b.WriteString(row)
		}
	}
	return b.String()
}

// changeOf is the value that the case gives its leaf.
func changeOf(f field) string {
	e, err := parseEdit(f.change)
	if err != nil {
		return err.Error()
	}
	if e.value == nil {
		return "none"
	}
	text, err := json.Marshal(e.value)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

func cell(text string) string { return strings.ReplaceAll(text, "|", "\\|") }

const preface = `# Fields

What every leaf field of the App Mesh API does. The tests in [test/fields](../test/fields) write this page: each row
is a case in which that one field is changed alone. The golden has, in a section of the field's name, the
difference that this makes in Envoy's configuration; the live test is one in which a real Envoy has the
configuration before and after the change.

A duration without a unit is in seconds: App Mesh lets the unit be absent, and its reference names no default. One without a
value has no effect, and ` + "`explain`" + ` says so.
`
