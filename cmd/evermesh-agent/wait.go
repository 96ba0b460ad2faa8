package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/evermesh/evermesh/internal/agent/httpapi"
	"github.com/evermesh/evermesh/internal/agent/settings"
)

const waitHelp = `evermesh-agent wait waits until the agent beside this container says that Envoy is ready, and then becomes COMMAND:
the same process, so signals and the exit code are COMMAND's. Without COMMAND it only waits.

  evermesh-agent wait [--timeout D] [--quit-after] [-- COMMAND …]

  --timeout D    how long to wait, such as 90s; 0 asks once (APPNET_AGENT_POLL_ENVOY_READINESS_TIMEOUT_S, else 180 s)
  --quit-after   for jobs: COMMAND becomes a child, which gets the signals that come; when it ends, the agent is told
                 to drain and end, for up to 10 s, and its exit code is this one's

The agent is asked over its HTTP interface, which it has with APPNET_AGENT_ADMIN_MODE. The same variables say here
where that is: APPNET_AGENT_ADMIN_MODE (tcp), APPNET_AGENT_HTTP_PORT (9902), APPNET_AGENT_ADMIN_UDS_PATH.

Exit codes: 0 Envoy is ready and there is no COMMAND, 1 it was not ready in time, 2 wrong use, 126 COMMAND cannot be
run, 127 there is no COMMAND of that name; with --quit-after COMMAND's, or 128 and the number of the signal that
ended it, or 125 when COMMAND ended with 0, but an agent that is there was not told to end.
`

// waitPoll is how often the agent is asked: it takes ten requests a second, of all who ask.
const waitPoll = 500 * time.Millisecond

func waiting(ctx context.Context, args []string, std streams) error {
	s := settings.ForClient(os.Getenv, os.Getuid())
	flags := flag.NewFlagSet("wait", flag.ContinueOnError)
	timeout := flags.Duration("timeout", s.ReadinessTimeout, "")
	after := flags.Bool("quit-after", false, "")
	if err := parse("wait", flags, args); err != nil {
		return err
	}
	command := flags.Args()
	switch {
	case *timeout < 0:
		return usage("wait", fmt.Errorf("--timeout: %s is no time to wait", *timeout))
	case *after && len(command) == 0:
		return usage("wait", errors.New("--quit-after takes a command"))
	}
	path := ""
	if len(command) > 0 { // better told now than after the wait
		var err error
		if path, err = exec.LookPath(command[0]); err != nil {
			return notRun(command[0], err)
		}
	}
	s.ReadinessInterval, s.ReadinessTimeout = waitPoll, *timeout
	if err := httpapi.Readiness(ctx, s); err != nil {
		if ctx.Err() != nil {
			return &exitError{exitFailure, "told to end before envoy was ready"}
		}
		return &exitError{exitFailure, fmt.Sprintf("envoy is not ready after %s: %s", *timeout, oneLine(err))}
	}
	switch {
	case path == "":
		return nil
	case *after:
		return runThenQuit(s, path, command, std)
	}
	signal.Reset() // ignored ones stay ignored, and COMMAND has its own ways with the others
	return notRun(command[0], syscall.Exec(path, command, os.Environ()))
}

// notRun is why a command was not run, with the shell's codes.
func notRun(name string, err error) error {
	code := exitCannot
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		code = exitNotFound
	}
	return &exitError{code, fmt.Sprintf("cannot run %s: %v", name, err)}
}

// runThenQuit is COMMAND as a child, and the agent's end after it. Signals go to COMMAND, which decides what they are
// to it; this process ends when it has.
func runThenQuit(s settings.Settings, path string, command []string, std streams) error {
	got := make(chan os.Signal, 16)
	signal.Notify(got)
	defer signal.Stop(got)
	cmd := &exec.Cmd{Path: path, Args: command, Stdin: std.in, Stdout: std.out, Stderr: std.err}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	unpin := pin()
	defer unpin()
	if err := cmd.Start(); err != nil {
		return notRun(command[0], err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait() // its state says how it ended
	}()
	for {
		select {
		case sig := <-got:
			if sig != syscall.SIGCHLD && sig != unix.SIGURG { // the runtime's own
				_ = cmd.Process.Signal(sig) // it may have ended just now
			}
			continue
		case <-ended:
		}
		break
	}
	left := quitAgent(s, got)
	if left != nil {
		fmt.Fprintf(std.err, "evermesh-agent: the agent was not told to end: %s\n", oneLine(left))
	}
	w, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
	switch {
	case ok && w.Signaled():
		return &exitError{exitSignal + int(w.Signal()), ""}
	case cmd.ProcessState.ExitCode() != 0:
		return &exitError{cmd.ProcessState.ExitCode(), ""}
	case left != nil && !errors.Is(left, fs.ErrNotExist) && !errors.Is(left, syscall.ECONNREFUSED): // it runs on
		return &exitError{exitNotTold, ""}
	}
	return nil
}

const (
	quitWait = 10 * time.Second // in which the agent must hear of a job's end
	quitPoll = 200 * time.Millisecond
)

// quitAgent tells the agent to end until it has heard it, or a signal says that there is no time for that.
func quitAgent(s settings.Settings, got <-chan os.Signal) error {
	ctx, cancel := context.WithTimeout(context.Background(), quitWait)
	defer cancel()
	var failed error
	for {
		_, err := ask(ctx, s, http.MethodPost, "/quit")
		if err == nil {
			return nil
		}
		if failed == nil || ctx.Err() == nil { // the end of the time says least
			failed = err
		}
		for again := time.After(quitPoll); again != nil; {
			select {
			case <-ctx.Done():
				return failed
			case sig := <-got:
				if sig == syscall.SIGTERM || sig == syscall.SIGINT {
					return failed
				}
			case <-again:
				again = nil
			}
		}
	}
}
