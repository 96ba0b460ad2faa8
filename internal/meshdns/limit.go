package meshdns

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

// mostClients bounds what clients that come and go leave behind.
const mostClients = 1 << 14

// limiter bounds the queries of each client: rate a second, twice that at once. A
// client is an address, or half a network of IPv6's, /64, which one host may use
// as it likes.
type limiter struct {
	rate float64 // 0 is no bound
	now  func() time.Time

	mu      sync.Mutex
	clients map[netip.Prefix]*bucket
}

// bucket is how many queries a client may send at once.
type bucket struct {
	left float64
	at   time.Time
}

// allow says whether the client may send one more query.
func (l *limiter) allow(from net.Addr) bool {
	if l.rate <= 0 {
		return true
	}
	var addr netip.Addr
	switch a := from.(type) {
	case *net.UDPAddr:
		addr = a.AddrPort().Addr().Unmap()
	case *net.TCPAddr:
		addr = a.AddrPort().Addr().Unmap()
	}
	bits := 32
	if addr.Is6() {
		bits = 64
	}
	client, err := addr.WithZone("").Prefix(bits)
	if err != nil {
		return true // not an address of the network
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now, most := l.now(), 2*l.rate
	b := l.clients[client]
	if b == nil {
		if len(l.clients) >= mostClients {
			l.forget(now)
		}
		b = &bucket{most, now}
		l.clients[client] = b
	}
	b.left, b.at = min(most, b.left+now.Sub(b.at).Seconds()*l.rate), now
	if b.left < 1 {
		return false
	}
	b.left--
	return true
}

// forget drops clients that would be as new by now, and all when those are few: to
// let a burst too many pass is a lesser evil than to look through all again soon.
func (l *limiter) forget(now time.Time) {
	for client, b := range l.clients {
		if now.Sub(b.at) >= 2*time.Second {
			delete(l.clients, client)
		}
	}
	if len(l.clients) > mostClients/2 {
		clear(l.clients)
	}
}
