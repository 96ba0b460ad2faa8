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

// testFiles prints package=file for each test file.
const testFiles = `{{range .TestGoFiles}}{{$.ImportPath}}={{$.Dir}}/{{.}}{{"\n"}}{{end}}{{range .XTestGoFiles}}{{$.ImportPath}}={{$.Dir}}/{{.}}{{"\n"}}{{end}}`

var fuzzTest = regexp.MustCompile(`(?m)^func (Fuzz\w+)\(`)

// fuzz divides the time among all fuzz tests of the module.
func fuzz(ctx context.Context, w io.Writer, total time.Duration) (string, error) {
	type target struct{ pkg, name string }
	var targets []target
	files, err := goList(testFiles)
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

// firstTries is how often each property is tried in the first round, as often as
// in the tests: some look whether chance brought all that they are about. Every
// round tries twice as often as the one before, so that with little time too
// each property has its turn.
const firstTries = 100

var (
	testFunc     = regexp.MustCompile(`(?m)^func (Test\w+)\(`)
	propertyCall = regexp.MustCompile(`\brapid\.Check\(`)
)

// propertiesIn names the tests of a file that check a property.
func propertiesIn(text string) []string {
	var out []string
	starts := testFunc.FindAllStringSubmatchIndex(text, -1)
	for i, m := range starts {
		end := len(text)
		if i+1 < len(starts) {
			end = starts[i+1][0]
		}
		if propertyCall.MatchString(text[m[1]:end]) {
			out = append(out, text[m[2]:m[3]])
		}
	}
	return out
}

// properties tries the module's properties again and again, each time with new
// seeds, until the time is over. What the time cuts off is not counted.
func properties(ctx context.Context, w io.Writer, total time.Duration) (string, error) {
	files, err := goList(testFiles)
	if err != nil {
		return "", err
	}
	var packages []string
	names := map[string][]string{}
	for _, line := range files {
		pkg, file, _ := strings.Cut(line, "=")
		text, err := os.ReadFile(file)
		if err != nil {
			return "", err
		}
		if found := propertiesIn(string(text)); len(found) > 0 {
			if names[pkg] == nil {
				packages = append(packages, pkg)
			}
			names[pkg] = append(names[pkg], found...)
		}
	}
	if len(packages) == 0 {
		return "", errors.New("found no property")
	}
	ctx, cancel := context.WithTimeout(ctx, total)
	defer cancel()
	most := map[string]int{}
	for tries := firstTries; ; tries *= 2 {
		for _, pkg := range packages {
			out, err := command(ctx, "go", "test", "-count=1", "-timeout", "60m", "-run", "^("+strings.Join(names[pkg], "|")+")$", pkg, "-rapid.checks="+strconv.Itoa(tries)).CombinedOutput()
			if ctx.Err() != nil {
				return held(names, most), nil
			}
			if err != nil {
				fmt.Fprintf(w, "%s", out)
				return fmt.Sprintf("%s failed", pkg), err
			}
			most[pkg] = tries
		}
	}
}

// held sums up how many properties held, and in how many tries of a round.
func held(names map[string][]string, most map[string]int) string {
	all, tried, least := 0, 0, 0
	for pkg, tests := range names {
		all += len(tests)
		if n := most[pkg]; n > 0 {
			tried += len(tests)
			if least == 0 || n < least {
				least = n
			}
		}
	}
	return fmt.Sprintf("%d of %d tests of properties held in %d tries and more", tried, all, least)
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
