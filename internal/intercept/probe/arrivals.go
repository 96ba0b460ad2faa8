package probe

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"
)

// State of a socket that waits for connections, as /proc/net/tcp has it.
const listening = "0A"

// socket is one line of /proc/net/tcp: ports of both ends, and the address of the other.
type socket struct {
	local  uint16
	remote netip.AddrPort
	state  string
}

// sockets are those of the calling thread's network namespace, of both families.
func sockets() ([]socket, error) {
	var out []socket
	for _, path := range []string{"/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"} {
		f, err := os.Open(path)
		if errors.Is(err, os.ErrNotExist) && strings.HasSuffix(path, "6") {
			continue // a kernel without IPv6
		}
		if err != nil {
			return nil, fmt.Errorf("list sockets: %w", err)
		}
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			if s, ok := parseSocket(lines.Text()); ok {
				out = append(out, s)
			}
		}
		err = errors.Join(lines.Err(), f.Close())
		if err != nil {
			return nil, fmt.Errorf("list sockets: %w", err)
		}
	}
	return out, nil
}

// parseSocket reads a line such as "0: 0100007F:3A99 0200000A:D431 01 …"; the first line of the file is none.
func parseSocket(line string) (socket, bool) {
	fields := strings.Fields(line)
	if len(fields) < 4 {
		return socket{}, false
	}
	local, err := parseEnd(fields[1])
	if err != nil {
		return socket{}, false
	}
	remote, err := parseEnd(fields[2])
	if err != nil {
		return socket{}, false
	}
	return socket{local.Port(), remote, fields[3]}, true
}

// parseEnd reads an address in words of the machine's byte order, little-endian on all that Envoy runs on, and a port.
func parseEnd(s string) (netip.AddrPort, error) {
	words, port, _ := strings.Cut(s, ":")
	b, err := hex.DecodeString(words)
	if err != nil {
		return netip.AddrPort{}, err
	}
	for i := 0; i+3 < len(b); i += 4 {
		b[i], b[i+1], b[i+2], b[i+3] = b[i+3], b[i+2], b[i+1], b[i]
	}
	addr, ok := netip.AddrFromSlice(b)
	n, err := strconv.ParseUint(port, 16, 16)
	if err != nil || !ok {
		return netip.AddrPort{}, fmt.Errorf("%q is no address", s)
	}
	return netip.AddrPortFrom(addr.Unmap(), uint16(n)), nil
}

// How long the far end of an established connection is looked for: it is there at once, or as soon as the kernel has
// handled the last packet of three. A connection that should be elsewhere is looked for less long.
const (
	arrivalWait = 2 * time.Second
	absenceWait = 300 * time.Millisecond
)

// arrived says whether the connection whose near end is client has its far end at port here.
func arrived(ctx context.Context, client net.Addr, port uint16, within time.Duration) (bool, error) {
	near, err := netip.ParseAddrPort(client.String())
	if err != nil {
		return false, err
	}
	near = netip.AddrPortFrom(near.Addr().Unmap().WithZone(""), near.Port())
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(within); ; {
		list, err := sockets()
		if err != nil {
			return false, err
		}
		for _, s := range list {
			if s.local == port && s.remote == near && s.state != listening {
				return true, nil
			}
		}
		if time.Now().After(end) {
			return false, nil
		}
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case <-tick.C:
		}
	}
}

// standIn listens on port if nobody does, until close is called: a connection must have an end to arrive at.
func standIn(ctx context.Context, port uint16) (closed func(), err error) {
	list, err := sockets()
	if err != nil {
		return nil, err
	}
	for _, s := range list {
		if s.local == port && s.state == listening {
			return func() {}, nil
		}
	}
	var plain net.ListenConfig
	plain.SetMultipathTCP(false) // whose sockets the list has under other ports
	l, err := plain.Listen(ctx, "tcp", fmt.Sprintf(":%d", port))
	if err != nil {
		return nil, fmt.Errorf("nobody listens on port %d, nor can this program: %w", port, err)
	}
	return func() { _ = l.Close() }, nil // connections wait in its queue until then
}
