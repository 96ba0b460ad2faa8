package relay

import (
	"time"

	"github.com/evermesh/evermesh/internal/agent/settings"
)

// standWait is how long a stream must have been open, without a word from the control plane, to count as connected: by then
// a ping of HTTP/2 was answered on it, or it has ended.
const standWait = pingEvery + pingWait + 2*time.Second

// stands counts a stream as connected on which the control plane says nothing. A release that does not say by the head of a
// stream that it serves says nothing at all to an Envoy that has all: whom it does not serve it refuses, at once. An Envoy
// that lacks something is answered by one that serves, so its stream does not count. Nor does one to an endpoint that speaks,
// which has said before that it serves, and would say so again.
func (c *call) stands(up *upstream, speaks bool) {
	if c.seen.Needy() {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over || c.settled || c.stood || c.up != up {
		return
	}
	if speaks {
		c.log.Warn("control plane does not say that it serves: it does not count as connected", "endpoint", up.endpoint.String(), "address", up.address)
		return
	}
	c.stood = true
	c.seen.Stood()
	c.count(1)
	c.log.Info("control plane connected, and has nothing to say", "endpoint", up.endpoint.String(), "address", up.address)
}

// speaks says whether the endpoint has ever said that it serves.
func (u *upstreams) speaks(e settings.Endpoint) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.heads[e]
}

// spoke notes that the endpoint has said so.
func (u *upstreams) spoke(e settings.Endpoint) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.heads[e] = true
}

// falls ends what stands began. mu is held.
func (c *call) falls() {
	if c.stood {
		c.stood = false
		c.count(-1)
	}
}
