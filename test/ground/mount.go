//go:build linux

package ground

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// privateMounts keeps the mounts of an entered program to itself, and shows it its own processes in /proc. In some
// containers /proc may not be mounted again; then it shows the processes outside, which nothing here relies on.
func privateMounts() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil &&
		!errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EACCES) {
		return err
	}
	return nil
}

// makeDir makes the ground's directory with its folders bin and log. Where Envoy runs as another user, that user
// must be able to come here.
func makeDir(owner Owner) (string, error) {
	dir, err := os.MkdirTemp("", "evermesh-ground-")
	if err != nil {
		return "", err
	}
	for _, d := range []string{dir, filepath.Join(dir, "bin"), filepath.Join(dir, "log")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return dir, err
		}
		if err := os.Chmod(d, 0o755); err != nil { // whatever the umask says
			return dir, err
		}
	}
	for d := dir; owner.UID != 0 && d != filepath.Dir(d); d = filepath.Dir(d) {
		info, err := os.Stat(d)
		if err != nil {
			return dir, err
		}
		if info.Mode()&0o001 == 0 {
			return dir, fmt.Errorf("%s has mode %v, so uid %d cannot enter it", d, info.Mode().Perm(), owner.UID)
		}
	}
	return dir, nil
}

// removeDir removes a directory in which a program that was just killed may still have made a file: what such a program
// started ends with it, but not in its place.
func removeDir(dir string) (err error) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for range 300 {
		if err = os.RemoveAll(dir); !errors.Is(err, unix.ENOTEMPTY) {
			return err
		}
		<-tick.C
	}
	return err
}

// bindResolver binds a resolv.conf that names the ground's name server over the machine's, and an nsswitch.conf
// that knows nothing of multicast DNS, which would take names ending in .local away from it.
func (g *Ground) bindResolver() error {
	for _, f := range []struct{ path, text string }{
		{"/etc/resolv.conf", fmt.Sprintf("nameserver %s\noptions timeout:2 attempts:5\n", g.home.addr)},
		{"/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n"},
	} {
		target, err := filepath.EvalSymlinks(f.path)
		if errors.Is(err, os.ErrNotExist) && f.path != "/etc/resolv.conf" {
			continue // not every C library has one
		}
		if err == nil {
			source := filepath.Join(g.dir, filepath.Base(f.path))
			if err = os.WriteFile(source, []byte(f.text), 0o644); err == nil {
				err = g.bind(source, target)
			}
		}
		if err != nil {
			return step("put the ground's name server into "+f.path, "the file must exist and mounting over it be allowed", err)
		}
	}
	return nil
}

// bind mounts the file source over the file target until Close. The caller holds mu, or is New.
func (g *Ground) bind(source, target string) error {
	if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount %s on %s: %w", source, target, err)
	}
	g.mounts = append(g.mounts, target)
	return nil
}

func (g *Ground) unbind() error {
	var errs []error
	for ; len(g.mounts) > 0; g.mounts = g.mounts[:len(g.mounts)-1] {
		target := g.mounts[len(g.mounts)-1]
		if err := unix.Unmount(target, unix.MNT_DETACH); err != nil {
			errs = append(errs, fmt.Errorf("unmount %s: %w", target, err))
		}
	}
	return errors.Join(errs...)
}
