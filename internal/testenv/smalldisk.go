//go:build linux

package testenv

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// smallDiskVariable has a process hold a small disk: its size and its directory.
const smallDiskVariable = "EVERMESH_TEST_SMALL_DISK"

// SmallDisk is a file system of that size, as mount has it (1M), in memory, which ends
// with the test. It is mounted in a namespace of its own, so that nobody else sees it
// and it needs no root; the path leads there through the process that holds it. TestMain
// must begin with [HoldSmallDisk]. Where nobody but root may mount, the test is skipped.
func SmallDisk(t testing.TB, size string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), smallDiskVariable+"="+size+" "+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	hold, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	said, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var why strings.Builder
	cmd.Stderr = &why
	if err := cmd.Start(); errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOSPC) {
		t.Skipf("this machine lets nobody but root mount: %v", err)
	} else if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = hold.Close()
		_ = cmd.Wait() // it may have failed to mount, which was said
	})
	if line, err := bufio.NewReader(said).ReadString('\n'); err != nil {
		_ = hold.Close()
		_ = cmd.Wait() // to have all that it said
		t.Fatalf("the small disk is not mounted: %q %v %s", line, err, why.String())
	}
	return fmt.Sprintf("/proc/%d/root%s", cmd.Process.Pid, dir)
}

// HoldSmallDisk mounts the file system and holds it until its input ends, in the process
// that [SmallDisk] starts, which it ends; elsewhere it does nothing.
func HoldSmallDisk() {
	size, dir, asked := strings.Cut(os.Getenv(smallDiskVariable), " ")
	if !asked {
		return
	}
	if err := holdSmallDisk(size, dir); err != nil {
		fmt.Fprintln(os.Stderr, "small disk:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func holdSmallDisk(size, dir string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		return fmt.Errorf("mount: %w", err)
	}
	if _, err := fmt.Fprintln(os.Stdout, "mounted"); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}
