package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"
)

// brokenPackages are the ones whose lines are broken on purpose: what they say
// wrong reaches a proxy, and no compiler notices.
var brokenPackages = []string{"internal/mesh", "internal/envoy"}

// breakages breaks one random place at a time in a copy of the module and
// reports which no test noticed. Survivors are a list to read, not a failure:
// some changes mean the same.
func breakages(ctx context.Context, w io.Writer, total time.Duration, seed uint64) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, total)
	defer cancel()
	copyDir, err := os.MkdirTemp("", "evermesh-breakages-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(copyDir)
	if err := copyModule(copyDir); err != nil {
		return "", err
	}
	places, err := findPlaces(copyDir, brokenPackages, seed)
	if err != nil {
		return "", err
	}
	if out, err := vetted(ctx, copyDir); ctx.Err() != nil {
		return "no time to break anything", nil
	} else if err != nil {
		return "", fmt.Errorf("the code is broken already: %w\n%s", err, out)
	}
	tried, noticed := 0, 0
	for _, p := range places {
		was, err := os.ReadFile(p.file)
		if err != nil {
			return "", err
		}
		if err := os.WriteFile(p.file, p.apply(was), 0o644); err != nil {
			return "", err
		}
		found, err := notices(ctx, copyDir)
		if restore := os.WriteFile(p.file, was, 0o644); restore != nil {
			return "", restore
		}
		if ctx.Err() != nil {
			break
		}
		if err != nil {
			return "", err
		}
		tried++
		if found {
			noticed++
			continue
		}
		fmt.Fprintf(w, "breakages: no test noticed %s: %s\n", strings.TrimPrefix(p.file, copyDir+"/"), p.what)
	}
	return fmt.Sprintf("%d of %d noticed", noticed, tried), nil
}

// vetted compiles the packages with their tests; a place that does not compile
// counts as noticed, so what was there before must.
func vetted(ctx context.Context, dir string) ([]byte, error) {
	args := []string{"vet"}
	for _, p := range brokenPackages {
		args = append(args, "./"+p)
	}
	cmd := command(ctx, "go", args...)
	cmd.Dir = dir
	return cmd.CombinedOutput()
}

// quick are the tests that need no Envoy to run; they notice most, in seconds.
const quick = "Golden|Check|Quota|Missing|Snapshot|View|Index|Build|Hash"

// notices says whether the tests of the broken packages fail in dir.
func notices(ctx context.Context, dir string) (bool, error) {
	for _, run := range []string{quick, "."} {
		args := []string{"test", "-count=1", "-failfast", "-timeout", "5m", "-run", run}
		for _, p := range brokenPackages {
			args = append(args, "./"+p)
		}
		cmd := command(ctx, "go", args...)
		cmd.Dir = dir
		var exit *exec.ExitError
		if err := cmd.Run(); errors.As(err, &exit) {
			return true, nil
		} else if err != nil {
			return false, err
		}
	}
	return false, nil
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
