package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"
)

var fuzzTest = regexp.MustCompile(`(?m)^func (Fuzz\w+)\(`)

// fuzz divides the time among all fuzz tests of the module.
func fuzz(ctx context.Context, w io.Writer, total time.Duration) (string, error) {
	type target struct{ pkg, name string }
	var targets []target
	files, err := goList(`{{range .TestGoFiles}}{{$.ImportPath}}={{$.Dir}}/{{.}}{{"\n"}}{{end}}{{range .XTestGoFiles}}{{$.ImportPath}}={{$.Dir}}/{{.}}{{"\n"}}{{end}}`)
	if err != nil {
		return "", err
	}
	for _, line := range files {
		pkg, file, _ := strings.Cut(line, "=")
		text, err := os.ReadFile(file)
		if err != nil {
			return "", err
		}
		for _, m := range fuzzTest.FindAllSubmatch(text, -1) {
			targets = append(targets, target{pkg, string(m[1])})
		}
	}
	end := time.Now().Add(total)
	var failures error
	inputs, ran := 0, 0
	for i, t := range targets {
		// Building with coverage takes a part of a target's time.
		share := time.Until(end) / time.Duration(len(targets)-i)
		started := time.Now()
		out, err := command(ctx, "go", "test", "-run", "^$", "-fuzz", "^"+t.name+"$", "-fuzztime", "1x", t.pkg).CombinedOutput()
		// However little is left, a target that is only built shows nothing.
		if left := max(share-time.Since(started), 5*time.Second); err == nil {
			out, err = command(ctx, "go", "test", "-run", "^$", "-fuzz", "^"+t.name+"$", "-fuzztime", left.Round(time.Second).String(), t.pkg).CombinedOutput()
		}
		if ctx.Err() != nil {
			return fmt.Sprintf("%d of %d targets", ran, len(targets)), errors.Join(failures, fmt.Errorf("%s did not end in time", t.name))
		}
		if err != nil {
			fmt.Fprintf(w, "%s", out)
			failures = errors.Join(failures, fmt.Errorf("%s %s: %w", t.pkg, t.name, err))
			continue
		}
		ran++
		tried := executions(out)
		inputs += tried
		fmt.Fprintf(w, "fuzz: %s %s: nothing found in %d inputs\n", strings.TrimPrefix(t.pkg, modulePath), t.name, tried)
	}
	return fmt.Sprintf("%d targets, %d inputs", ran, inputs), failures
}

var execs = regexp.MustCompile(`execs: (\d+)`)

// executions is the last count of inputs that the fuzzer printed.
func executions(out []byte) int {
	all := execs.FindAllSubmatch(out, -1)
	if len(all) == 0 {
		return 0
	}
	n, err := strconv.Atoi(string(all[len(all)-1][1]))
	if err != nil {
		return 0
	}
	return n
}

// tries is how often each property is tried in a round.
const tries = 300

// properties repeats the packages that use rapid, each time with new seeds and
// with the race detector where there is a C compiler, until the time is over. A
// round that the time cuts off is not counted.
func properties(ctx context.Context, w io.Writer, total time.Duration) (string, error) {
	packages, err := goList(`{{range .TestImports}}{{if eq . "pgregory.net/rapid"}}{{$.ImportPath}}{{"\n"}}{{end}}{{end}}{{range .XTestImports}}{{if eq . "pgregory.net/rapid"}}{{$.ImportPath}}{{"\n"}}{{end}}{{end}}`)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, total)
	defer cancel()
	race := raceDetector()
	done := 0
	for i := 0; ctx.Err() == nil && len(packages) > 0; i++ {
		pkg := packages[i%len(packages)]
		args := append([]string{"test", "-count=1", "-timeout", "60m"}, race...)
		out, err := command(ctx, "go", append(args, pkg, "-rapid.checks="+strconv.Itoa(tries))...).CombinedOutput()
		if ctx.Err() != nil {
			break
		}
		if err != nil {
			fmt.Fprintf(w, "%s", out)
			return fmt.Sprintf("%s failed", pkg), err
		}
		done++
	}
	return fmt.Sprintf("%d packages held in %d runs of %d tries", min(done, len(packages)), done, tries), nil
}

// raceDetector is the flag for it, where there is the C compiler that it needs.
func raceDetector() []string {
	for _, compiler := range []string{"gcc", "clang", "cc"} {
		if _, err := exec.LookPath(compiler); err == nil {
			return []string{"-race"}
		}
	}
	return nil
}

// goList prints one line a package by a template and returns the distinct ones.
func goList(template string) ([]string, error) {
	out, err := exec.Command("go", "list", "-e", "-f", template, "./...").Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	var lines []string
	seen := map[string]bool{}
	for _, line := range strings.Fields(string(out)) {
		if !seen[line] {
			seen[line] = true
			lines = append(lines, line)
		}
	}
	return lines, nil
}
