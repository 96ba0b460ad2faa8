package main

import (
	"errors"
	"os"
	"os/exec"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/evermesh/evermesh/internal/testenv"
)

// The program itself is a command of the scripts under testdata: each is one
// story, with its files.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"evermesh": main})
}

func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			withPlane(t, env)
			return setup(env)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"asked":    askedCommand,
			"call":     callCommand(t),
			"create":   createCommand(t),
			"exitcode": exitCode,
			"ledger":   tellCommand,
			"shared":   sharedCommand(t),
			"validate": validate,
		},
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

// validate has the real Envoy check configuration files: validate FILE…
func validate(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: validate FILE …")
	}
	envoy, err := testenv.FindEnvoy()
	ts.Check(err)
	for _, name := range args {
		ts.Check(ts.Exec(envoy, "--mode", "validate", "--log-level", "error", "-c", ts.MkAbs(name)))
	}
}
