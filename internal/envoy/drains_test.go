package envoy_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/evermesh/evermesh/internal/envoy"
	"github.com/evermesh/evermesh/internal/envoy/envoytest"
)

// listenersFile holds what the last accepted commit made: a line for each client of each golden case, with a hash of the
// case's input and one of the client's listeners. Before them stands the newest announcement of CHANGELOG.md.
var listenersFile = filepath.Join("testdata", "listeners.txt")

const listenersHead = `# The listeners of every golden case, as hashes: case, client, its input, its listeners. A listener that differs from
# that of the version before makes Envoy drain its connections. So this file is not written anew (make golden) when the
# same input gives other listeners, unless CHANGELOG.md has a new entry marked "drains", which is repeated here.
`

// TestListenersChangeAnnounced compares the listeners of all goldens with those that the last commit made (D12): where
// the same input gives others, every proxy drains when it comes to a replica of the new version, and users must be told.
func TestListenersChangeAnnounced(t *testing.T) {
	changelog, err := os.ReadFile(filepath.Join("..", "..", "CHANGELOG.md"))
	if err != nil {
		t.Fatal(err)
	}
	now := listenersOf(t)
	text := render(announcement(string(changelog)), now)
	stored, err := os.ReadFile(listenersFile)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	announced, before := parseListeners(string(stored))
	changed := drained(before, now)
	switch {
	case text == string(stored):
	case len(changed) > 0 && announced == announcement(string(changelog)):
		t.Errorf("these listeners change although their input does not, and proxies will drain:\n%s\n"+
			"If that is meant, add an entry marked \"drains\" to CHANGELOG.md that says what changes, and run make golden.", strings.Join(changed, "\n"))
	case *update:
		if err := os.WriteFile(listenersFile, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	default:
		t.Errorf("%s is not up to date (%d of the listeners change, announced): run make golden, and read the difference", listenersFile, len(changed))
	}
}

// The rule would be none if it could not refuse.
func TestListenersChangeRefused(t *testing.T) {
	t.Parallel()
	before := [][]string{{"case", "client", "input", "listeners"}, {"gone", "client", "input", "listeners"}}
	for _, c := range []struct {
		name string
		now  []string
		want int
	}{
		{"the same", []string{"case", "client", "input", "listeners"}, 0},
		{"other input", []string{"case", "client", "input2", "listeners2"}, 0},
		{"another case", []string{"new", "client", "input", "listeners2"}, 0},
		{"other listeners", []string{"case", "client", "input", "listeners2"}, 1},
	} {
		if got := drained(before, [][]string{c.now}); len(got) != c.want {
			t.Errorf("%s: %q", c.name, got)
		}
	}
	const log = "# Changelog\n\nmarked \"drains\"\n\n## 2.0\n\n- Nothing.\n- Names of\n  filters (drains).\n\n## 1.0\n\n- Old (drains).\n"
	if got := announcement(log); got != "Names of filters (drains)." {
		t.Errorf("the newest announcement is %q", got)
	}
	announced, lines := parseListeners(render("Names of filters (drains).", before))
	if announced != "Names of filters (drains)." || len(lines) != 2 || !slices.Equal(lines[1], before[1]) {
		t.Errorf("read back: %q %q", announced, lines)
	}
}

// drained are the lines of now whose listeners are others than before with the same input.
func drained(before, now [][]string) []string {
	var out []string
	for _, line := range now {
		if slices.ContainsFunc(before, func(b []string) bool { return slices.Equal(b[:3], line[:3]) && b[3] != line[3] }) {
			out = append(out, line[0]+": "+line[1])
		}
	}
	return out
}

// listenersOf are the lines of the file as they have to be.
func listenersOf(t *testing.T) [][]string {
	t.Helper()
	var out [][]string
	for _, c := range envoytest.Cases(t) {
		input := sha256.New()
		fmt.Fprintln(input, strings.Join(c.Words("clients:"), " "))
		for _, f := range c.Archive.Files {
			if f.Name == envoytest.ResourcesSection {
				input.Write(f.Data)
			}
		}
		for _, client := range c.Clients(t) {
			bundle, _ := c.Bundle(t, client)
			var all []any
			for _, r := range bundle.List(envoy.Listener).Resources {
				all = append(all, readable(t, envoy.Listener, r))
			}
			text, err := yaml.Marshal(all)
			if err != nil {
				t.Fatal(err)
			}
			sum := sha256.Sum256(text)
			out = append(out, []string{c.Name, string(client.Kind) + "/" + client.Name, hex.EncodeToString(input.Sum(nil)[:8]), hex.EncodeToString(sum[:8])})
		}
	}
	return out
}

func render(announced string, lines [][]string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%sannounced: %s\n", listenersHead, announced)
	for _, line := range lines {
		fmt.Fprintln(&b, strings.Join(line, " "))
	}
	return b.String()
}

func parseListeners(text string) (announced string, lines [][]string) {
	for line := range strings.Lines(strings.TrimPrefix(text, listenersHead)) {
		line = strings.TrimSpace(line)
		if said, ok := strings.CutPrefix(line, "announced:"); ok {
			announced = strings.TrimSpace(said)
		} else if words := strings.Fields(line); len(words) == 4 {
			lines = append(lines, words)
		}
	}
	return announced, lines
}

// announcement is the newest entry of the changelog that is marked "drains", as one line; "none" while there is none.
func announcement(changelog string) string {
	entry := ""
	_, entries, _ := strings.Cut(changelog, "\n## ")
	for line := range strings.Lines(entries + "\n- \n") {
		begins := strings.HasPrefix(line, "- ") || strings.HasPrefix(line, "#")
		if begins && strings.Contains(entry, "drains") {
			return entry
		}
		line = strings.TrimSpace(line)
		switch {
		case begins:
			entry = strings.TrimPrefix(line, "- ")
		case line != "":
			entry += " " + line
		}
	}
	return "none"
}
