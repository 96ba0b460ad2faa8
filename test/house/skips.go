package main

import (
	"fmt"
	"os"
	"regexp"
	"strings"
)

var skipRow = regexp.MustCompile("^\\| `([^`]+)` \\| (.*) \\|$")

// readSkips reads the table of docs/skips.md: a test's name as `house test`
// prints it (internal/x.TestY/case), and the reason why it may be skipped.
func readSkips(file string) (map[string]string, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for n, line := range strings.Split(string(text), "\n") {
		if !strings.HasPrefix(line, "| `") {
			continue
		}
		m := skipRow.FindStringSubmatch(line)
		if m == nil || strings.TrimSpace(m[2]) == "" {
			return nil, fmt.Errorf("%s: line %d: want | `package.Test` | reason |", file, n+1)
		}
		out[m[1]] = m[2]
	}
	return out, nil
}
