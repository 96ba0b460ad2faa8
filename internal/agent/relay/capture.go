package relay

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"syscall"
	"time"

	"github.com/evermesh/evermesh/internal/sockets"
)

// capture finds out whether interception takes the agent's own connections: then they end at a port of this machine,
// where Envoy, which waits for the agent, listens or is to listen. Nothing in a connection itself says so to its client.
type capture struct {
	lists   string        // the directory with those of the kernel's sockets
	nowhere []string      // addresses that no machine has (RFC 5737, RFC 3849): IPv4, IPv6
	wait    time.Duration // for each connection
}

func newCapture() capture {
	return capture{
		lists: sockets.OfProcess, nowhere: []string{"192.0.2.1", "2001:db8::1"},
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

// taker is the port of the socket of this machine at the other end of conn, if conn was meant for another; else 0. Another
// connection may begin at the same address and port, for it leads elsewhere: then both of its ends are in the list.
func (c capture) taker(conn net.Conn) int {
	own, ok := conn.LocalAddr().(*net.TCPAddr)
	peer, is := conn.RemoteAddr().(*net.TCPAddr)
	if !ok || !is {
		return 0
	}
	near, far := sockets.Plain(own.AddrPort()), sockets.Plain(peer.AddrPort())
	takers, others := map[netip.AddrPort]bool{}, map[netip.AddrPort]bool{}
	_ = sockets.Each(c.lists, func(s sockets.Socket) bool { // what cannot be seen is not told
		switch {
		case s.Local == near:
			others[s.Remote] = true
		case s.Open() && s.Remote == near && s.Local != far:
			takers[s.Local] = true
		}
		return true
	})
	for taker := range takers {
		if !others[taker] {
			return int(taker.Port())
		}
	}
	return 0
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
