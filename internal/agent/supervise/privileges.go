package supervise

import (
	"errors"
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/evermesh/evermesh/internal/agent/settings"
)

// kept are the capabilities that an agent of these settings and its Envoy may have use for: ports below 1024 for
// listeners of gateways, and NET_ADMIN where sockets carry a mark, or where what Envoy is configured with is not ours
// and may have transparent sockets.
func kept(s settings.Settings) []uintptr {
	caps := []uintptr{unix.CAP_NET_BIND_SERVICE}
	if s.Mark != 0 || s.ServiceConnect != "" || s.OwnBootstrap() || s.Bootstrap.ResourcesFile != "" {
		caps = append(caps, unix.CAP_NET_ADMIN)
	}
	return caps
}

// DropPrivileges gives up what neither the agent nor Envoy needs, for this process and all that it starts: every
// capability but NET_BIND_SERVICE and, where it is of use, NET_ADMIN; and no program that it starts gets more than it
// has (no_new_privs), unless the Envoy at path has capabilities of its own, which it would not get then. It needs a
// program that is built without cgo.
func DropPrivileges(s settings.Settings, path string) error {
	var mask uint64
	for _, c := range kept(s) {
		mask |= 1 << c
	}
	return errors.Join(dropBounding(mask), dropAll(mask), noNewPrivileges(path))
}

// dropBounding takes the capabilities from what root gets when it starts a program. Without SETPCAP it cannot be
// done, and then there is nothing to be got either, or little.
func dropBounding(mask uint64) error {
	if !effective(unix.CAP_SETPCAP) {
		return nil
	}
	for c := uintptr(0); c <= 63; c++ {
		if mask&(1<<c) != 0 {
			continue
		}
		// All threads have what this one has. Giving up takes all of them, and stops each.
		if has, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, c, 0, 0, 0); err == nil && has == 0 {
			continue
		}
		switch _, _, err := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, c, 0, 0, 0, 0); err {
		case 0:
		case unix.EINVAL: // the kernel knows no more
			return nil
		default:
			return fmt.Errorf("drop capability %d: %w", c, err)
		}
	}
	return nil
}

// dropAll leaves of what the process has what the mask says.
func dropAll(mask uint64) error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return fmt.Errorf("read capabilities: %w", err)
	}
	for i := range data {
		m := uint32(mask >> (32 * i))
		data[i].Permitted &= m
		data[i].Effective &= m
		data[i].Inheritable &= m
	}
	if _, _, err := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&data[0])), 0); err != 0 {
		return fmt.Errorf("drop capabilities: %w", err)
	}
	return nil
}

func noNewPrivileges(path string) error {
	if n, err := unix.Getxattr(path, "security.capability", nil); err == nil && n > 0 {
		return nil
	}
	if _, _, err := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0); err != 0 {
		return fmt.Errorf("set no_new_privs: %w", err)
	}
	return nil
}

// ambient are the capabilities that Envoy is given, of those that it may have use for: those that this process has.
func ambient(s settings.Settings) (out []uintptr) {
	for _, c := range kept(s) {
		if effective(c) {
			out = append(out, c)
		}
	}
	return out
}

// effective says whether this process has the capability.
func effective(c uintptr) bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return false
	}
	d, bit := data[c/32], uint32(1)<<(c%32)
	return d.Permitted&bit != 0 && d.Effective&bit != 0
}

// RaiseFileLimit lets Envoy have as many descriptors as the machine allows (AGENT-045). It is set by hand because
// Go raises its own limit, and gives children the old one.
func RaiseFileLimit() error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("read limit of open files: %w", err)
	}
	limit.Cur = limit.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("raise limit of open files: %w", err)
	}
	return nil
}
