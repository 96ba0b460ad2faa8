package internal

import (
	"go/ast"
	"go/token"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// prints are the functions of tests that print rows of docs/drops.md.
var prints = map[string]bool{"dropped": true, "during": true, "row": true, "modes": true}

// TestDropsHaveTheirTests holds the table of changes that lose no request against
// the tests that print its rows, both ways.
func TestDropsHaveTheirTests(t *testing.T) {
	tests, said := map[string]bool{}, map[string]bool{} // by folder and name, or text
	rows := map[string]string{}                         // that test/e2e prints: where
	for _, name := range repositoryFiles(t, func(name string) bool { return strings.HasSuffix(name, "_test.go") }) {
		set, f := parse(t, name)
		folder := filepath.Dir(name)
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil {
				tests[folder+" "+fn.Name.Name] = true
			}
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if text, ok := quoted(n); ok {
				said[folder+" "+text] = true
				if printed, ok := strings.CutPrefix(text, "drops: "); ok {
					change, _, _ := strings.Cut(printed, ": %d")
					said[folder+" "+change] = true
				}
			}
			call, ok := n.(*ast.CallExpr)
			if !ok || folder != "test/e2e" || !prints[called(call)] {
				return true
			}
			for _, a := range call.Args {
				if text, ok := quoted(a); ok {
					rows[text] = position(set, call.Pos())
					break
				}
			}
			return true
		})
	}
	listed := map[string]bool{}
	for _, line := range strings.Split(readFile(t, "docs/drops.md"), "\n") {
		cells := strings.Split(strings.Trim(line, "| "), " | ")
		if !strings.HasPrefix(line, "| ") || cells[0] == "change" {
			continue
		}
		if len(cells) != 4 {
			t.Errorf("%s: has %d cells", cells[0], len(cells))
			continue
		}
		listed[cells[0]] = true
		folder, found := "", false
		for _, m := range named.FindAllStringSubmatch(cells[1], -1) {
			if m[1] != "" {
				folder = m[1]
				continue
			}
			found = found || said[folder+" "+cells[0]]
			if !tests[folder+" "+m[2]] {
				t.Errorf("%s: there is no %s in %s", cells[0], m[2], folder)
			}
		}
		if !found {
			t.Errorf("%s: no test that it names prints the row", cells[0])
		}
	}
	for change, where := range rows {
		if !listed[change] {
			t.Errorf("%s: docs/drops.md has no row %q", where, change)
		}
	}
	if len(rows) == 0 {
		t.Error("test/e2e prints no row")
	}
}

// quoted is the text of a string in the source.
func quoted(n ast.Node) (string, bool) {
	l, ok := n.(*ast.BasicLit)
	if !ok || l.Kind != token.STRING {
		return "", false
	}
	text, err := strconv.Unquote(l.Value)
	return text, err == nil
}

// called is the name of the function, or method, that is called.
func called(c *ast.CallExpr) string {
	switch f := c.Fun.(type) {
	case *ast.Ident:
		return f.Name
	case *ast.SelectorExpr:
		return f.Sel.Name
	}
	return ""
}
