//go:build linux

// Package images shows that what the Dockerfiles of deploy/images put into an image works: the script that they run puts the
// same files into a folder here, and the programs run with that folder as their root, as the image's user.
package images

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/evermesh/evermesh/internal/testenv"
	"github.com/evermesh/evermesh/test/ground"
	"github.com/evermesh/evermesh/test/stage"
)

const wait = 30 * time.Second

// world is what all tests of the run stand on.
var world struct {
	*stage.Stage
	roots   string          // with a folder for each image
	missing *ground.Missing // why there is no ground; everything else is unset then
	without string          // what the images need and this machine lacks
}

func TestMain(m *testing.M) {
	stage.Play()
	exit, inside, err := ground.Enter(context.Background())
	switch {
	case inside:
		os.Exit(runInside(m))
	case errors.As(err, &world.missing):
		os.Exit(m.Run()) // every test says why it is skipped
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(exit)
}

func runInside(m *testing.M) (code int) {
	g, err := ground.New()
	if err == nil {
		defer func() {
			away := takeAway()
			g.Keep = code != 0 || away != nil
			if err := errors.Join(away, g.Close()); err != nil {
				fmt.Fprintln(os.Stderr, err)
				code = max(code, 1)
			}
		}()
		err = begin(g)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// images are the folders of deploy/images.
func images() []string { return []string{"evermeshd", "envoy", "route-manager"} }

func begin(g *ground.Ground) error {
	programs, err := stage.Find()
	if err != nil {
		return err
	}
	if world.Stage, err = stage.New(g, programs); err != nil {
		return err
	}
	for _, tool := range []string{"busybox", "nft", "chroot"} {
		if _, err := exec.LookPath(tool); err != nil {
			world.without = tool
			return nil
		}
	}
	return layOut(g, programs)
}

// layOut fills the folders. They are in a file system of their own, which takeAway takes away at once: what is mounted
// into them is never walked through.
func layOut(g *ground.Ground, programs stage.Programs) error {
	root, err := testenv.Root()
	if err != nil {
		return err
	}
	roots := filepath.Join(g.Dir(), "images")
	if err := os.Mkdir(roots, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", roots, "tmpfs", 0, "mode=0755"); err != nil {
		return fmt.Errorf("mount the images' file system: %w", err)
	}
	world.roots = roots
	parts := filepath.Join(roots, "parts")
	if err := os.Mkdir(parts, 0o755); err != nil {
		return err
	}
	bin := filepath.Dir(programs.Evermeshd)
	if root, err := testenv.Root(); err == nil && os.Getenv("EVERMESH_BIN") == "" {
		bin = filepath.Join(root, "bin")
	}
	for name, place := range map[string]string{
		"evermeshd": filepath.Join(bin, "evermeshd"), "evermesh": filepath.Join(bin, "evermesh"), "evermesh-agent": filepath.Join(bin, "evermesh-agent"),
		"evermesh-cni": filepath.Join(bin, "evermesh-cni"), "envoy": programs.Envoy,
	} {
		absolute, err := filepath.Abs(place)
		if err != nil {
			return err
		}
		if err := os.Symlink(absolute, filepath.Join(parts, name)); err != nil {
			return err
		}
	}
	for _, image := range images() {
		dest := filepath.Join(world.roots, image)
		out, err := exec.Command(filepath.Join(root, "deploy", "images", "rootfs.sh"), image, parts, dest).CombinedOutput()
		if err != nil {
			return fmt.Errorf("rootfs.sh %s: %w\n%s", image, err, out)
		}
		if err := engine(dest); err != nil {
			return err
		}
		// What a container engine adds.
		if err := os.MkdirAll(dest+"/etc", 0o755); err != nil {
			return err
		}
		for name, text := range map[string]string{"resolv.conf": fmt.Sprintf("nameserver %s\n", g.DNS().Addr().Addr()), "hosts": "127.0.0.1 localhost\n"} {
			if err := os.WriteFile(filepath.Join(dest, "etc", name), []byte(text), 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}

// engine adds to an image what a container engine does: /proc, and a few devices, each by itself.
func engine(dest string) error {
	for _, dir := range []string{"/dev", "/proc"} {
		if err := os.Mkdir(dest+dir, 0o755); err != nil {
			return err
		}
	}
	if err := unix.Mount("/proc", dest+"/proc", "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("mount /proc into an image: %w", err)
	}
	for _, device := range []string{"/dev/null", "/dev/zero", "/dev/urandom"} {
		if err := os.WriteFile(dest+device, nil, 0o644); err != nil {
			return err
		}
		if err := unix.Mount(device, dest+device, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount %s into an image: %w", device, err)
		}
	}
	for name, target := range map[string]string{"fd": "/proc/self/fd", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2"} {
		if err := os.Symlink(target, dest+"/dev/"+name); err != nil {
			return err
		}
	}
	return nil
}

// takeAway takes the images' file system away, with all that is mounted in it. If it cannot be, the folder stays.
func takeAway() error {
	if world.roots == "" {
		return nil
	}
	if err := unix.Unmount(world.roots, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("take the images away: %w", err)
	}
	return os.Remove(world.roots)
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
	c.Args = append(append(c.Args, filepath.Join(world.roots, image)), args...)
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
