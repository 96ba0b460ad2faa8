package testenv

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// Ports for programs that must be told theirs are taken from below what systems
// give to outgoing connections (32768 and above on Linux), since one of those may
// be anybody's between the moment it was found free and the moment the program
// listens on it.
const (
	firstPort = 10000
	lastPort  = 32767
)

// FreePort is a port of every address of this machine, of TCP and of UDP, that
// nobody listens on and that no other test is given until this one ends.
func FreePort(t testing.TB) int {
	t.Helper()
	return FreePorts(t, 1)[0]
}

// FreePorts are n of them, each another one.
func FreePorts(t testing.TB, n int) []int {
	t.Helper()
	ports, release, err := ReservePorts(n)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(release)
	return ports
}

// FreeAddress is one of loopback with a FreePort, as host and port.
func FreeAddress(t testing.TB) string {
	t.Helper()
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(FreePort(t)))
}

// ReservePorts finds n ports as [FreePorts] does, for a program. Nobody else who
// asks here is given them, in this process or another, until they are released or
// the process ends.
func ReservePorts(n int) (ports []int, release func(), err error) {
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("evermesh-ports-%d", os.Geteuid()))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, fmt.Errorf("reserve ports: %w", err)
	}
	var held []*os.File
	release = func() {
		for _, f := range held {
			_ = f.Close() // nothing was written
		}
	}
	start := rand.IntN(lastPort - firstPort + 1)
	for i := 0; len(ports) < n; i++ {
		if i > lastPort-firstPort {
			release()
			return nil, nil, errors.New("reserve ports: none is free")
		}
		port := firstPort + (start+i)%(lastPort-firstPort+1)
		if port == 15000 || port == 15001 {
			continue // a sidecar's Envoy has them
		}
		lock, err := reserve(filepath.Join(dir, strconv.Itoa(port)))
		if err != nil {
			release()
			return nil, nil, fmt.Errorf("reserve port %d: %w", port, err)
		}
		if lock == nil {
			continue
		}
		if !free(port) {
			_ = lock.Close() // nothing was written
			continue
		}
		held, ports = append(held, lock), append(ports, port)
	}
	return ports, release, nil
}

// reserve locks a file for as long as it is open; it is nil if another has it.
func reserve(file string) (*os.File, error) {
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close() // nothing was written
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, nil
		}
		return nil, err
	}
	return f, nil
}

// free says whether a program could listen on the port, whatever its address.
func free(port int) bool {
	// A child that is forked meanwhile would have the sockets until it runs its program, and the port be in use for as long.
	// Package os forks one of its own, without that lock, before it first has to do with a process: so it is to do so now.
	if p, err := os.FindProcess(os.Getpid()); err == nil {
		_ = p.Release()
	}
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	address := net.JoinHostPort("", strconv.Itoa(port))
	l, err := net.Listen("tcp", address)
	if err != nil {
		return false
	}
	defer l.Close()
	p, err := net.ListenPacket("udp", address)
	if err != nil {
		return false
	}
	return p.Close() == nil
}
