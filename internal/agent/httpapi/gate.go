package httpapi

import (
	"container/list"
	"net"
	"net/http"
	"net/netip"
	"sync"

	"golang.org/x/time/rate"
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
func (d *doors) state(c net.Conn, s http.ConnState) { d.of(c.RemoteAddr().String()).state(c, s) }

// door bounds requests and connections. Beyond the bound the connection that has waited for its next request for the longest
// is closed, which clients take for the end of a kept connection; where none waits, the new one is.
type door struct {
	limiter *rate.Limiter

	mu      sync.Mutex
	open    int
	waiting *list.List // of net.Conn, the longest first
	at      map[net.Conn]*list.Element
}

func newDoor() door {
	return door{limiter: rate.NewLimiter(requestRate, requestBurst), waiting: list.New(), at: map[net.Conn]*list.Element{}}
}

func (d *door) state(c net.Conn, s http.ConnState) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if e := d.at[c]; e != nil {
		d.waiting.Remove(e)
		delete(d.at, c)
	}
	switch s {
	case http.StateNew:
		d.open++
		d.at[c] = d.waiting.PushBack(c)
	case http.StateIdle:
		d.at[c] = d.waiting.PushBack(c)
	case http.StateClosed, http.StateHijacked:
		d.open--
	}
	if first := d.waiting.Front(); s == http.StateNew && d.open > mostConnections && first != nil {
		longest, _ := first.Value.(net.Conn)
		d.waiting.Remove(first)
		delete(d.at, longest)
		_ = longest.Close() // its server notices, and says that it is closed
	}
}
