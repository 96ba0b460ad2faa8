package relay

import "time"

// standWait is how long a stream must have been open, without a word from the control plane, to count as connected: by then
// a ping of HTTP/2 was answered on it, or it has ended.
const standWait = pingEvery + pingWait + 2*time.Second

// stands counts a stream as connected on which the control plane says nothing. A release that does not say by the head of a
// stream that it serves says nothing at all to an Envoy that has all: whom it does not serve it refuses, at once. An Envoy
// that lacks something is answered by one that serves, so its stream does not count.
func (c *call) stands(up *upstream) {
	if c.seen.Needy() {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over || c.settled || c.stood || c.up != up {
		return
	}
	c.stood = true
	c.seen.Stood()
	c.count(1)
	c.log.Info("control plane connected, and has nothing to say", "endpoint", up.endpoint.String(), "address", up.address)
}

// falls ends what stands began. mu is held.
func (c *call) falls() {
	if c.stood {
		c.stood = false
		c.count(-1)
	}
}
