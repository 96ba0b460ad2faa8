package agent

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"
)

// Status is the answer of GET /status. Tools read it: names and words are those of App Mesh's agent.
type Status struct {
	Health           string     `json:"healthStatus"` // HEALTHY or UNHEALTHY
	Uptime           string     `json:"agentUptime"`  // of the agent, "12s"
	Pid              string     `json:"envoyPid"`
	State            string     `json:"envoyState"` // as Envoy's /ready says, or UNREACHABLE
	Restarts         string     `json:"envoyRestartCount"`
	ManagementServer string     `json:"managementServerConnectionStatus"` // CONNECTED or NOT_CONNECTED
	Disconnected     *time.Time `json:"managementServerDisconnectedTimestamp,omitempty"`
	Readiness        string     `json:"envoyReadinessState"`                 // INITIALIZED or NOT_INITIALIZED
	InitialUpdate    string     `json:"initialConfigUpdateStatus,omitempty"` // UPDATE_SUCCESSFUL
}

// The words of Status.
const (
	healthy          = "HEALTHY"
	unhealthy        = "UNHEALTHY"
	stateLive        = "LIVE"
	stateUnreachable = "UNREACHABLE"
	connected        = "CONNECTED"
	notConnected     = "NOT_CONNECTED"
	initialized      = "INITIALIZED"
	notInitialized   = "NOT_INITIALIZED"
	updateSuccessful = "UPDATE_SUCCESSFUL"
)

// startPoll is how often Envoy is asked until it is live for the first time: who waits for that waits for this.
const startPoll = 500 * time.Millisecond

// health polls Envoy and knows the Status.
type health struct {
	envoy    *supervisor
	admin    *adminClient
	relay    *Relay // nil where Envoy has its own way to a control plane
	interval time.Duration
	limit    time.Duration // how long a lost control plane counts as healthy
	started  time.Time
	now      func() time.Time

	mu           sync.Mutex
	pid          int // that of the last poll
	state        string
	live         bool      // was live since it was started
	disconnected time.Time // as Envoy says, where there is no relay
}

// run polls until ctx ends.
func (h *health) run(ctx context.Context) {
	for {
		h.poll(ctx)
		wait := h.interval
		if !h.wasLive() {
			wait = min(wait, startPoll)
		}
		if sleep(ctx, wait) != nil {
			return
		}
	}
}

func (h *health) wasLive() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.live
}

func (h *health) poll(ctx context.Context) {
	state := h.admin.state(ctx)
	up := h.relay == nil && h.admin.connected(ctx)
	pid, _ := h.envoy.process()
	h.mu.Lock()
	defer h.mu.Unlock()
	if pid != h.pid {
		h.pid, h.live = pid, false
	}
	h.state = state
	h.live = h.live || state == stateLive
	switch {
	case up:
		h.disconnected = time.Time{}
	case h.disconnected.IsZero():
		h.disconnected = h.now() // noticed now
	}
}

// lostSince is when the control plane was lost, zero while it is there. The relay knows it at once.
func (h *health) lostSince() time.Time {
	if h.relay == nil {
		return h.disconnected
	}
	if up, since := h.relay.Connected(); !up {
		return since
	}
	return time.Time{}
}

// status is what the last poll found, and what the relay knows now.
func (h *health) status() Status {
	pid, restarted := h.envoy.process()
	h.mu.Lock()
	defer h.mu.Unlock()
	now := h.now()
	s := Status{
		Health: unhealthy, Uptime: fmt.Sprintf("%ds", int(now.Sub(h.started).Seconds())),
		Pid: strconv.Itoa(pid), State: h.state, Restarts: strconv.Itoa(restarted),
		ManagementServer: connected, Readiness: notInitialized,
	}
	live := h.live
	if pid != h.pid { // what is known is the state of one that is gone
		s.State, live = stateUnreachable, false
	}
	since := h.lostSince()
	lost := !since.IsZero()
	if lost {
		s.ManagementServer = notConnected
		since = since.UTC()
		s.Disconnected = &since
	}
	if live {
		s.Readiness, s.InitialUpdate = initialized, updateSuccessful
	}
	if s.State == stateLive && (!lost || now.Sub(since) < h.limit) {
		s.Health = healthy
	}
	return s
}
