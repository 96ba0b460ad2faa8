package httpapi

import (
	"net"
	"net/http"
	"net/netip"

	"golang.org/x/time/rate"

	"github.com/evermesh/evermesh/internal/gate"
)

// mostConnections is how many connections the callers of one door may have. The agent's memory is a few MiB, and a
// connection takes some tens of KiB of it.
const mostConnections = 32

// doors are the server's two: what comes from this host, such as the end of a job, is not held up by anybody who reaches the
// port from elsewhere.
type doors struct{ near, far door }

func newDoors() *doors { return &doors{near: newDoor(), far: newDoor()} }

// of is the door of a connection from there: a unix socket's peers have no address that could be parsed.
func (d *doors) of(remote string) *door {
	a, err := netip.ParseAddrPort(remote)
	if err == nil && !a.Addr().Unmap().IsLoopback() {
		return &d.far
	}
	return &d.near
}

// state satisfies http.Server.ConnState.
func (d *doors) state(c net.Conn, s http.ConnState) { d.of(c.RemoteAddr().String()).State(c, s) }

// door bounds requests and connections.
type door struct {
	limiter *rate.Limiter
	*gate.Gate
}

func newDoor() door {
	return door{limiter: rate.NewLimiter(requestRate, requestBurst), Gate: gate.New(mostConnections)}
}
