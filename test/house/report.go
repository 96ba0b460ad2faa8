package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// modulePath is cut from package paths to keep lines short.
const modulePath = "github.com/evermesh/evermesh/"

// report prints a run for a person: one line a package, everything that a
// failed test printed, and a closing line with the sums.
type report struct {
	w                        io.Writer
	passed, failed, packages int
	skips                    map[string]string   // test: what it said
	output                   map[string][]string // of tests and packages that have not ended well
	perPackage               map[string]int
	broken                   []string // packages and tests that failed
}

func newReport(w io.Writer) *report {
	return &report{w: w, skips: map[string]string{}, output: map[string][]string{}, perPackage: map[string]int{}}
}

func (r *report) add(e event) {
	pkg := strings.TrimPrefix(e.Package, modulePath)
	name := pkg
	if e.Test != "" {
		name += "." + e.Test
	}
	switch e.Action {
	case "", "build-output":
		fmt.Fprint(r.w, e.Output)
	case "build-fail":
		fmt.Fprintf(r.w, "FAIL  %s does not build\n", strings.TrimPrefix(e.ImportPath, modulePath))
	case "output":
		r.output[name] = append(r.output[name], e.Output)
	case passed, failed, skipped:
		r.end(e, pkg, name)
		delete(r.output, name)
	}
}

func (r *report) end(e event, pkg, name string) {
	if e.Test == "" {
		r.endPackage(e, pkg)
		return
	}
	r.perPackage[pkg]++
	switch e.Action {
	case passed:
		r.passed++
	case skipped:
		r.skips[name] = strings.Join(r.output[name], "")
	case failed:
		r.failed++
		r.broken = append(r.broken, name)
		fmt.Fprintf(r.w, "\n%s", strings.Join(r.output[name], ""))
	}
}

func (r *report) endPackage(e event, pkg string) {
	switch e.Action {
	case passed:
		r.packages++
		fmt.Fprintf(r.w, "ok    %-40s %4d tests %7.1fs\n", pkg, r.perPackage[pkg], e.Elapsed)
	case failed:
		r.packages++
		r.broken = append(r.broken, pkg)
		// What is left of its tests are those that a panic or a time-out cut off.
		for name, lines := range r.output {
			if name != pkg && strings.HasPrefix(name, pkg+".") {
				fmt.Fprintf(r.w, "\n%s", strings.Join(lines, ""))
				delete(r.output, name)
			}
		}
		for _, line := range r.output[pkg] {
			if line != "FAIL\n" && !strings.HasPrefix(line, "FAIL\t") { // the next line says so
				fmt.Fprint(r.w, line)
			}
		}
		fmt.Fprintf(r.w, "FAIL  %-40s %4d tests %7.1fs\n", pkg, r.perPackage[pkg], e.Elapsed)
	}
}

// close prints the sums and returns an error when the run does not count as
// passed: a failure, no test at all, or a skip that listed does not explain.
func (r *report) close(listed []skip, took time.Duration) error {
	var unexplained []string
	for _, name := range slices.Sorted(maps.Keys(r.skips)) {
		if !slices.ContainsFunc(listed, func(s skip) bool { return s.covers(name, r.skips[name]) }) {
			unexplained = append(unexplained, name)
		}
	}
	for _, name := range r.broken {
		fmt.Fprintln(r.w, "failed:", name)
	}
	for _, name := range unexplained {
		fmt.Fprintf(r.w, "skipped: %s: say why in docs/skips.md, or let it run\n%s", name, r.skips[name])
	}
	fmt.Fprintf(r.w, "%d tests in %d packages: %d passed, %d failed, %d skipped (%d without a reason in docs/skips.md), in %s\n",
		r.passed+r.failed+len(r.skips), r.packages, r.passed, r.failed, len(r.skips), len(unexplained), took.Round(time.Second))
	switch {
	case len(r.broken) > 0:
		return errors.New("tests failed")
	case len(unexplained) > 0:
		return errors.New("tests were skipped without a reason")
	case r.passed == 0:
		return errors.New("no test ran")
	}
	return nil
}

// runStage runs one `go test -json` command, keeps its events and reports them.
// Tests that fail are the report's business; an error is a command that could
// not run, or failed without saying which test it was.
func runStage(command string, results io.Writer, r *report) error {
	fmt.Fprintln(r.w, command)
	words := strings.Fields(command)
	if len(words) == 0 {
		return errors.New("empty stage")
	}
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	broken := len(r.broken)
	readErr := readEvents(out, func(e event, line []byte) error {
		r.add(e)
		if e.Action == "" {
			return nil
		}
		_, err := results.Write(line)
		return err
	})
	if err := cmd.Wait(); err != nil && len(r.broken) == broken {
		return fmt.Errorf("%s: %w", command, err)
	}
	return readErr
}
