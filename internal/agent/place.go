package agent

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/evermesh/evermesh/internal/agent/owner"
)

const (
	placePrefix = "evermesh-agent-"
	// probeSize is what must fit into a place: a bootstrap with a user's own parts.
	probeSize = 256 << 10
)

// place is a directory of one agent's own, for the bootstrap and the relay's socket. It is locked while the agent
// lives, so that the next one may remove what an agent left that was killed.
type place struct {
	dir  string
	lock *os.File
}

// newPlace makes one in the directory for temporary files or, where that is read-only or full, in shared memory, which
// containers with a read-only file system have too.
func newPlace(log *slog.Logger) (*place, error) {
	var failed []error
	for _, root := range []string{os.TempDir(), "/dev/shm"} {
		sweepPlaces(root)
		p, err := placeIn(root)
		if err == nil {
			if len(failed) > 0 {
				log.Warn("cannot write to the directory for temporary files: shared memory is used", "err", failed[0])
			}
			return p, nil
		}
		failed = append(failed, err)
	}
	return nil, fmt.Errorf("make the agent's directory: %w", errors.Join(failed...))
}

func placeIn(root string) (*place, error) {
	for {
		dir, err := os.MkdirTemp(root, placePrefix)
		if err != nil {
			return nil, err
		}
		lock, err := lockDirectory(dir, 0)
		if errors.Is(err, os.ErrNotExist) {
			continue // another agent took it for one that was left, before it was locked
		}
		if err != nil {
			return nil, errors.Join(err, os.RemoveAll(dir))
		}
		p := &place{dir, lock}
		probe := filepath.Join(dir, "probe")
		err = os.WriteFile(probe, make([]byte, probeSize), 0o600)
		if err := errors.Join(err, os.Remove(probe)); err != nil {
			p.remove()
			return nil, err
		}
		return p, nil
	}
}

// lockDirectory opens the directory with a lock that ends with the process. It is os.ErrNotExist when that directory is
// not there any more when the lock is had.
func lockDirectory(dir string, flag int) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|flag); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", dir, err), f.Close())
	}
	mine, err := f.Stat()
	if err == nil {
		var there os.FileInfo
		if there, err = os.Stat(dir); err == nil && !os.SameFile(mine, there) {
			err = os.ErrNotExist
		}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func (p *place) remove() {
	_ = os.RemoveAll(p.dir)
	_ = p.lock.Close()
}

// sweepPlaces removes what agents left that were killed: this user's directories that nobody has locked, and
// Envoys that have their bootstrap there.
func sweepPlaces(root string) {
	dirs, _ := filepath.Glob(filepath.Join(root, placePrefix+"*")) // the pattern is well-formed, but for a strange root
	for _, dir := range dirs {
		info, err := os.Lstat(dir)
		if err != nil || !info.IsDir() || !owner.Mine(info) {
			continue
		}
		lock, err := lockDirectory(dir, unix.LOCK_NB)
		if err != nil {
			continue // an agent that lives, or another user's
		}
		endOrphans(dir)
		(&place{dir, lock}).remove()
	}
}
