//go:build linux

package platforms

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/evermesh/evermesh/test/ground"
)

// boxVariable makes this program what a container engine or systemd is between fork and exec: its value is a [box].
const boxVariable = "EVERMESH_PLATFORMS_BOX"

// box is a program with what it is shut into. Its mounts are its own: nobody else sees them, and they end with it.
type box struct {
	Root     string   // folder that becomes /
	ReadOnly bool     // the root, but for mounts
	Mounts   []volume // in order
	User     int      // user and group; 0 is root
	Groups   []int    // further ones
	Caps     []int    // the only capabilities that root, or the programs it starts, may have
	NoGain   bool     // no_new_privs
	Hostname string   // "" is the machine's
	Dir      string   // working directory; "" is /
	Args     []string // the program by its path in the root, and its arguments
}

// volume is a file or folder of the machine at a place in the root.
type volume struct {
	Source, Target string
	ReadOnly       bool
}

// capabilities by the names that units and manifests have for them.
func capability(name string) (int, error) {
	numbers := map[string]int{"NET_ADMIN": unix.CAP_NET_ADMIN, "NET_RAW": unix.CAP_NET_RAW, "NET_BIND_SERVICE": unix.CAP_NET_BIND_SERVICE}
	n, ok := numbers[strings.TrimPrefix(name, "CAP_")]
	if !ok {
		return 0, fmt.Errorf("capability %s is not understood here", name)
	}
	return n, nil
}

// playBox becomes the program of the box in the environment. Without one it returns at once.
func playBox() {
	text := os.Getenv(boxVariable)
	if text == "" {
		return
	}
	runtime.LockOSThread() // what is shut off is this thread, and exec is by it
	var b box
	err := json.Unmarshal([]byte(text), &b)
	if err == nil {
		err = b.enter()
	}
	if err == nil {
		env := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, boxVariable+"=") })
		path := b.Args[0]
		if !strings.Contains(path, "/") {
			if path, err = exec.LookPath(path); err != nil { // by PATH, in the root
				fmt.Fprintln(os.Stderr, "box:", err)
				os.Exit(127)
			}
		}
		err = syscall.Exec(path, b.Args, env)
	}
	fmt.Fprintln(os.Stderr, "box:", err)
	os.Exit(126)
}

func (b *box) enter() error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("unshare mounts: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount(b.Root, b.Root, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("mount %s: %w", b.Root, err)
	}
	if b.Hostname != "" {
		if err := unix.Unshare(unix.CLONE_NEWUTS); err != nil {
			return fmt.Errorf("unshare the host's name: %w", err)
		}
		if err := unix.Sethostname([]byte(b.Hostname)); err != nil {
			return fmt.Errorf("set the host's name: %w", err)
		}
	}
	for _, v := range b.Mounts {
		if err := v.mount(b.Root); err != nil {
			return err
		}
	}
	if b.ReadOnly {
		if err := unix.Mount("", b.Root, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
			return fmt.Errorf("make the root read only: %w", err)
		}
	}
	if err := unix.Chroot(b.Root); err != nil {
		return fmt.Errorf("change root: %w", err)
	}
	if err := unix.Chdir("/" + strings.TrimPrefix(b.Dir, "/")); err != nil {
		return fmt.Errorf("change directory: %w", err)
	}
	return b.drop()
}

// drop gives up what the program may not have.
func (b *box) drop() error {
	for c := range unix.CAP_LAST_CAP + 1 {
		if !slices.Contains(b.Caps, c) {
			if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0); err != nil && err != unix.EINVAL {
				return fmt.Errorf("drop capability %d: %w", c, err)
			}
		}
	}
	if b.NoGain {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return fmt.Errorf("set no_new_privs: %w", err)
		}
	}
	if b.User == 0 {
		return nil
	}
	if err := syscall.Setgroups(b.Groups); err != nil {
		return fmt.Errorf("set groups: %w", err)
	}
	if err := syscall.Setgid(b.User); err != nil {
		return fmt.Errorf("set group: %w", err)
	}
	if err := syscall.Setuid(b.User); err != nil {
		return fmt.Errorf("set user: %w", err)
	}
	return nil
}

func (v volume) mount(root string) error {
	target := filepath.Join(root, v.Target)
	if rest, ok := strings.CutPrefix(v.Target, "/var/run/"); ok { // a link to /run, of the root and not of the machine
		target = filepath.Join(root, "run", rest)
	}
	info, err := os.Stat(v.Source)
	if err != nil {
		return fmt.Errorf("mount %s: %w", v.Source, err)
	}
	// The place is made where it is missing, as engines do.
	if _, err := os.Stat(target); err != nil {
		if info.IsDir() {
			err = os.MkdirAll(target, 0o755)
		} else if err = os.MkdirAll(filepath.Dir(target), 0o755); err == nil {
			err = os.WriteFile(target, nil, 0o644)
		}
		if err != nil {
			return fmt.Errorf("mount %s: %w", v.Source, err)
		}
	}
	if err := unix.Mount(v.Source, target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount %s on %s: %w", v.Source, target, err)
	}
	if !v.ReadOnly {
		return nil
	}
	if err := unix.Mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("mount %s read only: %w", v.Source, err)
	}
	return nil
}

// command is the box as a command of a host. Where the ground knows one user only, everything is run as that one, and
// Envoy and agent are told apart by a mark.
func (b box) command(name string, env []string) (ground.Command, error) {
	if world.Owner().Mark != 0 {
		b.User, b.Groups = 0, nil
		env = append(slices.Clone(env), world.Owner().Env()...)
	}
	text, err := json.Marshal(b)
	if err != nil {
		return ground.Command{}, err
	}
	return ground.Command{Name: name, Path: "/proc/self/exe", Env: append([]string{boxVariable + "=" + string(text)}, env...)}, nil
}

// start starts the box on the host. Its output is the user's, as with a container engine: Envoy opens it anew.
func (b box) start(h *ground.Host, name string, env []string) (*ground.Process, error) {
	c, err := b.command(name, env)
	if err != nil {
		return nil, err
	}
	log := filepath.Join(world.Dir(), "log", h.Name()+"."+name+".log")
	f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	if world.Owner().Mark == 0 {
		if err := os.Chown(log, b.User, b.User); err != nil {
			return nil, err
		}
	}
	return h.Start(c)
}

// dump is what a process printed, for a test that fails.
func dump(t *testing.T, p *ground.Process) {
	t.Helper()
	if text, err := os.ReadFile(p.Log()); err == nil {
		t.Logf("%s:\n%s", filepath.Base(p.Log()), text[max(0, len(text)-6000):])
	}
}
