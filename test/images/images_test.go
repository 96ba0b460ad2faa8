//go:build linux

package images

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/evermesh/evermesh/internal/testenv"
	"github.com/evermesh/evermesh/test/ground"
	"github.com/evermesh/evermesh/test/stage"
)

const wait = 3 * testenv.Patience

// world is what all tests of the run stand on.
var world struct {
	*stage.Stage
	roots   *Roots
	missing *ground.Missing // why there is no ground; everything else is unset then
	without string          // what the images need and this machine lacks
}

func TestMain(m *testing.M) {
	stage.Play()
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
	if world.without = Missing(); world.without != "" {
		return nil
	}
	world.roots, err = LayOut(g, programs)
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

// start is h.Start of a command in an image. The output is the user's, as with a container engine: Envoy opens it anew.
func start(t *testing.T, h *ground.Host, uid uint32, c ground.Command) *ground.Process {
	t.Helper()
	log := filepath.Join(world.Dir(), "log", h.Name()+"."+c.Name+".log")
	err := os.WriteFile(log, nil, 0o644)
	if err == nil && world.Owner().Mark == 0 {
		err = os.Chown(log, int(uid), int(uid))
	}
	if err != nil {
		t.Fatal(err)
	}
	p, err := h.Start(c)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// in is a command in the image: as its user, where the ground can tell users apart.
func in(image string, uid uint32, env []string, args ...string) ground.Command {
	chroot, _ := exec.LookPath("chroot")
	c := ground.Command{Name: image + "-" + filepath.Base(args[0]), Path: chroot, Env: env}
	if uid != 0 && world.Owner().Mark == 0 {
		c.Args = append(c.Args, fmt.Sprintf("--userspec=%d:%d", uid, uid))
	}
	c.Args = append(append(c.Args, filepath.Join(world.roots.Dir, image)), args...)
	return c
}

func newHost(t *testing.T, name string) *ground.Host {
	t.Helper()
	h, err := world.Host(name)
	if err != nil {
		t.Fatal(err)
	}
	return h
}
