package main

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/evermesh/evermesh/internal/client"
	"github.com/evermesh/evermesh/internal/testenv"
)

// The program itself is a command of the scripts under testdata, and what the
// tests of its life start as a process of its own.
func TestMain(m *testing.M) {
	testenv.HoldSmallDisk()
	testscript.Main(m, map[string]func(){"evermeshd": main})
}

func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			env.Setenv("HOME", env.WorkDir)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exitcode": exitCode, "ready": ready, "mode": mode},
	})
}

// ready waits until the control plane on a data directory is up: ready DIR.
func ready(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: ready DIR")
	}
	deadline := time.After(within)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		// Without the file the facts are defaults, where another control plane may be.
		_, err := os.Stat(filepath.Join(ts.MkAbs(args[0]), client.FactsFile))
		if facts, unread := client.ReadFacts(ts.MkAbs(args[0])); err == nil && unread == nil {
			if conn, err := net.Dial("tcp", strings.TrimPrefix(facts.APIEndpoint, "http://")); err == nil {
				ts.Check(conn.Close())
				return
			}
		}
		select {
		case <-tick.C:
		case <-deadline:
			ts.Fatalf("evermeshd on %s is not up within %v", args[0], within)
		}
	}
}

// mode compares a file's permissions: mode 600 FILE.
func mode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: mode OCTAL FILE")
	}
	info, err := os.Stat(ts.MkAbs(args[1]))
	ts.Check(err)
	if got := strconv.FormatUint(uint64(info.Mode().Perm()), 8); got != args[0] {
		ts.Fatalf("%s has mode %s, want %s", args[1], got, args[0])
	}
}

// exitCode runs a command that must end with the code: exitcode 2 evermeshd …
func exitCode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exitcode N command …")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// self is the program under test.
func self(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("evermeshd") // testscript.Main put it on PATH
	if err != nil {
		path, err = os.Executable()
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}
