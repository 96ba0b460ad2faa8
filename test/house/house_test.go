package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

const someRequirements = `# Requirements

- **API-001** [must] (guide) one.
- **API-002** [implied] (guide) two.
- **RT-001** [must] (guide) three.
- **RT-002** [implied] (guide) four.
- **MIG-SC-012** [must] (guide) five.
`

func line(action, test, output string) string {
	return `{"Action":"` + action + `","Package":"p","Test":"` + test + `","Output":"` + output + `"}` + "\n"
}

func TestCount(t *testing.T) {
	lines, err := parseRequirements(someRequirements)
	if err != nil {
		t.Fatal(err)
	}
	envoy := func(test string) string { return line("output", test, "x_test.go:1: real envoy: 1.40.0") }
	for _, c := range []struct {
		name, results string
		id            string
		want          reason
	}{
		{"nobody names it", line("pass", "TestX", ""), "API-001", untested},
		{"a test that passed", line("pass", "TestX_API_001", ""), "API-001", shown},
		{"a subtest that passed", line("pass", "TestX/API-001_one_thing", ""), "API-001", shown},
		{"two ids in one name", line("pass", "TestX/API-002,API-001", ""), "API-001", shown},
		{"the parent's name does not speak for the part", line("pass", "TestAPI_001/part", ""), "API-001", untested},
		{"a longer number is another id", line("pass", "TestX/API-0011", ""), "API-001", untested},
		{"a longer group is another group", line("pass", "TestX/MYAPI-001", ""), "API-001", untested},
		{"a group with a hyphen", line("pass", "TestX/MIG-SC-012", ""), "MIG-SC-012", shown},
		{"a skipped test", line("skip", "TestX/API-001", ""), "API-001", notPassed},
		{"a test that never ended", line("run", "TestX/API-001", ""), "API-001", notPassed},
		{"a test with a skipped part", line("skip", "TestX_API_001/a", "") + line("pass", "TestX_API_001", ""), "API-001", notPassed},
		{"a test that failed", line("fail", "TestX/API-001", ""), "API-001", failing},
		{"a failure outranks a proof", line("pass", "TestX/API-001", "") + line("fail", "TestY/API-001", ""), "API-001", failing},
		{"and a proof does not outrank it", line("fail", "TestX/API-001", "") + line("pass", "TestY/API-001", ""), "API-001", failing},
		{"a proof outranks a skip", line("pass", "TestX/API-001", "") + line("skip", "TestY/API-001", ""), "API-001", shown},
		{"traffic without a real Envoy", line("pass", "TestX/RT-001", ""), "RT-001", simulated},
		{"traffic with a real Envoy", envoy("TestX/RT-001") + line("pass", "TestX/RT-001", ""), "RT-001", shown},
		{"the Envoy of the test around it", envoy("TestX") + line("pass", "TestX/RT-001", ""), "RT-001", shown},
		{"the Envoy of a test beside it", envoy("TestX/other") + line("pass", "TestX/RT-001", ""), "RT-001", simulated},
		{"an implied line needs no Envoy", line("pass", "TestX/RT-002", ""), "RT-002", shown},
	} {
		t.Run(c.name, func(t *testing.T) {
			tests, err := readResults(strings.NewReader(c.results))
			if err != nil {
				t.Fatal(err)
			}
			tally := count(lines, tests)
			if got := tally.why[c.id]; got != c.want {
				t.Errorf("%s: got %q, want %q", c.id, got, c.want)
			}
			if len(tally.faults) > 0 {
				t.Errorf("faults: %q", tally.faults)
			}
		})
	}
}

func TestWrongNamesAreFaults(t *testing.T) {
	lines, err := parseRequirements(someRequirements + "- **API-003** [must] x\n- **API-004** [must] x\n")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"TestX/API-099":                         "not in the list",
		"TestX/API-001_API-002_API-003_API-004": "at most 3",
		"TestX_API_001_API_002/API-003_API-004": "at most 3",
	} {
		tests, err := readResults(strings.NewReader(line("pass", name, "")))
		if err != nil {
			t.Fatal(err)
		}
		c := count(lines, tests)
		if len(c.faults) != 1 || !strings.Contains(c.faults[0], want) {
			t.Errorf("%s: faults %q, want one with %q", name, c.faults, want)
		}
	}
}

func TestParseRequirementsRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"an id that is there twice": "- **API-001** [must] a\n- **API-001** [must] b\n",
		"a mark that is none":       "- **API-001** [maybe] a\n",
		"a list without lines":      "# Requirements\n",
	} {
		if got, err := parseRequirements(text); err == nil {
			t.Errorf("%s: accepted as %v", name, got)
		}
	}
}

func TestPrintSums(t *testing.T) {
	lines, err := parseRequirements(someRequirements)
	if err != nil {
		t.Fatal(err)
	}
	tests, err := readResults(strings.NewReader(line("pass", "TestX/API-002", "") + line("pass", "TestX/RT-001", "")))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	count(lines, tests).print(&out, true)
	want := []string{
		"API 1 2 0 1", "RT 0 2 0 1", "MIG-SC 0 1 0 1", "all 1 5 0 3",
		"RT-001 [must] its tests ran without a real Envoy: (guide) three.",
	}
	got := strings.Join(strings.Fields(out.String()), " ")
	for _, w := range want {
		if !strings.Contains(got, w) {
			t.Errorf("no %q in:\n%s", w, out.String())
		}
	}
}

func TestReport(t *testing.T) {
	end := func(action string) string { return `{"Action":"` + action + `","Package":"p","Elapsed":1}` + "\n" }
	listed := []skip{{test: "p.TestKnown", says: "no nft", reason: "x"}, {test: "p.TestMany*", says: "no ground", reason: "x"}}
	for _, c := range []struct {
		name, events string
		wantErr      string // part of it; "" for none
		wantText     string
	}{
		{"all pass", line("pass", "TestX", "") + end("pass"), "", "1 tests in 1 packages: 1 passed, 0 failed, 0 skipped"},
		{"a failure prints what the test said", line("output", "TestX", "boom") + line("fail", "TestX", "") + end("fail"), "failed", "boom"},
		{"a panic prints the test that was cut off", line("output", "TestX", "panic: here") + end("fail"), "failed", "panic: here"},
		{"a package that does not build", `{"ImportPath":"p [p.test]","Action":"build-output","Output":"p.go:1: undefined"}` + "\n" + end("fail"), "failed", "undefined"},
		{"an explained skip", line("output", "TestKnown", "no nft here") + line("skip", "TestKnown", "") + line("pass", "TestX", "") + end("pass"), "", "1 skipped (0 without"},
		{"an explained skip with another reason", line("output", "TestKnown", "too slow") + line("skip", "TestKnown", "") + line("pass", "TestX", "") + end("pass"), "without a reason", "too slow"},
		{"one of many", line("output", "TestMany/x", "no ground") + line("skip", "TestMany/x", "") + line("pass", "TestX", "") + end("pass"), "", "1 skipped (0 without"},
		{"a skip that nobody explained", line("skip", "TestNew", "") + line("pass", "TestX", "") + end("pass"), "without a reason", "skipped: p.TestNew"},
		{"no test at all", end("pass"), "no test ran", "0 tests"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out bytes.Buffer
			r := newReport(&out)
			if err := readEvents(strings.NewReader(c.events), func(e event, _ []byte) error { r.add(e); return nil }); err != nil {
				t.Fatal(err)
			}
			err := r.close(listed, time.Second)
			if (err == nil) != (c.wantErr == "") || err != nil && !strings.Contains(err.Error(), c.wantErr) {
				t.Errorf("error %v, want %q", err, c.wantErr)
			}
			if !strings.Contains(out.String(), c.wantText) {
				t.Errorf("no %q in:\n%s", c.wantText, out.String())
			}
		})
	}
}

func TestRunStageKeepsEvents(t *testing.T) {
	var kept, out bytes.Buffer
	r := newReport(&out)
	if err := runStage("go test -json -count=1 -run ^TestPrintSums$ .", &kept, r); err != nil {
		t.Fatal(err)
	}
	tests, err := readResults(&kept)
	if err != nil {
		t.Fatal(err)
	}
	if len(tests) != 1 || tests[0].Name != "TestPrintSums" || tests[0].Status != passed {
		t.Errorf("kept %+v", tests)
	}
	nowhere := newReport(&out)
	err = runStage("go test -json ./nowhere", &kept, nowhere)
	if err == nil && nowhere.close(nil, 0) == nil {
		t.Error("a stage without packages passed")
	}
	if err := runStage("go no-such-verb", &kept, newReport(&out)); err == nil {
		t.Error("a command that is none passed")
	}
}

func TestReadSkips(t *testing.T) {
	file := filepath.Join(t.TempDir(), "skips.md")
	text := "# Skips\n\n| test | says | reason |\n|---|---|---|\n| `test/e2e.TestX/a case` | `no nft` | needs nft |\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := readSkips(file)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]skip{{"test/e2e.TestX/a case", "no nft", "needs nft"}}, got, cmp.AllowUnexported(skip{})); d != "" {
		t.Error(d)
	}
	if err := os.WriteFile(file, []byte("| `test/e2e.TestX` | `no nft` |  |\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readSkips(file); err == nil {
		t.Error("a skip without a reason was accepted")
	}
}

func TestPlaces(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "p"), 0o755); err != nil {
		t.Fatal(err)
	}
	source := "package p\n\nfunc f(a, b int) string {\n\tif a == b && true {\n\t\treturn \"x\" + \"y\"\n\t}\n\treturn g(7)\n}\n"
	if err := os.WriteFile(filepath.Join(dir, "p", "p.go"), []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	places, err := findPlaces(dir, []string{"p"}, 1)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range places {
		broken := string(p.apply([]byte(source)))
		if broken == source {
			t.Errorf("%s changed nothing", p.what)
		}
		got = append(got, p.what)
	}
	want := map[string]bool{
		"line 4: == became !=": true, "line 4: && became ||": true,
		"line 4: true became false": true, "line 7: 7 became 8": true,
	}
	if len(got) != len(want) {
		t.Errorf("got %q", got)
	}
	for _, g := range got {
		if !want[g] {
			t.Errorf("unexpected %q", g)
		}
	}
}

// Each part gets its share of what is left, a fault of one does not stop the
// others, and what they saw stands in one table.
func TestSoak(t *testing.T) {
	var out bytes.Buffer
	budgets := map[string]time.Duration{}
	says := func(name, saw string, err error) part {
		return part{name, 0.5, func(_ context.Context, _ io.Writer, total time.Duration) (string, error) {
			budgets[name] = total
			return saw, err
		}}
	}
	synctest.Test(t, func(t *testing.T) { // where time passes when all wait, and not while anybody works
		err := soak(t.Context(), &out, []part{says("one", "a fault", errors.New("broken")), says("two", "17 tries", nil)}, time.Minute)
		if err == nil || err.Error() != "one: broken" {
			t.Errorf("got %v", err)
		}
	})
	if b := budgets["one"]; b != 30*time.Second {
		t.Errorf("the first part has %v", b)
	}
	// The first one took none of its half.
	if b := budgets["two"]; b != time.Minute {
		t.Errorf("the second part has %v", b)
	}
	text := regexp.MustCompile(` +`).ReplaceAllString(out.String(), " ")
	for _, want := range []string{"one 0s FOUND a fault\n", "two 0s none 17 tries\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("the table lacks %q:\n%s", want, text)
		}
	}
	t.Run("a part whose time is over is cut off with all that it started", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if err := command(ctx, "sh", "-c", "sleep 60 & wait").Run(); err == nil || ctx.Err() == nil {
			t.Errorf("it ended with %v", err)
		}
	})
	t.Run("every part names tests that exist", func(t *testing.T) {
		shares := 0.0
		for _, p := range soakParts(1) {
			shares += p.share
		}
		if shares < 0.99 || shares > 1.01 {
			t.Errorf("the shares are %v together", shares)
		}
		for name, file := range map[string]string{"TestKilledUnderWrites": "../faults", "TestHistoriesWithFaults": "../faults", "TestNothingLeaks": "../../cmd/evermeshd"} {
			if out, err := exec.Command("grep", "-rl", "^func "+name+"(", file).CombinedOutput(); err != nil {
				t.Errorf("%s has no %s: %v %s", file, name, err, out)
			}
		}
	})
	if got := told([]byte("=== RUN TestX\n    x_test.go:1: first\n    y_test.go:22: 31 kills\n--- PASS\n")); got != "31 kills" {
		t.Errorf("told %q", got)
	}
	if got := executions([]byte("fuzz: elapsed: 3s, execs: 11123 (3707/sec)\nfuzz: elapsed: 6s, execs: 31146 (1/sec)\n")); got != 31146 {
		t.Errorf("counted %d", got)
	}
}
