package attack

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/evermesh/evermesh/internal/testenv"
)

var (
	named = regexp.MustCompile(`(?:(\w+)(?:'s|\.)\s*)((?:Test|Fuzz)\w+)`)
	tests = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
)

// What the package's comment names is there.
func TestWhatIsNamedExists(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	root, err := testenv.Root()
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]bool{} // folder.Test
	for _, top := range []string{"internal", "test", "cmd"} {
		err := filepath.WalkDir(filepath.Join(root, top), func(path string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, "_test.go") {
				return err
			}
			text, err := os.ReadFile(path)
			for _, m := range tests.FindAllStringSubmatch(string(text), -1) {
				there[filepath.Base(filepath.Dir(path))+"."+m[1]] = true
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	comment := strings.ReplaceAll(string(text), "\n//", " ")
	found := named.FindAllStringSubmatch(comment, -1)
	if len(found) < 15 {
		t.Errorf("only %d tests are named", len(found))
	}
	for _, m := range found {
		if !there[m[1]+"."+m[2]] {
			t.Errorf("there is no %s.%s", m[1], m[2])
		}
	}
	for _, m := range regexp.MustCompile(`\b\w+_test\.go`).FindAllString(comment, -1) {
		if _, err := os.Stat(m); err != nil {
			t.Error(err)
		}
	}
}
