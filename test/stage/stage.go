//go:build linux

// Package stage sets a mesh of real processes on a [ground.Ground]: evermeshd, workloads with their agent and Envoy,
// small applications, and clients that count what they are answered. The demo, the end-to-end tests and the benchmarks
// play on it; what is shown there is shown by programs as a user runs them, through what a user can reach: the AWS SDK,
// Evermesh's own API, and traffic.
//
// Read it in this order. [Find] locates the programs; [Stage.Control] starts an evermeshd ([Control]); [Stage.App]
// starts an application, [Stage.Sidecar] an agent with its Envoy before it; [Steady] sends requests all the while and
// tells what came of them. A program that uses this package calls [Play] first: the applications are the program
// itself, started again.
package stage

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/evermesh/evermesh/internal/testenv"
	"github.com/evermesh/evermesh/test/ground"
)

// patience bounds what a program is waited for: a start, or an answer of its administration interface. A machine may be
// busy.
const patience = 2 * testenv.Patience

// Stage is a ground with the programs to run on it.
type Stage struct {
	*ground.Ground
	Programs Programs
}

// New prepares the programs for the users of the ground.
func New(g *ground.Ground, p Programs) (*Stage, error) {
	for _, path := range []*string{&p.Evermeshd, &p.Agent, &p.Envoy, &p.self} {
		place, err := g.Tool(*path)
		if err != nil {
			return nil, err
		}
		*path = place
	}
	if err := os.MkdirAll(filepath.Join(g.Dir(), "run"), 0o755); err != nil {
		return nil, fmt.Errorf("prepare stage: %w", err)
	}
	return &Stage{Ground: g, Programs: p}, nil
}

// runDir makes a directory that belongs to the user uid, for what a program keeps while it runs.
func (s *Stage) runDir(name string, uid uint32) (string, error) {
	dir := filepath.Join(s.Dir(), "run", name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		if os.IsExist(err) {
			return dir, nil
		}
		return "", fmt.Errorf("make directory: %w", err)
	}
	if uid != 0 {
		if err := os.Chown(dir, int(uid), int(uid)); err != nil {
			return "", fmt.Errorf("make directory: %w", err)
		}
	}
	return dir, nil
}

// Until polls done every few milliseconds until it is true, or ctx ends; the error then says what was waited for.
func Until(ctx context.Context, what string, done func(context.Context) bool) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !done(ctx) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("wait until %s: %w", what, context.Cause(ctx))
		}
	}
	return nil
}

// Root is the directory of the module.
func Root() (string, error) { return testenv.Root() }
