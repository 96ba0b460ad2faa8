package agent

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/evermesh/evermesh/internal/agent/owner"
	"github.com/evermesh/evermesh/internal/agent/settings"
	"github.com/evermesh/evermesh/internal/agent/supervise"
)

const (
	placePrefix = "evermesh-agent-"
	// probeSize is what must fit into a place: a bootstrap with a user's own parts.
	probeSize = 256 << 10
	// relaySocket is the name of the relay's in the directory for sockets.
	relaySocket = "xds.sock"
)

// place is a directory of one agent's own, for the bootstrap and sockets. It is locked while the agent lives, so that the
// next one may remove what an agent left that was killed.
type place struct {
	dir   string
	lock  *os.File
	short *place // for sockets, where dir has too long a name
}

// shortRoots are directories with short names that everybody may make directories in.
func shortRoots() []string { return []string{"/tmp", "/dev/shm", "/run"} }

// room is how many bytes the longest name of a socket has, with the slash, that this agent puts into its directory for
// sockets; 0 when it puts none there.
func room(s settings.Settings, args []string) int {
	longest := supervise.SocketRoom(s, args)
	if s.ServiceConnect == "" && s.SocketPath == "" {
		longest = max(longest, len("/"+relaySocket))
	}
	return longest
}

// sockets is the directory for sockets with names of so many bytes: the place itself or, where its name is too long for
// them, one with a shorter name in one of the roots.
func (p *place) sockets(room int, roots []string) (string, error) {
	longest := settings.MaxSocketPath - room
	if room == 0 || len(p.dir) <= longest {
		return p.dir, nil
	}
	failed := []error{fmt.Errorf("%s has a name of more than %d bytes", p.dir, longest)}
	for _, root := range roots {
		err := ownNames(root)
		if err == nil {
			sweepPlaces(root)
			if p.short, err = placeIn(root); err == nil {
				return p.short.dir, nil
			}
		}
		failed = append(failed, err)
	}
	return "", fmt.Errorf("make a directory for sockets: %w", errors.Join(failed...))
}

// ownNames is an error where others could put something in the place of what this user makes in the directory.
func ownNames(dir string) error {
	info, err := os.Lstat(dir)
	switch {
	case err != nil:
		return err
	case !info.IsDir() || !owner.Trusted(info) || owner.Open(info) && info.Mode()&os.ModeSticky == 0:
		return fmt.Errorf("others may rename what is in %s", dir)
	}
	return nil
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
		p := &place{dir: dir, lock: lock}
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
	if p.short != nil {
		p.short.remove()
	}
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
		(&place{dir: dir, lock: lock}).remove()
	}
}
