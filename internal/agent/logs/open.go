package logs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/evermesh/evermesh/internal/agent/owner"
)

// streams are the directories whose links and devices are the system's: /dev/stdout is a link, and may lead to anything.
var streams = [...]string{"/dev", "/dev/fd", "/dev/pts", "/proc/self/fd"}

// Open opens a file to append to it, and makes it. It never waits, and takes nothing that somebody else may have put there
// to have this user write elsewhere: outside of /dev only a regular file or a device, no link; where others may write to
// the directory it must be this user's own or root's, under one name.
func Open(path string) (*os.File, error) {
	const flags = os.O_APPEND | os.O_CREATE | os.O_WRONLY | unix.O_NONBLOCK
	dir := filepath.Dir(filepath.Clean(path))
	if slices.Contains(streams[:], dir) {
		return os.OpenFile(path, flags, fileMode)
	}
	f, err := os.OpenFile(path, flags|unix.O_NOFOLLOW, fileMode)
	switch {
	case errors.Is(err, unix.ELOOP):
		return nil, fmt.Errorf("open %s: it is a link", path)
	case err != nil:
		return nil, err // the path is in it
	}
	if err := trusted(f, dir); err != nil {
		return nil, errors.Join(fmt.Errorf("open %s: %w", path, err), f.Close())
	}
	return f, nil
}

// trusted is why nothing is written to the file in dir.
func trusted(f *os.File, dir string) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() && info.Mode()&fs.ModeCharDevice == 0 {
		return errors.New("it is neither a file nor a device")
	}
	around, err := os.Stat(dir)
	if err != nil {
		return err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if owner.Open(around) && (!owner.Trusted(info) || ok && stat.Nlink > 1) {
		return errors.New("it is another user's, in a directory that others may write to")
	}
	return nil
}
