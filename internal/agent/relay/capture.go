package relay

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// capture finds out whether interception takes the agent's own connections: then they end at a port of this machine,
// where Envoy, which waits for the agent, listens or is to listen. Nothing in a connection itself says so to its client.
type capture struct {
	tables  []string      // of the kernel's TCP sockets
	nowhere []string      // addresses that no machine has (RFC 5737, RFC 3849): IPv4, IPv6
	wait    time.Duration // for each connection
}

func newCapture() capture {
	return capture{
		tables: []string{"/proc/self/net/tcp", "/proc/self/net/tcp6"}, nowhere: []string{"192.0.2.1", "2001:db8::1"},
		wait: 500 * time.Millisecond,
	}
}

// suspicion is what makes interception a likely cause.
type suspicion string

const (
	taken   suspicion = "taken"   // the connection was open, and what answered was not the control plane
	refused suspicion = "refused" // it was refused
)

// look returns in words how a connection to address is captured, "" if it is not. Once a connection is open, the
// other end is a socket of this machine whose own address is not the one that was asked for. One that is refused
// says nothing; but if one to nowhere is refused as well, at once, it is this machine that refuses both.
func (c capture) look(ctx context.Context, dialer *net.Dialer, address string, why suspicion) string {
	ctx, cancel := context.WithTimeout(ctx, c.wait)
	defer cancel()
	if why == taken {
		conn, err := dialer.DialContext(ctx, "tcp", address)
		if err != nil {
			return ""
		}
		defer conn.Close()
		if port := c.taker(conn); port != 0 {
			return fmt.Sprintf("interception on this machine redirects the agent's own connection to port %d", port)
		}
		return ""
	}
	to, err := netip.ParseAddrPort(address)
	if err != nil || to.Addr().IsLoopback() {
		return ""
	}
	nowhere := c.nowhere[0]
	if to.Addr().Is6() && !to.Addr().Is4In6() {
		nowhere = c.nowhere[1]
	}
	conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(nowhere, strconv.Itoa(int(to.Port()))))
	switch {
	case err == nil:
		defer conn.Close()
		if port := c.taker(conn); port != 0 {
			return fmt.Sprintf("interception on this machine redirects the agent's own connection to port %d", port)
		}
	case errors.Is(err, syscall.ECONNREFUSED):
		return "interception on this machine redirects the agent's own connection to a port where nobody listens yet: one to " + nowhere + ", which no machine has, is refused as well"
	}
	return ""
}

// taker is the port of the socket of this machine at the other end of conn, if conn was meant for another; else 0.
func (c capture) taker(conn net.Conn) int {
	own, ok := conn.LocalAddr().(*net.TCPAddr)
	peer, is := conn.RemoteAddr().(*net.TCPAddr)
	if !ok || !is {
		return 0
	}
	for _, table := range c.tables {
		f, err := os.Open(table)
		if err != nil {
			continue
		}
		at := otherEnd(f, own.AddrPort(), peer.AddrPort())
		f.Close()
		if at != 0 {
			return at
		}
	}
	return 0
}

// otherEnd looks in a table of the kernel for the socket whose remote address is own and whose local one is not peer.
func otherEnd(table io.Reader, own, peer netip.AddrPort) int {
	own, peer = plain(own), plain(peer)
	for lines := bufio.NewScanner(table); lines.Scan(); {
		words := strings.Fields(lines.Text())
		if len(words) < 4 {
			continue
		}
		local, ok1 := kernelAddress(words[1])
		remote, ok2 := kernelAddress(words[2])
		if ok1 && ok2 && remote == own && local != peer {
			return int(local.Port())
		}
	}
	return 0
}

func plain(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}

// kernelAddress reads ADDRESS:PORT as the kernel writes it: words of 32 bits in the machine's order, in hexadecimal.
func kernelAddress(s string) (netip.AddrPort, bool) {
	address, port, _ := strings.Cut(s, ":")
	raw, err := hex.DecodeString(address)
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

func captureAdvice(marked bool) string {
	if marked {
		return "set EVERMESH_IGNORE_MARK to the same value for the interception and for the agent"
	}
	ignored := os.Getenv("APPMESH_IGNORE_UID")
	if ignored == "" {
		ignored = "1337 (APPMESH_IGNORE_UID of the interception)"
	}
	return fmt.Sprintf("the agent runs as uid %s: run it as the uid that interception leaves out, %s, or set EVERMESH_IGNORE_MARK for both", uid(), ignored)
}

func uid() string { return strconv.Itoa(os.Getuid()) }
