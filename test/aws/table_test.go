package aws_test

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
)

const document = "../../docs/aws-services.md"

// intro is what the document says before its tables.
const intro = `# The AWS around the mesh

What follows is made by ` + "`test/aws`" + `: every operation that Evermesh offers beside App Mesh is called with boto3,
and a few of each service with the AWS CLI; the same calls go to moto, a copy of AWS of others, and all answers are
compared, member by member. *Alike* says that both answered or refused alike; what differs is said with the reason.
A service can also be had from AWS itself: see ` + "`--aws-service`" + ` in [flags](flags.md).
`

// reason is why something may differ.
type reason struct {
	text string
	used bool
}

// readReasons reads testdata/differs.txt: lines of `service operation path: reason`,
// in which * stands for any operation or path, and after it the last member for a path.
func readReasons(t *testing.T) map[string]*reason {
	t.Helper()
	text, err := os.ReadFile("testdata/differs.txt")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]*reason{}
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		key, why, ok := strings.Cut(line, ": ")
		if !ok || len(strings.Fields(key)) != 3 {
			t.Fatalf("testdata/differs.txt: %q is not `service operation path: reason`", line)
		}
		out[key] = &reason{text: why}
	}
	return out
}

// table is a service's part of the document.
func table(t *testing.T, title, service string, rows map[string]*row, reasons map[string]*reason) string {
	t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "\n## %s\n\n| operation | calls | refusals seen | beside moto |\n|---|---|---|---|\n", title)
	for _, name := range slices.Sorted(maps.Keys(rows)) {
		r := rows[name]
		var why []string
		for _, path := range slices.Sorted(maps.Keys(r.differs)) {
			found := find(reasons, service, name, path)
			if found == nil {
				t.Errorf("%s %s differs from moto at %s: %s; mend it, or give the reason in testdata/differs.txt", service, name, path, r.differs[path])
				continue
			}
			found.used = true
			if text := "`" + path + "`: " + found.text; !slices.Contains(why, text) {
				why = append(why, text)
			}
		}
		beside := "alike"
		switch {
		case r.beside == 0:
			beside = "moto has it not"
		case len(why) > 0:
			beside = strings.Join(why, "; ")
		}
		fmt.Fprintf(&b, "| %s | %d | %s | %s |\n", name, r.calls, or(strings.Join(slices.Sorted(maps.Keys(r.refusals)), ", "), "–"), beside)
	}
	return b.String()
}

// find returns the reason of a difference.
func find(reasons map[string]*reason, service, operation, path string) *reason {
	last := path[strings.LastIndexByte(path, '.')+1:]
	for _, key := range []string{service + " " + operation + " " + path, service + " * " + last, service + " " + operation + " *", service + " * *"} {
		if r := reasons[key]; r != nil {
			return r
		}
	}
	return nil
}

// check holds the document to the tables.
func check(t *testing.T, tables []string) {
	t.Helper()
	want := intro + strings.Join(tables, "")
	if *update {
		if t.Failed() {
			t.Fatal("the document is not written: something failed")
		}
		if err := os.WriteFile(document, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	have, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	if string(have) != want {
		t.Errorf("%s is not what the services do: run `go test ./test/aws -update`", document)
	}
}
