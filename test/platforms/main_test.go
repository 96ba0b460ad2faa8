//go:build linux

// Package platforms runs Evermesh beside services as the pages docs/systemd.md, docs/compose.md and docs/kubernetes.md say:
// the commands of the pages, the files of deploy/, and the images' files, on hosts of the ground. What no test machine has
// (systemd as the first process, Docker's engine, a Kubernetes cluster) is stood in for by as much of it as the files use:
// what they say that is not understood here fails the test.
//
// Read it in this order: box_test.go runs one program as a unit or container; shim_test.go gives a page's commands such as
// docker to the test; page_test.go takes commands out of pages; then one file for each platform.
package platforms

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/testenv"
	"github.com/evermesh/evermesh/test/ground"
	"github.com/evermesh/evermesh/test/images"
	"github.com/evermesh/evermesh/test/stage"
)

// wait bounds a page, which starts a dozen programs.
const wait = 5 * time.Minute

// world is what all tests of the run stand on.
var world struct {
	*stage.Stage
	roots      *images.Roots
	repository string
	missing    *ground.Missing // why there is no ground; everything else is unset then
	without    string          // what the tests need and this machine lacks
}

func TestMain(m *testing.M) {
	stage.Play()
	playBox()
	playShim()
	os.Exit(ground.Main(m, &world.missing, begin, func() error { return world.roots.TakeAway() }))
}

func begin(g *ground.Ground) error {
	programs, err := stage.Find()
	if err != nil {
		return err
	}
	if world.Stage, err = stage.New(g, programs); err != nil {
		return err
	}
	if world.repository, err = testenv.Root(); err != nil {
		return err
	}
	if world.without = images.Missing(); world.without != "" {
		return nil
	}
	world.roots, err = images.LayOut(g, programs)
	return err
}

// ready skips the test where there is no ground, or no tool that images are made with.
func ready(t *testing.T) {
	t.Helper()
	if world.missing != nil {
		t.Skipf("this machine allows no ground: %v", world.missing)
	}
	if world.without != "" {
		t.Skipf("this machine has no %s", world.without)
	}
}

func newHost(t *testing.T, name string) *ground.Host {
	t.Helper()
	h, err := world.Host(name)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// tools are where the programs of the repository and those that tests use are, as a PATH.
func tools() string {
	return filepath.Join(world.repository, "bin") + ":" + filepath.Join(world.repository, "build", "tools", "bin") + ":" + os.Getenv("PATH")
}
