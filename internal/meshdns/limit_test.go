package meshdns

import (
	"net"
	"net/netip"
	"testing"
	"time"
)

// Clients that each ask once, as forged ones do, leave little behind; a host of
// IPv6 is one client by whichever of its addresses it asks.
func TestLimiterIsBounded(t *testing.T) {
	t.Parallel()
	now := time.Now()
	l := limiter{rate: 1, now: func() time.Time { return now }, clients: map[netip.Prefix]*bucket{}}
	for i := range 5 * mostClients {
		now = now.Add(time.Microsecond)
		if !l.allow(&net.UDPAddr{IP: net.IPv4(10, byte(i>>16), byte(i>>8), byte(i))}) {
			t.Fatal("a client's first query is refused")
		}
		if len(l.clients) > mostClients {
			t.Fatalf("%d clients are remembered", len(l.clients))
		}
	}
	six := func(last byte) bool {
		ip := net.ParseIP("fd00::1")
		ip[15] = last
		return l.allow(&net.UDPAddr{IP: ip})
	}
	if !six(1) || !six(2) || six(3) {
		t.Error("a network of IPv6 is not one client: of a rate of 1, two at once are allowed")
	}
	if !l.allow(&net.UnixAddr{}) {
		t.Error("what has no address is refused")
	}
}
