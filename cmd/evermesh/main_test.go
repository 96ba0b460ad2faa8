package main

import (
	"errors"
	"os"
	"os/exec"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// The program itself is a command of the scripts under testdata: each is one
// story, with its files.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"evermesh": main})
}

func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:   "testdata",
		Setup: setup,
		Cmds:  map[string]func(*testscript.TestScript, bool, []string){"exitcode": exitCode},
	})
}

// setup gives a script a home of its own and none of the caller's settings of
// AWS's tools.
func setup(env *testscript.Env) error {
	env.Setenv("HOME", env.WorkDir)
	env.Setenv("AWS_CONFIG_FILE", env.WorkDir+"/.aws/config")
	env.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	return os.MkdirAll(env.WorkDir+"/.aws", 0o700)
}

// exitCode runs a command that must end with the code: exitcode 2 evermesh …
func exitCode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exitcode N command …")
	}
	want, err := strconv.Atoi(args[0])
	if err != nil {
		ts.Fatalf("%v", err)
	}
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
