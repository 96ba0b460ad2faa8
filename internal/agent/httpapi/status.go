// Package httpapi is the agent's HTTP interface, as App Mesh's agent had it: /status, /enableLogging, /drain_listeners and
// /stats/prometheus. [Health] polls Envoy and knows the [Status]; [Listen] serves.
package httpapi

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/evermesh/evermesh/internal/agent/envoyadmin"
	"github.com/evermesh/evermesh/internal/agent/pause"
	"github.com/evermesh/evermesh/internal/agent/relay"
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
	connected        = "CONNECTED"
	notConnected     = "NOT_CONNECTED"
	initialized      = "INITIALIZED"
	notInitialized   = "NOT_INITIALIZED"
	updateSuccessful = "UPDATE_SUCCESSFUL"
)

// startPoll is how often Envoy is asked until it is live for the first time: who waits for that waits for this.
const startPoll = 500 * time.Millisecond

// HealthOptions is what a Health needs.
type HealthOptions struct {
	// Envoy says which process it is, 0 for none, and how often it was started again.
	Envoy    interface{ Process() (pid, restarted int) }
	Admin    *envoyadmin.Client
	Relay    *relay.Relay // nil where Envoy has its own way to a control plane
	Interval time.Duration
	Limit    time.Duration // how long a lost control plane counts as healthy
	Started  time.Time
	Now      func() time.Time
}

// Health polls Envoy and knows the Status.
type Health struct {
	HealthOptions

	mu           sync.Mutex
	pid          int // that of the last poll
	state        string
	live         bool      // was live since it was started
	disconnected time.Time // as Envoy says, where there is no relay
}

// NewHealth knows of nothing yet.
func NewHealth(o HealthOptions) *Health {
	return &Health{HealthOptions: o, state: envoyadmin.Unreachable, disconnected: o.Now()}
}

// Run polls until ctx ends.
func (h *Health) Run(ctx context.Context) {
	for {
		h.poll(ctx)
		wait := h.Interval
		if !h.wasLive() {
			wait = min(wait, startPoll)
		}
		if pause.For(ctx, wait) != nil {
			return
		}
	}
}

func (h *Health) wasLive() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.live
}

func (h *Health) poll(ctx context.Context) {
	state := h.Admin.State(ctx)
	up := h.Relay == nil && h.Admin.Connected(ctx)
	pid, _ := h.Envoy.Process()
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
		h.disconnected = h.Now() // noticed now
	}
}

// lostSince is when the control plane was lost, zero while it is there. The relay knows it at once.
func (h *Health) lostSince() time.Time {
	if h.Relay == nil {
		return h.disconnected
	}
	if up, since := h.Relay.Connected(); !up {
		return since
	}
	return time.Time{}
}

// status is what the last poll found, and what the relay knows now.
func (h *Health) status() Status {
	pid, restarted := h.Envoy.Process()
	h.mu.Lock()
	defer h.mu.Unlock()
	now := h.Now()
	s := Status{
		Health: unhealthy, Uptime: fmt.Sprintf("%ds", int(now.Sub(h.Started).Seconds())),
		Pid: strconv.Itoa(pid), State: h.state, Restarts: strconv.Itoa(restarted),
		ManagementServer: connected, Readiness: notInitialized,
	}
	live := h.live
	if pid != h.pid { // what is known is the state of one that is gone
		s.State, live = envoyadmin.Unreachable, false
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
	if s.State == stateLive && (!lost || now.Sub(since) < h.Limit) {
		s.Health = healthy
	}
	return s
}
