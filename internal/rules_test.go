package internal

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// root is the module's root as these tests see it.
const root = ".."

const maxLines = 800

// repositoryFiles returns the names, relative to the root, of all files that
// belong to the repository and that keep accepts.
func repositoryFiles(t *testing.T, keep func(name string) bool) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		switch {
		case d.IsDir() && slices.Contains([]string{".git", "build", "bin"}, name):
			return filepath.SkipDir
		case d.Type().IsRegular() && keep(name):
			out = append(out, name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func isGo(name string) bool { return strings.HasSuffix(name, ".go") }

func readFile(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func parse(t *testing.T, name string) (*token.FileSet, *ast.File) {
	t.Helper()
	set := token.NewFileSet()
	f, err := parser.ParseFile(set, filepath.Join(root, name), nil, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	return set, f
}

// pure are the packages that compute and do nothing else, so that the same
// input gives the same configuration on every replica, in a test and offline.
var pure = []string{"internal/model", "internal/api", "internal/mesh", "internal/envoy", "internal/ecs", "internal/simulate", "internal/policy"}

var impureImports = []string{"net", "net/http", "os", "os/exec", "log", "log/slog", "context", "math/rand", "math/rand/v2", "crypto/rand"}

// impure lists what a file of the pure core must not contain.
func impure(f *ast.File) []string {
	var wrong []string
	for _, i := range f.Imports {
		if path := strings.Trim(i.Path.Value, `"`); slices.Contains(impureImports, path) {
			wrong = append(wrong, "imports "+path)
		}
	}
	ast.Inspect(f, func(n ast.Node) bool {
		if s, ok := n.(*ast.SelectorExpr); ok {
			if x, ok := s.X.(*ast.Ident); ok && x.Name == "time" && slices.Contains([]string{"Now", "Since", "Until", "After", "Sleep", "NewTimer", "NewTicker"}, s.Sel.Name) {
				wrong = append(wrong, "uses time."+s.Sel.Name)
			}
		}
		return true
	})
	return wrong
}

func TestPureCore(t *testing.T) {
	files := repositoryFiles(t, func(name string) bool {
		return isGo(name) && !strings.HasSuffix(name, "_test.go") && slices.Contains(pure, filepath.Dir(name))
	})
	if len(files) == 0 {
		t.Fatal("found no file of the pure core")
	}
	for _, name := range files {
		_, f := parse(t, name)
		for _, w := range impure(f) {
			t.Errorf("%s %s: the pure core has no network, files, log, clock or chance", name, w)
		}
	}
}

func TestPureCoreRefuses(t *testing.T) {
	source := "package p\n\nimport (\n\t\"net\"\n\t\"time\"\n)\n\nvar _ = net.IP{}\n\nfunc f() time.Time { return time.Now() }\n"
	f, err := parser.ParseFile(token.NewFileSet(), "p.go", source, 0)
	if err != nil {
		t.Fatal(err)
	}
	if got := impure(f); !slices.Equal(got, []string{"imports net", "uses time.Now"}) {
		t.Errorf("got %q", got)
	}
}

func TestEveryPackageHasOneComment(t *testing.T) {
	comments := map[string][]string{} // package: files with a comment
	shipped := map[string]bool{}      // packages with files that are no tests
	files := repositoryFiles(t, func(name string) bool { return isGo(name) && !strings.Contains(name, "testdata/") })
	for _, name := range files {
		if !strings.HasSuffix(name, "_test.go") {
			shipped[filepath.Dir(name)] = true
		}
	}
	for _, name := range files {
		dir := filepath.Dir(name)
		if shipped[dir] && strings.HasSuffix(name, "_test.go") {
			continue
		}
		if comments[dir] == nil {
			comments[dir] = []string{}
		}
		if _, f := parse(t, name); f.Doc != nil {
			comments[dir] = append(comments[dir], name)
		}
	}
	for dir, in := range comments {
		if len(in) != 1 {
			t.Errorf("%s: a package has exactly one package comment, which leads the reader in; found %d %q", dir, len(in), in)
		}
	}
}

func TestFileLength(t *testing.T) {
	for _, name := range repositoryFiles(t, func(name string) bool { return isGo(name) && !strings.HasSuffix(name, "_gen.go") }) {
		if n := strings.Count(readFile(t, name), "\n"); n > maxLines {
			t.Errorf("%s has %d lines; more than %d are more than one room", name, n, maxLines)
		}
	}
}

func TestNoInit(t *testing.T) {
	for _, name := range repositoryFiles(t, isGo) {
		_, f := parse(t, name)
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				t.Errorf("%s has an init function: wire it in the program's run", name)
			}
		}
	}
}

func TestGeneratedCodeIsCurrent(t *testing.T) {
	cmd := exec.Command("go", "run", "./internal/model/gen", "-check")
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestNothingUnfinished: what is not done is said in the documents and tracked
// where people look for work, not in a comment; and nothing names a place that
// exists on one machine only.
func TestNothingUnfinished(t *testing.T) {
	banned := []string{"TO" + "DO", "FIX" + "ME", "XX" + "X", "/wo" + "rk/", "../sha" + "red", "/ro" + "ot/", "/tmp/hel" + "per"}
	for _, name := range repositoryFiles(t, func(name string) bool { return filepath.Ext(name) != ".sum" }) {
		text, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		if bytes.IndexByte(text, 0) >= 0 {
			t.Errorf("%s is not text: what is built does not belong into the repository", name)
			continue
		}
		for n, line := range strings.Split(string(text), "\n") {
			for _, b := range banned {
				if strings.Contains(line, b) {
					t.Errorf("%s:%d contains %q: %.100s", name, n+1, b, strings.TrimSpace(line))
				}
			}
		}
	}
}

// position prints where a node is, for messages.
func position(set *token.FileSet, at token.Pos) string {
	p := set.Position(at)
	return fmt.Sprintf("%s:%d", strings.TrimPrefix(p.Filename, root+"/"), p.Line)
}
