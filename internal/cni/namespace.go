package cni

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// errGone says that there is no network namespace any more; errOwn that it is the node's.
var (
	errGone = errors.New("the network namespace does not exist")
	errOwn  = errors.New("the network namespace is the plugin's own: rules would redirect the traffic of the whole node")
)

// within runs fn on a thread that is inside the network namespace of path, with all programs that fn starts. The thread
// ends with it, so that nothing else ever runs there by mistake.
func within(path string, fn func() error) error {
	if path == "" {
		return errGone
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return errGone
	}
	if err != nil {
		return fmt.Errorf("open network namespace: %w", err)
	}
	defer f.Close()
	own, err := os.Stat("/proc/thread-self/ns/net")
	if err != nil {
		return fmt.Errorf("look at the own network namespace: %w", err)
	}
	if there, err := f.Stat(); err == nil && os.SameFile(own, there) {
		return errOwn
	}
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked
		if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
			// A path whose namespace was taken away is an empty file.
			if errors.Is(err, unix.EINVAL) {
				err = errors.Join(errGone, err)
			}
			result <- fmt.Errorf("enter network namespace %s: %w", path, err)
			return
		}
		result <- fn()
	}()
	return <-result
}
