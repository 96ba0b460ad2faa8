// Command evermesh-agent runs beside a workload's Envoy: it starts Envoy and relays its xDS stream (agent.go), and
// as `evermesh-agent intercept` it redirects the workload's traffic into Envoy (intercept.go).
//
// It takes the place of the agent and of the route manager of App Mesh's images, so its flags are theirs.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
)

// version is set by the build with -ldflags -X.
var version = "devel"

// Exit codes of the program: interfaces promise them.
const (
	exitFailure = 1
	exitUsage   = 2
)

func main() {
	ctx := context.Background()
	if first(os.Args[1:]) != "intercept" { // which waits for its input, and leaves the rules when it is ended
		var stop context.CancelFunc
		ctx, stop = signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM, syscall.SIGQUIT)
		// A second signal ends the program at once, and Envoy with it.
		context.AfterFunc(ctx, stop)
	}
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run is the program with what it touches given; it returns the exit code.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr *os.File) int {
	var err error
	switch first(args) {
	case "version":
		_, err = fmt.Fprintln(stdout, "evermesh-agent", versionText())
	case "help":
		_, err = fmt.Fprint(stdout, helpText)
	case "intercept":
		err = intercepting(ctx, args[1:], os.Getenv, os.Environ(), stdin, stdout)
	default:
		err = supervising(ctx, args, stdout, stderr)
	}
	if err == nil {
		return 0
	}
	var exit *exitError
	if !errors.As(err, &exit) {
		exit = &exitError{exitFailure, err.Error()}
	}
	if exit.text != "" {
		fmt.Fprintf(stderr, "evermesh-agent: %s\n", exit.text)
	}
	return exit.code
}

func first(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}

// exitError is an error with an exit code of its own; without text it was told already.
type exitError struct {
	code int
	text string
}

func (e *exitError) Error() string { return e.text }

// versionText is the version with the Go release that built it.
func versionText() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return version
	}
	return version + " (" + info.GoVersion + ")"
}

// oneLine is an error of several lines as one.
func oneLine(err error) string { return strings.ReplaceAll(strings.TrimSpace(err.Error()), "\n", "; ") }
