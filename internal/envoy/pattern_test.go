package envoy_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"

	"pgregory.net/rapid"

	"github.com/evermesh/evermesh/internal/envoy"
)

// TestProgramSize compares the guard's count with what both Envoys say of the
// same patterns: never less, so that no pattern comes through that one of them
// refuses, and not so much more that good patterns are lost.
func TestProgramSize(t *testing.T) {
	t.Parallel()
	usual := []string{
		"/", "/x{995}", "/x{997}", "/[^/]{200}", "/[^/]{124}", ".*", "(?s).*", "(?i)kelvin{9}", `\w+\d{20}`, `[^\d]{30}`,
		"/ä{40}", "[ä-ü]{40}", "(?i)straße{9}", `/(v1|v2|v3)/[a-z0-9-]+(/[^/?#]+){0,12}`, "(a|b|c|[^x]){30}", "(a*b*c*){40}", "(?:(?:a?){10}){10}", `\x{e0}-[\x{d7ff}-\x{e001}]{9}`,
		"[\u0800-\uffff]{9}", "[\u0900-\U0001ffff]{9}", "^a$|^$", `\bx\b`, "a??b*?c+?", "(?i)[k-s]{50}",
	}
	patterns := append(slices.Clone(usual), `\p{Greek}{9}`, `(?i)\pL`)
	for _, loop := range []string{"^*", `\b*?`, `(?:\z|b)*`, "(a)+", "(?:x??)*", "(?:[xy]z)+", "(?:^$)?", "(|a)*"} {
		patterns = append(patterns, strings.Repeat(loop, 100), "(?:"+strings.Repeat(loop, 100)+")*")
	}
	piece := rapid.SampledFrom([]string{
		"a", "/", "ä", "€", "[a-f]", "[^/]", ".", `\d`, `\w`, `\S`, `\pL`, "[ä-ü]", "(?i:k)", "(?i:x)", "(?i:[a-z])", "[^ä]", "[€-𝄞]", "^", "$", `\b`, "(ab|ac|[^d])", "(x|y*|)",
	})
	repeat := rapid.SampledFrom([]string{"", "", "*", "+", "?", "{3}", "{2,7}", "{0,5}", "|", "*?"})
	some := rapid.Custom(func(t *rapid.T) string {
		out := ""
		for range rapid.IntRange(1, 8).Draw(t, "pieces") {
			out += piece.Draw(t, "piece") + repeat.Draw(t, "repeat")
		}
		return out
	})
	for seed := range 1000 {
		patterns = append(patterns, some.Example(seed))
	}
	for _, classes := range []map[string]*unicode.RangeTable{unicode.Categories, unicode.Scripts} {
		for name := range classes { // all that are counted must be known to both
			patterns = append(patterns, `\p{`+name+`}`)
		}
	}
	counted := map[string]int{}
	for _, p := range patterns {
		if n, err := envoy.ProgramSize(p); err == nil {
			counted[p] = n
		}
	}
	largest := map[string]int{}
	for _, binary := range validators(t) {
		sizes, err := measure(t, binary, counted)
		if err != nil {
			t.Fatal(err)
		}
		for p, n := range sizes {
			largest[p] = max(largest[p], n)
		}
	}
	if len(counted) < len(patterns)/2 || len(largest) != len(counted) {
		t.Fatalf("%d of %d patterns are counted, and %d measured", len(counted), len(patterns), len(largest))
	}
	for p, n := range counted {
		if n < largest[p] {
			t.Errorf("%q: counted %d steps, Envoy has %d", p, n, largest[p])
		}
	}
	for _, p := range usual { // RE2 simplifies odd ones more than is worth following
		if n, most := counted[p], largest[p]*13/10+9; n > most {
			t.Errorf("%q: counted %d steps, Envoy has %d: good patterns would be lost", p, n, largest[p])
		}
	}
}

// TestForeignPatterns is about what Go takes and one of the Envoys refuses.
func TestForeignPatterns(t *testing.T) {
	binaries := validators(t)
	for pattern, good := range map[string]bool{
		`\x{ff}`: true, `\x{0000ff}`: true, `\xff`: true, `\377`: true, `\x{100}`: false, `[a-\x{20ac}]`: false, `\400`: false,
		`\\x{100}`: true, `\\\x{100}`: false, `\Q\x{100}\E`: true, `\Q\x{100}\E\x{100}`: false, `\Q\x{100}`: true,
		`\p{Any}`: true, `\p{ASCII}`: false, `\p{LC}`: false, `\p{greek}`: false, `\p{ Greek }`: false, `\P{^Greek}`: true, `[\p{Lu}\pZ]`: true, `[\p{Letter}]`: false,
		`\pN`: true, `\PZ`: true, `\pn`: false, `[^\Ps]`: false,
		`(?=a)`: false, `a(?!b)`: false, `(a)\1`: false, `a**`: false, `a{2,1}`: false, `[ä-à]`: false,
	} {
		t.Run(pattern, func(t *testing.T) {
			t.Parallel()
			if _, err := envoy.ProgramSize(pattern); (err == nil) != good {
				t.Errorf("%v, want it taken: %v", err, good)
			}
			taken := true
			for _, binary := range binaries {
				_, err := measure(t, binary, map[string]int{pattern: 0})
				taken = taken && err == nil
			}
			if taken != good {
				t.Errorf("Envoy takes it: %v, want %v", taken, good)
			}
		})
	}
}

// measure lets Envoy say the size of each pattern, which it warns of.
func measure(t *testing.T, binary string, patterns map[string]int) (map[string]int, error) {
	t.Helper()
	var routes []any
	for p := range patterns {
		routes = append(routes, map[string]any{
			"match":           map[string]any{"safe_regex": map[string]any{"regex": p}},
			"direct_response": map[string]any{"status": 200},
		})
	}
	config := map[string]any{
		"layered_runtime": map[string]any{"layers": []any{map[string]any{"name": "static", "static_layer": map[string]any{
			"re2.max_program_size.error_level": 1000000, "re2.max_program_size.warn_level": 0,
		}}}},
		"static_resources": map[string]any{"listeners": []any{map[string]any{
			"name": "l", "address": map[string]any{"pipe": map[string]any{"path": "@envoy-pattern-test"}},
			"filter_chains": []any{map[string]any{"filters": []any{map[string]any{
				"name": "http", "typed_config": map[string]any{
					"@type":       "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
					"stat_prefix": "x", "route_config": map[string]any{"virtual_hosts": []any{map[string]any{"name": "x", "domains": []string{"*"}, "routes": routes}}},
					"http_filters": []any{map[string]any{"name": "router", "typed_config": map[string]any{"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}},
				},
			}}}},
		}}},
	}
	text, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "envoy.json")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := exec.Command(binary, "--mode", "validate", "--log-level", "warn", "-c", path).CombinedOutput()
	if err != nil {
		log = regexp.MustCompile("(?m)^.* RE2 program size of .*$").ReplaceAll(log, nil)
		return nil, fmt.Errorf("%s: %w\n%s", binary, err, bytes.TrimSpace(log))
	}
	sizes := regexp.MustCompile(`(?m)regex '(.*)' RE2 program size of (\d+) >`)
	out := map[string]int{}
	for _, m := range sizes.FindAllStringSubmatch(string(log), -1) {
		n, err := strconv.Atoi(m[2])
		if err != nil {
			t.Fatal(err)
		}
		out[m[1]] = max(out[m[1]], n)
	}
	return out, nil
}
