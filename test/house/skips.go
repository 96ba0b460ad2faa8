package main

import (
	"fmt"
	"os"
	"regexp"
	"strings"
)

// skip is a row of docs/skips.md: which test may be skipped when it says what.
type skip struct {
	test   string // as `house test` prints it: internal/x.TestY/case; with a star at its end, all that begin so
	says   string // part of what the test gives as its reason
	reason string // for the reader
}

// covers says whether the row explains that the test was skipped with this output.
func (s skip) covers(test, output string) bool {
	prefix, all := strings.CutSuffix(s.test, "*")
	return (test == s.test || all && strings.HasPrefix(test, prefix)) && strings.Contains(output, s.says)
}

var skipRow = regexp.MustCompile("^\\| `([^`]+)` \\| `([^`]+)` \\| (.*[^ ].*) \\|$")

// readSkips reads the table of docs/skips.md.
func readSkips(file string) ([]skip, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var out []skip
	for n, line := range strings.Split(string(text), "\n") {
		if !strings.HasPrefix(line, "| `") {
			continue
		}
		m := skipRow.FindStringSubmatch(line)
		if m == nil {
			return nil, fmt.Errorf("%s: line %d: want | `package.Test` | `what it says` | reason |", file, n+1)
		}
		out = append(out, skip{test: m[1], says: m[2], reason: m[3]})
	}
	return out, nil
}
