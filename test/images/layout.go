//go:build linux

// Package images shows that what the Dockerfiles of deploy/images put into an image works: the script that they run puts the
// same files into a folder here ([LayOut]), and the programs run with that folder as their root, as the image's user.
package images

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/evermesh/evermesh/internal/testenv"
	"github.com/evermesh/evermesh/test/ground"
	"github.com/evermesh/evermesh/test/stage"
)

// Names are the folders of deploy/images.
func Names() []string { return []string{"evermeshd", "envoy", "route-manager"} }

// Roots are images as folders, in a file system of their own: TakeAway takes it away at once, and what is mounted into
// them is never walked through.
type Roots struct {
	Dir   string // with a folder for each image
	Parts string // with the programs that images are made of, as links
}

// Missing is what this machine lacks of what images are put together from; "" is nothing.
func Missing() string {
	for _, tool := range []string{"busybox", "nft", "chroot"} {
		if _, err := exec.LookPath(tool); err != nil {
			return tool
		}
	}
	return ""
}

// LayOut fills the folders, below the ground's. The caller must take them away before it closes the ground.
func LayOut(g *ground.Ground, programs stage.Programs) (*Roots, error) {
	r := &Roots{Dir: filepath.Join(g.Dir(), "images")}
	if err := os.Mkdir(r.Dir, 0o755); err != nil {
		return nil, err
	}
	if err := unix.Mount("tmpfs", r.Dir, "tmpfs", 0, "mode=0755"); err != nil {
		return nil, fmt.Errorf("mount the images' file system: %w", err)
	}
	return r, r.fill(g, programs)
}

func (r *Roots) fill(g *ground.Ground, programs stage.Programs) error {
	root, err := testenv.Root()
	if err != nil {
		return err
	}
	r.Parts = filepath.Join(r.Dir, "parts")
	if err := os.Mkdir(r.Parts, 0o755); err != nil {
		return err
	}
	bin := filepath.Dir(programs.Evermeshd)
	if os.Getenv("EVERMESH_BIN") == "" {
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
		if err := os.Symlink(absolute, filepath.Join(r.Parts, name)); err != nil {
			return err
		}
	}
	for _, image := range Names() {
		dest := filepath.Join(r.Dir, image)
		out, err := exec.Command(filepath.Join(root, "deploy", "images", "rootfs.sh"), image, r.Parts, dest).CombinedOutput()
		if err != nil {
			return fmt.Errorf("rootfs.sh %s: %w\n%s", image, err, out)
		}
		if err := Engine(dest); err != nil {
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

// Engine adds to an image what a container engine does: /proc, and a few devices, each by itself.
func Engine(dest string) error {
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

// TakeAway takes the images' file system away, with all that is mounted in it. If it cannot be, the folder stays.
func (r *Roots) TakeAway() error {
	if r == nil {
		return nil
	}
	if err := unix.Unmount(r.Dir, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("take the images away: %w", err)
	}
	return os.Remove(r.Dir)
}
