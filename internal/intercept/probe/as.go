package probe

import (
	"errors"
	"fmt"
	"net"
	"runtime"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/evermesh/evermesh/internal/intercept"
)

// identity is whom a socket belongs to, as rules see it.
type identity struct {
	uid, gid int // -1 leaves it as it is
	mark     uint32
}

func (id identity) String() string {
	switch {
	case id.mark != 0:
		return fmt.Sprintf("mark %#x", id.mark)
	case id.uid >= 0:
		return fmt.Sprintf("uid %d", id.uid)
	case id.gid >= 0:
		return fmt.Sprintf("gid %d", id.gid)
	}
	return fmt.Sprintf("uid %d", unix.Geteuid())
}

// of is the identity of an owner that the rules leave out, and of nothing else.
func of(o intercept.Owner) identity {
	id := identity{uid: -1, gid: -1}
	switch o.Kind {
	case intercept.OwnerMark:
		id.mark = o.ID
	case intercept.OwnerUID:
		id.uid = int(o.ID)
	case intercept.OwnerGID:
		id.gid = int(o.ID)
	}
	return id
}

// nobody is the user that a workload's connections are tried as, or the next one below that is not left out.
const nobody = 65534

// workload is an identity that no rule leaves out. Where the namespace has one user id only that one is kept.
func workload(ignored []intercept.Owner) (identity, error) {
	left := func(kind intercept.OwnerKind, id int) bool {
		return slices.Contains(ignored, intercept.Owner{Kind: kind, ID: uint32(id)})
	}
	id := identity{uid: nobody, gid: nobody}
	for left(intercept.OwnerUID, id.uid) {
		id.uid--
	}
	for left(intercept.OwnerGID, id.gid) {
		id.gid--
	}
	if id.do(func() error { return nil }) == nil {
		return id, nil
	}
	id = identity{uid: -1, gid: -1}
	if left(intercept.OwnerUID, unix.Geteuid()) || left(intercept.OwnerGID, unix.Getegid()) {
		return id, errors.New("this program runs as a user that is left alone, and cannot be another")
	}
	return id, nil
}

// do runs fn on a thread of the calling thread's network namespace, on which sockets belong to the identity. The
// thread ends with it. fn opens its sockets itself, not in other goroutines.
func (id identity) do(fn func() error) error {
	namespace, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open the network namespace: %w", err)
	}
	defer func() { _ = unix.Close(namespace) }()
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked
		result <- func() error {
			if err := unix.Setns(namespace, unix.CLONE_NEWNET); err != nil && !errors.Is(err, unix.EPERM) { // it is there already, if it may not
				return fmt.Errorf("enter the network namespace: %w", err)
			}
			if err := become(unix.SetfsgidRetGid, id.gid); err != nil {
				return fmt.Errorf("%w gid %d: %w", errIdentity, id.gid, err)
			}
			if err := become(unix.SetfsuidRetUid, id.uid); err != nil {
				return fmt.Errorf("%w uid %d: %w", errIdentity, id.uid, err)
			}
			return fn()
		}()
	}()
	return <-result
}

// errIdentity says that this program may not be somebody else.
var errIdentity = errors.New("cannot become")

// become sets one of the ids by which the kernel tells files and sockets apart, on this thread. The call tells the old one, and
// never fails; asked for an impossible one it only tells.
func become(set func(int) (int, error), id int) error {
	if id < 0 {
		return nil
	}
	if _, err := set(id); err != nil {
		return err
	}
	if now, err := set(-1); err != nil || now != id {
		return errors.Join(err, fmt.Errorf("it is %d still", now))
	}
	return nil
}

// dialer connects with the identity's mark, within the time.
func (id identity) dialer(within time.Duration) net.Dialer {
	return net.Dialer{Timeout: within, Control: func(_, _ string, c syscall.RawConn) error {
		if id.mark == 0 {
			return nil
		}
		var failed error
		err := c.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, int(id.mark)) })
		if failed != nil {
			failed = fmt.Errorf("%w %s: %w", errIdentity, id, failed)
		}
		return errors.Join(err, failed)
	}}
}
