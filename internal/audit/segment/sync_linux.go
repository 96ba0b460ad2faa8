package segment

import (
	"os"

	"golang.org/x/sys/unix"
)

// syncData puts what was written on the disk; what is new of the file beside its
// bytes, such as its size, only as far as they could not be read without.
func syncData(f *os.File) error { return unix.Fdatasync(int(f.Fd())) }
