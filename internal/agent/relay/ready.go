package relay

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"

	"github.com/evermesh/evermesh/internal/agent/pause"
	"github.com/evermesh/evermesh/internal/agent/settings"
)

// readyFor is how long a connection waits for Envoy's first stream.
const readyFor = 5 * time.Second

// ready is a connection that was made before there was a stream for it.
type ready struct {
	endpoint settings.Endpoint
	address  string
	conn     *grpc.ClientConn
	trail    *trail
	began    time.Time // when it was connected to; when a stream took it, if it was open then
}

// Prepare connects to an endpoint while Envoy starts, so that its first stream finds a connection. Nothing waits for it,
// and a connection that does not come about is none: the stream makes one of its own, and says what is wrong.
func (r *Relay) Prepare() { r.wg.Go(func() { r.upstreams.prepare(r.ctx) }) }

// prepare makes a connection to the first address that a stream would try, and closes it when nobody has taken it in
// time, or ctx ends.
func (u *upstreams) prepare(ctx context.Context) {
	e := u.order()[0]
	addresses, unknown := u.addresses(ctx, e)
	if unknown != nil {
		return
	}
	t := &trail{}
	conn, err := u.connect(e, addresses[0], t)
	if err != nil {
		return
	}
	mine := &ready{e, addresses[0], conn, t, time.Now()}
	conn.Connect()
	u.mu.Lock()
	u.ready = mine
	u.mu.Unlock()
	_ = pause.For(ctx, u.readyFor) // it is the end either way
	u.mu.Lock()
	left := u.ready == mine
	if left {
		u.ready = nil
	}
	u.mu.Unlock()
	if left {
		_ = conn.Close() // nothing is lost
	}
}

// prepared takes the connection that was made ahead, if it is open or about to be; nil else.
func (u *upstreams) prepared() *ready {
	u.mu.Lock()
	r := u.ready
	u.ready = nil
	u.mu.Unlock()
	if r == nil {
		return nil
	}
	switch r.conn.GetState() {
	case connectivity.Ready:
		r.began = time.Now()
		return r
	case connectivity.Connecting:
		return r
	default:
		_ = r.conn.Close() // nothing is lost
		return nil
	}
}
