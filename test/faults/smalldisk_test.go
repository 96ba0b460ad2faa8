//go:build linux

package faults

import (
	"fmt"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// playSmallDisk puts a file system of that many MiB in memory on a directory, which only this process and its children
// see, and becomes the program. Who is not root is it in a user namespace of its own.
func playSmallDisk(words []string) error {
	if len(words) < 3 {
		return fmt.Errorf("small disk: want MiB, directory and a program; got %q", words)
	}
	size, err := strconv.Atoi(words[0])
	if err != nil {
		return fmt.Errorf("small disk: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("small disk: make mounts private: %w", err)
	}
	if err := unix.Mount("tmpfs", words[1], "tmpfs", 0, fmt.Sprintf("size=%dM", size)); err != nil {
		return fmt.Errorf("small disk: mount: %w", err)
	}
	return syscall.Exec(words[2], words[2:], os.Environ())
}
