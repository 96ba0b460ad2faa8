//go:build linux

package ground

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// An entered program finds the marker in its environment and is process 1. It says over reportFD whether the ground
// can be laid.
const (
	marker   = "EVERMESH_GROUND"
	reportFD = 3
	stopWait = 15 * time.Second
)

// Inside says whether this program runs in namespaces that [Enter] made for it.
func Inside() bool { return os.Getenv(marker) != "" && os.Getpid() == 1 }

// Enter runs this program again, with the same arguments, environment and standard streams, in new network, mount
// and PID namespaces, and waits for its end. It returns three times:
//
//   - in the program that runs inside: inside is true, and the work is to be done;
//   - in the program that called it: exit is what the one inside exited with, 128 and the signal's number if it was
//     killed. The caller should exit with it;
//   - where the machine does not allow it: err is a [*Missing] that names the failed step. Nothing is left behind.
//     (The program inside gets inside false and exit 1 then, and should exit as well.)
//
// Without root a user namespace comes first, in which the calling user is root and the only user. When ctx ends,
// the program inside gets SIGTERM, and SIGKILL 15 seconds later. When the caller is killed everything inside is
// killed with it.
func Enter(ctx context.Context) (exit int, inside bool, err error) {
	if Inside() {
		if enterInside() != nil {
			return 1, false, nil
		}
		return 0, true, nil
	}
	// The kernel kills the child when the *thread* that made it ends.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	cmd, report, err := startInside(ctx)
	if err != nil {
		return 0, false, err
	}
	said, readErr := io.ReadAll(report)
	err = errors.Join(readErr, report.Close())
	var missing Missing
	switch {
	case err != nil:
	case len(said) == 0:
		err = errors.New("it ended before it was ready")
	case json.Unmarshal(said, &missing) == nil && missing.Step != "":
		err = &missing
	}
	waitErr := cmd.Wait()
	if _, ok := errors.AsType[*Missing](err); ok {
		return 0, false, err
	}
	if err != nil {
		return 0, false, step("run in new namespaces", "see the cause", errors.Join(err, waitErr))
	}
	status, _ := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if status.Signaled() {
		return 128 + int(status.Signal()), false, nil
	}
	return status.ExitStatus(), false, nil
}

// startInside starts the program in its namespaces, as root where the caller is root and may, else in a user
// namespace. The reader ends when the one inside has said how its preparations went.
func startInside(ctx context.Context) (*exec.Cmd, io.ReadCloser, error) {
	report, write, err := os.Pipe()
	if err != nil {
		return nil, nil, fmt.Errorf("enter ground: %w", err)
	}
	defer write.Close()
	ids := func(id int) []syscall.SysProcIDMap { return []syscall.SysProcIDMap{{HostID: id, Size: 1}} }
	rooted := syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID,
		Pdeathsig:  syscall.SIGKILL,
	}
	rootless := rooted
	rootless.Cloneflags |= unix.CLONE_NEWUSER
	rootless.UidMappings, rootless.GidMappings = ids(os.Geteuid()), ids(os.Getegid())

	start := func(attr *syscall.SysProcAttr) (*exec.Cmd, error) {
		cmd := exec.CommandContext(ctx, "/proc/self/exe", os.Args[1:]...)
		cmd.Args[0] = os.Args[0]
		cmd.Env = append(os.Environ(), marker+"=entered")
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		cmd.ExtraFiles = []*os.File{write}
		cmd.SysProcAttr = attr
		cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
		cmd.WaitDelay = stopWait
		return cmd, cmd.Start()
	}
	err = unix.EPERM
	var cmd *exec.Cmd
	if os.Geteuid() == 0 {
		cmd, err = start(&rooted)
	}
	if errors.Is(err, unix.EPERM) {
		cmd, err = start(&rootless)
	}
	if err != nil {
		return nil, nil, errors.Join(report.Close(), step("make namespaces",
			"user namespaces must be allowed for users without root; in a container: CAP_SYS_ADMIN or a seccomp profile that lets unshare pass", err))
	}
	return cmd, report, nil
}

// enterInside prepares the namespaces and tries the ground once, and reports to the waiting caller.
func enterInside() error {
	report := os.NewFile(reportFD, "report")
	unix.CloseOnExec(reportFD)
	failed := step("keep mounts private", "the machine must let a user namespace mount (AppArmor and containers may forbid it)", privateMounts())
	if failed == nil {
		failed = probe()
	}
	missing, ok := errors.AsType[*Missing](failed)
	if failed != nil && !ok {
		missing = &Missing{Step: "try the ground", Need: "see the cause", Cause: failed.Error()}
	}
	said := []byte("ready")
	if missing != nil {
		text, err := json.Marshal(missing)
		if err != nil {
			return err
		}
		said = text
	}
	_, err := report.Write(said)
	return errors.Join(failed, err, report.Close())
}
