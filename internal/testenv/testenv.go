// Package testenv is what the tests of many packages need of the machine that
// they run on: Envoy is where [Envoy] and [FindEnvoy] find it, and what happens
// soon, [Eventually] waits for as long as a busy machine may take.
package testenv

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// Patience is how long tests wait for what has to come; much, because a machine
// may be busy.
const Patience = 30 * time.Second

// Eventually waits until ok returns true; what says what is waited for.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	late := time.NewTimer(Patience)
	defer late.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-late.C:
			t.Fatalf("not within %v: %s", Patience, what)
		}
	}
}

// EventuallyAll waits until count is want, for as long as it goes on: each time that it has
// become another the [Patience] begins anew. It is for many things that a busy machine
// does one after the other.
func EventuallyAll(t testing.TB, what string, want int, count func() int) {
	t.Helper()
	for is := count(); is != want; {
		was := is
		Eventually(t, fmt.Sprintf("%s: another than %d of %d", what, was, want), func() bool {
			is = count()
			return is != was
		})
	}
}

// Root is the directory of the module: the nearest one at or above the working
// directory that has a go.mod.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find module: %w", err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", fmt.Errorf("find module: no go.mod above the working directory: %w", fs.ErrNotExist)
		}
		dir = up
	}
}

// FindEnvoy is the path of the Envoy to test with: ENVOY_PATH, then envoy on
// PATH, then what make tools installs in the module.
func FindEnvoy() (string, error) {
	if path := os.Getenv("ENVOY_PATH"); path != "" {
		if _, err := os.Stat(path); err != nil {
			return "", fmt.Errorf("find Envoy: ENVOY_PATH: %w", err)
		}
		return path, nil
	}
	if path, err := exec.LookPath("envoy"); err == nil {
		return path, nil
	}
	root, err := Root()
	if err != nil {
		return "", err
	}
	path := filepath.Join(root, "build", "tools", "bin", "envoy")
	if _, err := os.Stat(path); err != nil {
		return "", errors.New("find Envoy: there is none: run make tools, or name one in ENVOY_PATH")
	}
	return path, nil
}

// Envoy is FindEnvoy for a test that cannot do without.
func Envoy(t testing.TB) string {
	t.Helper()
	path, err := FindEnvoy()
	if err != nil {
		t.Fatal(err)
	}
	return path
}
