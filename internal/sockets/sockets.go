// Package sockets reads the kernel's list of TCP sockets (/proc/net/tcp), by which programs of the data plane find out
// where a connection has really arrived.
package sockets

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Directories with the lists: of the network namespace of the process, and of the calling thread.
const (
	OfProcess = "/proc/self/net"
	OfThread  = "/proc/thread-self/net"
)

// Socket is one of them. Addresses of IPv4 are never written as IPv6's.
type Socket struct {
	Local, Remote netip.AddrPort
	Inode         string // by which the processes that have it open know it; "" and "0" are none's
	state         string
}

// States as the kernel writes them (include/net/tcp_states.h).
const (
	established = "01"
	synReceived = "03"
	finWait1    = "04"
	finWait2    = "05"
	listening   = "0A"
)

// Listens says whether it waits for connections.
func (s Socket) Listens() bool { return s.state == listening }

// Open says whether it is the end of a connection that the other end has not closed: what is left of an earlier one, whose
// ports another has now (TIME_WAIT), is not.
func (s Socket) Open() bool {
	switch s.state {
	case established, synReceived, finWait1, finWait2:
		return true
	}
	return false
}

// Each calls visit with each socket of a directory's lists, of both families, until that returns false. A kernel without
// IPv6 has one list.
func Each(directory string, visit func(Socket) bool) error {
	for _, name := range []string{"tcp", "tcp6"} {
		more, err := read(filepath.Join(directory, name), visit)
		switch {
		case errors.Is(err, os.ErrNotExist) && name == "tcp6":
		case err != nil:
			return fmt.Errorf("list sockets: %w", err)
		case !more:
			return nil
		}
	}
	return nil
}

func read(path string, visit func(Socket) bool) (more bool, err error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	return scan(f, visit)
}

func scan(list io.Reader, visit func(Socket) bool) (more bool, err error) {
	lines := bufio.NewScanner(list)
	for lines.Scan() {
		if s, ok := parse(lines.Text()); ok && !visit(s) {
			return false, nil
		}
	}
	return true, lines.Err()
}

// parse reads a line such as "0: 0100007F:3A99 0200000A:D431 01 …"; the first line of a list is none.
func parse(line string) (Socket, bool) {
	words := strings.Fields(line)
	if len(words) < 4 {
		return Socket{}, false
	}
	local, ok1 := address(words[1])
	remote, ok2 := address(words[2])
	s := Socket{Local: local, Remote: remote, state: words[3]}
	if len(words) > 9 {
		s.Inode = words[9]
	}
	return s, ok1 && ok2
}

// address reads ADDRESS:PORT as the kernel writes it: words of 32 bits in the machine's order, in hexadecimal.
func address(s string) (netip.AddrPort, bool) {
	words, port, _ := strings.Cut(s, ":")
	raw, err := hex.DecodeString(words)
	n, portErr := strconv.ParseUint(port, 16, 16)
	if err != nil || portErr != nil || len(raw)%4 != 0 {
		return netip.AddrPort{}, false
	}
	if binary.NativeEndian.Uint32([]byte{1, 0, 0, 0}) == 1 { // the machine's order is not that of the network
		for word := range slices.Chunk(raw, 4) {
			slices.Reverse(word)
		}
	}
	ip, ok := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(ip.Unmap(), uint16(n)), ok
}

// Plain is an address as lists have it: of IPv4 where it can be, and without a zone.
func Plain(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}
