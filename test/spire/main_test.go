//go:build linux && spire

package spire

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/evermesh/evermesh/test/ground"
	"github.com/evermesh/evermesh/test/stage"
)

// world is what the tests stand on.
var world struct {
	*stage.Stage
	control *stage.Control
	envoy   string // its version
}

func TestMain(m *testing.M) {
	stage.Play()
	exit, inside, err := ground.Enter(context.Background())
	var missing *ground.Missing
	switch {
	case inside:
		os.Exit(runInside(m))
	case errors.As(err, &missing), err != nil:
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(exit)
}

func runInside(m *testing.M) (code int) {
	g, err := ground.New()
	if err == nil {
		defer func() {
			if g.Keep = code != 0; g.Keep {
				fmt.Println("the logs of all programs are in", g.Dir())
			}
			if err := g.Close(); err != nil {
				fmt.Fprintln(os.Stderr, err)
				code = max(code, 1)
			}
		}()
		err = begin(context.Background(), g)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

func begin(ctx context.Context, g *ground.Ground) error {
	programs, err := stage.Find()
	if err != nil {
		return err
	}
	if world.envoy, err = programs.EnvoyVersion(ctx); err != nil {
		return err
	}
	if world.Stage, err = stage.New(g, programs); err != nil {
		return err
	}
	world.control, err = world.Control(ctx, stage.ControlOptions{})
	return err
}
