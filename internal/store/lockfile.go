package store

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// InUse says that another process has the data directory.
type InUse struct{ Dir, By string }

func (e *InUse) Error() string {
	return fmt.Sprintf("data directory %s is in use by %s: stop it, or give another --data-dir", e.Dir, e.By)
}

// lockDir takes the data directory for this process. The kernel gives the lock
// back when the process ends, however it ends.
func lockDir(dir string) (*os.File, error) {
	name := filepath.Join(dir, "lock")
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock data directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close() // the error that matters is known
		by := "another process"
		if pid, err := os.ReadFile(name); err == nil && len(pid) > 0 {
			by = "process " + strings.TrimSpace(string(pid))
		}
		return nil, &InUse{dir, by}
	}
	if err := f.Truncate(0); err == nil {
		_, err = fmt.Fprintf(f, "%d\n", os.Getpid())
		if err != nil {
			return nil, fmt.Errorf("lock data directory: %w", err)
		}
	}
	return f, nil
}
