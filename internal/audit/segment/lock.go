package segment

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// InUse says that another process keeps entries in the directory.
type InUse struct{ Dir string }

func (e *InUse) Error() string {
	return fmt.Sprintf("directory %s is in use by another process", e.Dir)
}

// lock takes the directory for this process; the kernel gives it back when the
// process ends, however it ends.
func lock(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(&InUse{dir}, f.Close())
	}
	return f, nil
}
