// Command evermesh-agent runs beside a workload's Envoy: it starts Envoy and relays its xDS stream (agent.go), and
// as `evermesh-agent intercept` it redirects the workload's traffic into Envoy (intercept.go). Its other verbs
// (verbs.go) talk to an agent that runs: wait for it, ask it, end it.
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
	exitFailure  = 1
	exitUsage    = 2
	exitNotTold  = 125 // wait --quit-after: the agent goes on
	exitCannot   = 126 // wait: the command cannot be run
	exitNotFound = 127 // wait: there is no such command
	exitSignal   = 128 // and the signal's number: the command of wait was ended by one
)

func main() {
	ctx, s := context.Background(), signals{}
	if first(os.Args[1:]) != "intercept" { // which waits for its input, and leaves the rules when it is ended
		ctx, s = listen(ctx)
	}
	os.Exit(run(ctx, os.Args[1:], streams{os.Stdin, os.Stdout, os.Stderr}, s))
}

// signals are what the program was told beside to end.
type signals struct {
	hurry    <-chan struct{} // closed at the second signal to end
	handOver <-chan struct{} // one for each SIGHUP
}

// listen ends the context at the first SIGTERM, SIGQUIT or SIGINT. The program does not live on after it, so nothing
// waits for what listens.
func listen(ctx context.Context) (context.Context, signals) {
	ctx, end := context.WithCancel(ctx)
	hurry, handOver := make(chan struct{}), make(chan struct{}, 1)
	got := make(chan os.Signal, 8)
	signal.Notify(got, os.Interrupt, syscall.SIGTERM, syscall.SIGQUIT, syscall.SIGHUP)
	go func() {
		for times := 0; ; {
			if s := <-got; s == syscall.SIGHUP {
				select {
				case handOver <- struct{}{}:
				default: // one is to be done anyway
				}
				continue
			}
			end()
			if times++; times == 2 {
				close(hurry)
			}
		}
	}()
	return ctx, signals{hurry, handOver}
}

// streams are what the program reads and writes.
type streams struct {
	in       io.Reader
	out, err *os.File
}

// run is the program with what it touches given; it returns the exit code.
func run(ctx context.Context, args []string, std streams, s signals) int {
	err := dispatch(ctx, args, std, s)
	if err == nil {
		return 0
	}
	var exit *exitError
	if !errors.As(err, &exit) {
		exit = &exitError{exitFailure, err.Error()}
	}
	if exit.text != "" {
		fmt.Fprintf(std.err, "evermesh-agent: %s\n", exit.text)
	}
	return exit.code
}

func dispatch(ctx context.Context, args []string, std streams, s signals) error {
	word := first(args)
	if word == "" || strings.HasPrefix(word, "-") {
		return supervising(ctx, args, std, s)
	}
	for _, v := range verbs() {
		if v.name != word {
			continue
		}
		if asksHelp(args[1:]) {
			return say(std.out, v.help)
		}
		return v.run(ctx, args[1:], std)
	}
	return unknown(word)
}

// asksHelp says whether help is asked for before what belongs to another program.
func asksHelp(args []string) bool {
	for _, a := range args {
		switch a {
		case "--":
			return false
		case "-h", "-help", "--help":
			return true
		}
	}
	return false
}

func say(out io.Writer, text string) error {
	_, err := io.WriteString(out, text)
	return err
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
