//go:build linux

// Command demo shows the main job of Evermesh on real parts: a service gets a second version, and traffic is shifted
// to it while it flows, without a failed request.
//
// It is the story of App Mesh's user guide. Service A calls service B under the name serviceb.local. Both run in
// network namespaces of their own, with an agent and an unmodified Envoy each, and their traffic is redirected into
// Envoy by real rules. The mesh is made with the AWS SDK through the public API; proxies are configured over TLS, with
// signed requests. B gets a version 2, and the route's weights go from 100/0 over 75/25 to 0/100; then the control
// plane is killed and started again; then weights are shifted once more. A visitor calls A all the while. The demo
// fails if one request does, or if traffic is split otherwise than asked.
//
// main.go prepares the ground; story.go tells the story, line by line; mesh.go makes the resources; verdict.go
// compares what was observed with what was asked. Where the machine allows no namespaces, or no redirection, demo says
// which step failed and gateway.go shows the same through one virtual gateway.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/evermesh/evermesh/test/ground"
	"github.com/evermesh/evermesh/test/stage"
)

type options struct {
	bin, envoy string
	gateway    bool // tell the story of the gateway, whatever the machine allows
	keep       bool // leave the logs
	requests   int  // to observe a split over
}

func main() {
	stage.Play()
	var o options
	flag.StringVar(&o.bin, "bin", os.Getenv("EVERMESH_BIN"), "`directory` of evermeshd and evermesh-agent (default bin of the module)")
	flag.StringVar(&o.envoy, "envoy", os.Getenv("ENVOY_PATH"), "Envoy's `file` (default envoy on PATH, else build/tools/bin/envoy)")
	flag.BoolVar(&o.gateway, "gateway", false, "show it through a virtual gateway on loopback, without namespaces and redirection")
	flag.BoolVar(&o.keep, "keep", false, "keep the logs of all programs, and say where")
	flag.IntVar(&o.requests, "requests", 2880, "observe each split over this `number` of requests")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "demo: unexpected argument %q\n", flag.Arg(0))
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, o, os.Stdout))
}

// run returns the exit code.
func run(ctx context.Context, o options, w io.Writer) int {
	tell := newTeller(w)
	programs, err := find(o)
	if err != nil {
		return tell.failed(err)
	}
	if o.gateway {
		return perform(ctx, o, tell, programs, ground.Bare, gatewayStory)
	}
	exit, inside, err := ground.Enter(ctx)
	var missing *ground.Missing
	switch {
	case inside:
		return perform(ctx, o, tell, programs, ground.New, sidecarStory)
	case errors.As(err, &missing) && ctx.Err() == nil:
		tell.line("This machine does not allow the full demo. The step that failed: %s.", missing.Step)
		tell.line("It said: %s. It takes: %s.", missing.Cause, missing.Need)
		tell.line("So the same is shown through one virtual gateway, without sidecars and redirection.")
		return perform(ctx, o, tell, programs, ground.Bare, gatewayStory)
	case err != nil:
		return tell.failed(err)
	}
	return exit
}

// find locates the programs; flags are handed to the program inside by the environment, as both have the same.
func find(o options) (stage.Programs, error) {
	for name, value := range map[string]string{"EVERMESH_BIN": o.bin, "ENVOY_PATH": o.envoy} {
		if value == "" {
			continue
		}
		if err := os.Setenv(name, value); err != nil {
			return stage.Programs{}, err
		}
	}
	return stage.Find()
}

// story shows one thing on a stage and returns what it observed.
type story func(ctx context.Context, s *stage.Stage, tell *teller, requests int) ([]observation, error)

// perform lays the ground, tells the story, and compares.
func perform(ctx context.Context, o options, tell *teller, p stage.Programs, lay func() (*ground.Ground, error), tale story) int {
	g, err := lay()
	if err != nil {
		return tell.failed(err)
	}
	var seen []observation
	s, err := stage.New(g, p)
	if err == nil {
		var version string
		if version, err = p.EnvoyVersion(ctx); err == nil {
			tell.step("real envoy: %s; all of the demo's files are in %s", version, g.Dir())
			seen, err = tale(ctx, s, tell, o.requests)
		}
	}
	interrupted := ctx.Err() != nil
	g.Keep = o.keep || (err != nil && !interrupted)
	if closed := g.Close(); closed != nil && !interrupted {
		err = errors.Join(err, closed)
	}
	if g.Keep {
		defer tell.line("The logs of all programs are in %s/log.", g.Dir())
	}
	if interrupted {
		tell.line("Interrupted; everything was stopped and removed.")
		return 130
	}
	return tell.verdict(seen, err)
}

// teller prints the progress: what has happened, and when.
type teller struct {
	w     io.Writer
	began time.Time
}

func newTeller(w io.Writer) *teller { return &teller{w, time.Now()} }

func (t *teller) line(format string, args ...any) {
	_, _ = fmt.Fprintf(t.w, format+"\n", args...) // who closed the output does not read on
}

func (t *teller) step(format string, args ...any) {
	t.line("%6.1f s  "+format, append([]any{time.Since(t.began).Seconds()}, args...)...)
}

func (t *teller) failed(err error) int {
	t.line("\nFAILED: %v", err)
	return 1
}
