package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"time"
)

// soakVerb runs what takes too long for every change, in three equal parts of
// the time: fuzzing, properties with many more tries, and code broken on purpose.
func soakVerb(args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("soak", flag.ContinueOnError)
	minutes := flags.Float64("minutes", 10, "minutes for the whole")
	seed := flags.Uint64("seed", uint64(time.Now().UnixNano()), "seed of the breakages, to see a run again")
	if err := flags.Parse(args); err != nil {
		return err
	}
	part := time.Duration(*minutes * float64(time.Minute) / 3)
	return errors.Join(
		fuzz(stdout, part),
		properties(stdout, part),
		breakages(stdout, part, *seed),
	)
}

var fuzzTest = regexp.MustCompile(`(?m)^func (Fuzz\w+)\(`)

// fuzz divides the time among all fuzz tests of the module.
func fuzz(w io.Writer, total time.Duration) error {
	type target struct{ pkg, name string }
	var targets []target
	files, err := goList(`{{range .TestGoFiles}}{{$.ImportPath}}={{$.Dir}}/{{.}}{{"\n"}}{{end}}{{range .XTestGoFiles}}{{$.ImportPath}}={{$.Dir}}/{{.}}{{"\n"}}{{end}}`)
	if err != nil {
		return err
	}
	for _, line := range files {
		pkg, file, _ := strings.Cut(line, "=")
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		for _, m := range fuzzTest.FindAllSubmatch(text, -1) {
			targets = append(targets, target{pkg, string(m[1])})
		}
	}
	fmt.Fprintf(w, "fuzz: %d tests in %s\n", len(targets), total.Round(time.Second))
	var failures error
	for _, t := range targets {
		each := max(total/time.Duration(len(targets)), time.Second)
		out, err := exec.Command("go", "test", "-run", "^$", "-fuzz", "^"+t.name+"$", "-fuzztime", each.String(), t.pkg).CombinedOutput()
		if err != nil {
			fmt.Fprintf(w, "%s", out)
			failures = errors.Join(failures, fmt.Errorf("%s %s: %w", t.pkg, t.name, err))
			continue
		}
		fmt.Fprintf(w, "fuzz: %s %s: nothing found\n", strings.TrimPrefix(t.pkg, modulePath), t.name)
	}
	return failures
}

// properties repeats the packages that use rapid, each time with new seeds and
// with the race detector, until the time is over. A round is never cut off.
func properties(w io.Writer, total time.Duration) error {
	packages, err := goList(`{{range .TestImports}}{{if eq . "pgregory.net/rapid"}}{{$.ImportPath}}{{"\n"}}{{end}}{{end}}{{range .XTestImports}}{{if eq . "pgregory.net/rapid"}}{{$.ImportPath}}{{"\n"}}{{end}}{{end}}`)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "properties: %d packages for %s\n", len(packages), total.Round(time.Second))
	rounds := 0
	for deadline := time.Now().Add(total); time.Now().Before(deadline) && len(packages) > 0; rounds++ {
		args := append([]string{"test", "-race", "-count=1", "-timeout", "60m"}, packages...)
		out, err := exec.Command("go", append(args, "-rapid.checks=300")...).CombinedOutput()
		if err != nil {
			fmt.Fprintf(w, "%s", out)
			return fmt.Errorf("properties: %w", err)
		}
	}
	fmt.Fprintf(w, "properties: held in %d rounds of 300 tries\n", rounds)
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

// brokenPackages are the ones whose lines are broken on purpose: what they say
// wrong reaches a proxy, and no compiler notices.
var brokenPackages = []string{"internal/mesh", "internal/envoy"}

// breakages breaks one random place at a time in a copy of the module and
// reports which no test noticed. Survivors are a list to read, not a failure:
// some changes mean the same.
func breakages(w io.Writer, total time.Duration, seed uint64) error {
	copyDir, err := os.MkdirTemp("", "evermesh-breakages-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(copyDir)
	if err := copyModule(copyDir); err != nil {
		return err
	}
	places, err := findPlaces(copyDir, brokenPackages, seed)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "breakages: %d places, seed %d, for %s\n", len(places), seed, total.Round(time.Second))
	ctx, cancel := context.WithTimeout(context.Background(), total)
	defer cancel()
	tried, noticed := 0, 0
	for _, p := range places {
		was, err := os.ReadFile(p.file)
		if err != nil {
			return err
		}
		if err := os.WriteFile(p.file, p.apply(was), 0o644); err != nil {
			return err
		}
		found, err := notices(ctx, copyDir)
		if restore := os.WriteFile(p.file, was, 0o644); restore != nil {
			return restore
		}
		if ctx.Err() != nil {
			break
		}
		if err != nil {
			return err
		}
		tried++
		if found {
			noticed++
			continue
		}
		fmt.Fprintf(w, "breakages: no test noticed %s: %s\n", strings.TrimPrefix(p.file, copyDir+"/"), p.what)
	}
	fmt.Fprintf(w, "breakages: %d of %d noticed\n", noticed, tried)
	return nil
}

// notices says whether the tests of the broken packages fail in dir.
func notices(ctx context.Context, dir string) (bool, error) {
	args := []string{"test", "-count=1", "-timeout", "5m"}
	for _, p := range brokenPackages {
		args = append(args, "./"+p)
	}
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return false, err
	}
	return err != nil, nil
}

// copyModule copies the files that git knows, and the tools as a link.
func copyModule(dir string) error {
	files, err := exec.Command("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard").Output()
	if err != nil {
		return fmt.Errorf("git ls-files: %w", err)
	}
	cp := exec.Command("xargs", "-0", "cp", "--parents", "-t", dir)
	cp.Stdin = bytes.NewReader(files)
	if out, err := cp.CombinedOutput(); err != nil {
		return fmt.Errorf("copy the module: %w: %s", err, out)
	}
	here, err := os.Getwd()
	if err != nil {
		return err
	}
	return os.Symlink(here+"/build", dir+"/build")
}
