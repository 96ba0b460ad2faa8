//go:build linux

package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// roomVariable has this test program furnish a room, and become the program that its arguments name.
const roomVariable = "AGENT_TEST_ROOM"

// room is what a program sees of the machine. Its mounts are its own: they end with it, and nobody else sees them.
type room struct {
	Small    map[string]string // file systems of that size, as mount has it, by directory
	Full     []string          // those of them without a free byte
	ReadOnly bool              // all but what is in Small
	Net      bool              // a network of its own, with a loopback
}

// start starts the program in the room. Who may not make one skips the test.
func (r *room) start(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if r != nil {
		text, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		cmd.Args = append([]string{"room"}, cmd.Args...)
		cmd.Path = "/proc/self/exe"
		cmd.Env = append(cmd.Env, roomVariable+"="+string(text))
		cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWNS
		if r.Net {
			cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWNET
		}
		if os.Geteuid() != 0 {
			cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
			cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
			cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
		}
	}
	err := cmd.Start()
	if r != nil && (errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOSPC)) {
		t.Skipf("this machine lets nobody but root mount: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// enterRoom furnishes the room that this process was started in, and becomes the program; elsewhere it does nothing.
func enterRoom() {
	text := os.Getenv(roomVariable)
	if text == "" {
		return
	}
	var r room
	err := json.Unmarshal([]byte(text), &r)
	if err == nil {
		err = r.furnish()
	}
	if err == nil {
		err = os.Unsetenv(roomVariable)
	}
	if err == nil {
		err = syscall.Exec(os.Args[1], os.Args[1:], os.Environ())
	}
	fmt.Fprintln(os.Stderr, "room:", err)
	os.Exit(99)
}

func (r *room) furnish() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	for dir, size := range r.Small {
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
			return fmt.Errorf("mount %s: %w", dir, err)
		}
	}
	if r.ReadOnly {
		err := unix.MountSetattr(unix.AT_FDCWD, "/", unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
		if err != nil {
			return fmt.Errorf("make all read-only: %w", err)
		}
		for dir := range r.Small {
			if err := unix.MountSetattr(unix.AT_FDCWD, dir, 0, &unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY}); err != nil {
				return fmt.Errorf("make %s writable: %w", dir, err)
			}
		}
	}
	for _, dir := range r.Full {
		if err := fill(dir); err != nil {
			return err
		}
	}
	if r.Net {
		return loopback()
	}
	return nil
}

// loopback has the network's loopback carry packets.
func loopback() error {
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP)
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("have the loopback up: %w", err)
	}
	return errors.Join(unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, lo), unix.Close(s))
}

const filler = "filler"

// fill takes all the space of a small disk.
func fill(dir string) error {
	f, err := os.OpenFile(filepath.Join(dir, filler), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	for size := 64 << 10; err == nil || size > 1; {
		if err != nil {
			size /= 2
		}
		_, err = io.WriteString(f, strings.Repeat("x", size))
		if err != nil && !errors.Is(err, syscall.ENOSPC) {
			break
		}
	}
	if !errors.Is(err, syscall.ENOSPC) {
		return errors.Join(fmt.Errorf("fill %s: %w", dir, err), f.Close())
	}
	return f.Close()
}

// empty gives the space back.
func empty(dir string) error { return os.Remove(filepath.Join(dir, filler)) }
