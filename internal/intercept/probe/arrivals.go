package probe

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/evermesh/evermesh/internal/sockets"
)

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
	near = sockets.Plain(near)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(within); ; {
		found := false
		if err := sockets.Each(sockets.OfThread, func(s sockets.Socket) bool {
			found = s.Local.Port() == port && s.Remote == near && s.Open()
			return !found
		}); err != nil || found {
			return found, err
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
	taken := false
	if err := sockets.Each(sockets.OfThread, func(s sockets.Socket) bool {
		taken = s.Local.Port() == port && s.Listens()
		return !taken
	}); err != nil {
		return nil, err
	}
	if taken {
		return func() {}, nil
	}
	var plain net.ListenConfig
	plain.SetMultipathTCP(false) // whose sockets the list has under other ports
	l, err := plain.Listen(ctx, "tcp", fmt.Sprintf(":%d", port))
	if err != nil {
		return nil, fmt.Errorf("nobody listens on port %d, nor can this program: %w", port, err)
	}
	return func() { _ = l.Close() }, nil // connections wait in its queue until then
}
