package relay

import (
	"errors"
	"fmt"
	"math"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// What bounds the relay in relay mode, as the Envoy did that App Mesh's agent ran there: how much of a connection is held
// for a side that does not read, and how long nothing may be said on a stream.

// leastWindow is the window of HTTP/2 that both sides begin with; gRPC has no smaller one.
const leastWindow = 64 << 10

// window is how many bytes a sender may be ahead of its reader; 0 leaves that to gRPC, which measures the way.
func (u *upstreams) window() int32 {
	if u.bounds.Buffer == 0 {
		return 0
	}
	return int32(min(max(u.bounds.Buffer, leastWindow), math.MaxInt32))
}

// windows are for a connection to the control plane, which has one stream.
func (u *upstreams) windows() []grpc.DialOption {
	w := u.window()
	if w == 0 {
		return nil
	}
	return []grpc.DialOption{grpc.WithStaticStreamWindowSize(w), grpc.WithStaticConnWindowSize(w)}
}

// serverWindows are for the connections of Envoys.
func (u *upstreams) serverWindows() []grpc.ServerOption {
	w := u.window()
	if w == 0 {
		return nil
	}
	return []grpc.ServerOption{grpc.StaticStreamWindowSize(w), grpc.StaticConnWindowSize(w)}
}

// errIdle is why the context of a stream ended on which nothing was said for too long.
var errIdle = errors.New("nothing was said on the stream")

// watchIdle ends the stream when nothing is said for too long.
func (c *call) watchIdle() {
	if after := c.upstreams.bounds.Idle; after > 0 {
		c.idle = time.AfterFunc(after, func() { c.cancel(errIdle) })
	}
}

// spoken says that something was said on the stream, which is not over.
func (c *call) spoken() {
	if c.idle != nil {
		c.idle.Reset(c.upstreams.bounds.Idle)
	}
}

// idled is what Envoy is told at the end of a stream that ended so; nil at another end.
func (c *call) idled() error {
	if !errors.Is(c.cause(), errIdle) {
		return nil
	}
	return status.Error(codes.Unavailable, fmt.Sprintf("nothing was said on the stream for %s (RELAY_STREAM_IDLE_TIMEOUT)", c.upstreams.bounds.Idle))
}

// full says whether so much of what Envoy said waits for an answer that it has to wait as well. mu is held.
func (c *call) full() bool {
	return c.upstreams.bounds.Buffer > 0 && c.size > c.upstreams.bounds.Buffer && !c.settled && !c.over
}
