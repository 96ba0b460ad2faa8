package internal

import (
	"fmt"
	"go/ast"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/evermesh/evermesh/internal/model"
)

func isMarkdown(name string) bool { return filepath.Ext(name) == ".md" }

var link = regexp.MustCompile(`\]\(([^)\s]+)\)`)

// TestLinksLeadSomewhere follows every link of the documents that stays inside
// the repository, so that a moved file cannot leave a reader in front of a wall.
func TestLinksLeadSomewhere(t *testing.T) {
	for _, name := range repositoryFiles(t, isMarkdown) {
		for _, m := range link.FindAllStringSubmatch(readFile(t, name), -1) {
			target, _, _ := strings.Cut(m[1], "#")
			if target == "" || strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
				continue
			}
			if _, err := os.Stat(filepath.Join(root, filepath.Dir(name), target)); err != nil {
				t.Errorf("%s links to %s: %v", name, m[1], err)
			}
		}
	}
}

// adrParts are the headings that every decision record has, in this order.
var adrParts = []string{"## Context", "## Choice", "## Rejected", "## Consequences"}

func TestDecisionRecords(t *testing.T) {
	index := readFile(t, "docs/adr/README.md")
	records := repositoryFiles(t, func(name string) bool {
		return strings.HasPrefix(name, "docs/adr/") && filepath.Base(name) != "README.md"
	})
	if len(records) == 0 {
		t.Fatal("found no decision record")
	}
	for _, name := range records {
		if !strings.Contains(index, "("+filepath.Base(name)+")") {
			t.Errorf("%s is not listed in docs/adr/README.md", name)
		}
		var parts []string
		for _, line := range strings.Split(readFile(t, name), "\n") {
			if strings.HasPrefix(line, "## ") {
				parts = append(parts, line)
			}
		}
		if !slices.Equal(parts, adrParts) {
			t.Errorf("%s has the parts %q, want %q", name, parts, adrParts)
		}
	}
}

var wordRow = regexp.MustCompile(`^\| ([^|]+) \| [^|]+ \| ([^|]*) \|$`)

// TestWords keeps documents and comments to the names that docs/words.md fixes:
// what stands in its last column is not said anywhere.
func TestWords(t *testing.T) {
	avoided := map[string]string{} // pattern: what to say
	for _, line := range strings.Split(readFile(t, "docs/words.md"), "\n") {
		m := wordRow.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		for _, word := range strings.Split(m[2], ",") {
			if word = strings.TrimSpace(word); word != "" && word != "not" && !strings.HasPrefix(word, "-") {
				// At the beginning of a sentence too, but not inside an identifier.
				first := regexp.QuoteMeta(word[:1])
				avoided[`\b[`+strings.ToUpper(first)+first+`]`+regexp.QuoteMeta(word[1:])+`\b`] = m[1]
			}
		}
	}
	if len(avoided) == 0 {
		t.Fatal("docs/words.md names no word to avoid")
	}
	check := func(where, text string) {
		for pattern, say := range avoided {
			if found := regexp.MustCompile(pattern).FindString(text); found != "" {
				t.Errorf("%s says %q: say %s (docs/words.md)", where, found, say)
			}
		}
	}
	for _, name := range repositoryFiles(t, isMarkdown) {
		// The requirements quote other people's words.
		if name == "docs/words.md" || name == "docs/requirements.md" {
			continue
		}
		check(name, readFile(t, name))
	}
	for _, name := range repositoryFiles(t, func(name string) bool { return isGo(name) && !strings.HasSuffix(name, "_gen.go") }) {
		set, f := parse(t, name)
		for _, group := range f.Comments {
			check(position(set, group.Pos()), group.Text())
		}
	}
}

var symbol = regexp.MustCompile("`(model|api|mesh|envoy|auth|store|iam|discovery|ledger|ads|publish|rest|client|agent|intercept)\\.([A-Za-z]+)`")

// TestArchitectureNamesRealCode follows the names in ARCHITECTURE.md into the
// packages, so that the walk stays one through the code as it is.
func TestArchitectureNamesRealCode(t *testing.T) {
	names := symbol.FindAllStringSubmatch(readFile(t, "ARCHITECTURE.md"), -1)
	if len(names) == 0 {
		t.Fatal("ARCHITECTURE.md names no code")
	}
	declared := map[string]bool{}
	for _, name := range repositoryFiles(t, func(name string) bool { return isGo(name) && !strings.HasSuffix(name, "_test.go") }) {
		pkg := strings.TrimPrefix(filepath.Dir(name), "internal/")
		_, f := parse(t, name)
		for _, d := range f.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				declared[pkg+"."+d.Name.Name] = true // methods too: the walk names them by package
			case *ast.GenDecl:
				for _, s := range d.Specs {
					if s, ok := s.(*ast.TypeSpec); ok {
						declared[pkg+"."+s.Name.Name] = true
					}
				}
			}
		}
	}
	for _, m := range names {
		if !declared[m[1]+"."+m[2]] {
			t.Errorf("ARCHITECTURE.md names %s.%s, which does not exist", m[1], m[2])
		}
	}
}

var (
	cited   = regexp.MustCompile(`\bD(\d{1,2})(?:\.(\d))?\b`)
	decided = regexp.MustCompile(`(?m)^## D(\d+) |^(\d)\. \*\*`)
)

// TestCitedDecisionsExist follows the numbers by which comments cite decisions
// into docs/decisions.md.
func TestCitedDecisionsExist(t *testing.T) {
	exist := map[string]bool{}
	last := ""
	for _, m := range decided.FindAllStringSubmatch(readFile(t, "docs/decisions.md"), -1) {
		if m[1] != "" {
			last = m[1]
			exist[last] = true
			continue
		}
		exist[last+"."+m[2]] = true
	}
	for _, name := range repositoryFiles(t, isGo) {
		set, f := parse(t, name)
		for _, group := range f.Comments {
			for _, m := range cited.FindAllStringSubmatch(group.Text(), -1) {
				number := strings.TrimSuffix(m[1]+"."+m[2], ".")
				if !exist[number] {
					t.Errorf("%s cites D%s, which docs/decisions.md does not have", position(set, group.Pos()), number)
				}
			}
		}
	}
}

// named is a test in docs/faults.md, with the folder that was named last before it.
var named = regexp.MustCompile("`((?:internal|cmd|test)/[a-z0-9/-]+)`|`((?:Test|Fuzz)[A-Za-z0-9]+)`")

// TestFaultsHaveTheirTests holds the table of what the product withstands
// against the tests that it names.
func TestFaultsHaveTheirTests(t *testing.T) {
	tests := map[string]bool{} // folder and name
	for _, name := range repositoryFiles(t, func(name string) bool { return strings.HasSuffix(name, "_test.go") }) {
		_, f := parse(t, name)
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil {
				tests[filepath.Dir(name)+" "+fn.Name.Name] = true
			}
		}
	}
	rows := 0
	for _, line := range strings.Split(readFile(t, "docs/faults.md"), "\n") {
		if !strings.HasPrefix(line, "| ") || strings.HasSuffix(line, "| test |") {
			continue
		}
		rows++
		cells := strings.Split(line, " | ")
		folder, found := "", 0
		for _, m := range named.FindAllStringSubmatch(cells[len(cells)-1], -1) {
			if m[1] != "" {
				folder = m[1]
				continue
			}
			if found++; !tests[folder+" "+m[2]] {
				t.Errorf("%s: there is no %s in %s", cells[0], m[2], folder)
			}
		}
		if found == 0 {
			t.Errorf("%s: names no test", cells[0])
		}
	}
	if rows == 0 {
		t.Fatal("docs/faults.md has no table")
	}
}

// TestActionsAreListed holds docs/security.md against the operations of
// Evermesh's own API, whose names are what callers must be allowed (D11).
func TestActionsAreListed(t *testing.T) {
	m, err := model.Evermesh()
	if err != nil {
		t.Fatal(err)
	}
	text := readFile(t, "docs/security.md")
	listed := 0
	for name, op := range m.Operations {
		row := fmt.Sprintf("| `%s:%s` | `%s %s` |", m.Metadata.EndpointPrefix, name, op.HTTP.Method, op.HTTP.RequestURI)
		if !strings.Contains(text, row) {
			t.Errorf("docs/security.md has no row %s", row)
		}
		listed++
	}
	if got := strings.Count(text, "\n| `evermesh:"); got != listed {
		t.Errorf("docs/security.md has %d actions of Evermesh's own, and the model %d", got, listed)
	}
}
