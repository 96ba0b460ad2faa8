//go:build linux

package platforms

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/evermesh/evermesh/test/ground"
)

var block = regexp.MustCompile("(?ms)^<!-- run: ([a-z]+) -->\n```[a-z]*\n(.*?)^```$")

// page returns the blocks of docs/name that stand below a comment <!-- run: WHO -->, by WHO and in order.
func page(t *testing.T, name string) map[string][]string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(world.repository, "docs", name))
	if err != nil {
		t.Fatal(err)
	}
	blocks := map[string][]string{}
	for _, m := range block.FindAllStringSubmatch(string(text), -1) {
		blocks[m[1]] = append(blocks[m[1]], m[2])
	}
	if len(blocks) == 0 || strings.Count(string(text), "<!-- run:") != len(block.FindAllString(string(text), -1)) {
		t.Fatalf("docs/%s has blocks that cannot be run", name)
	}
	return blocks
}

// paste runs blocks in one shell on the host, which ends at the first command that fails, and returns what they printed.
func paste(t *testing.T, h *ground.Host, dir string, env []string, replace *strings.Replacer, blocks ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	script := "set -euo pipefail\ncd " + dir + "\n" + strings.Join(blocks, "\n")
	if replace != nil {
		script = replace.Replace(script)
	}
	out, err := h.Run(ctx, ground.Command{Name: "page", Path: "/bin/bash", Args: []string{"-c", script}, Env: env})
	if err != nil {
		t.Fatalf("%v, of:\n%s", err, script)
	}
	return out
}
