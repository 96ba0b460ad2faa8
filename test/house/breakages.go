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
	if fails, err := notices(ctx, copyDir); fails || err != nil {
		return "", errors.Join(err, errors.New("the tests fail before anything is broken"))
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

// notices says whether the tests of the broken packages fail in dir.
func notices(ctx context.Context, dir string) (bool, error) {
	args := []string{"test", "-count=1", "-timeout", "5m"}
	for _, p := range brokenPackages {
		args = append(args, "./"+p)
	}
	cmd := command(ctx, "go", args...)
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
