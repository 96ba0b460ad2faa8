// Package httpapi is the agent's HTTP interface, as App Mesh's agent had it: /status, /enableLogging, /drain_listeners and
// /stats/prometheus, and /quit besides. [Health] polls Envoy and knows the [Status]; [Snapshots] keep what Envoy counted a
// minute ago; [Listen] serves, and [Readiness] asks what another process serves.
package httpapi

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
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
	InitialUpdate    string     `json:"initialConfigUpdateStatus,omitempty"` // UPDATE_SUCCESSFUL or UPDATE_FAILED

	// Beyond App Mesh's.
	Source      string `json:"configurationSource,omitempty"`      // CONTROL_PLANE or LAST_GOOD, once it is known
	LastGoodAge string `json:"lastGoodConfigurationAge,omitempty"` // since the control plane stood by that, "12s"
	Failures    string `json:"managementServerFailures,omitempty"` // which steps on the way to it fail, while it is not connected
}

// The words of Status.
const (
	healthy          = "HEALTHY"
	unhealthy        = "UNHEALTHY"
	connected        = "CONNECTED"
	notConnected     = "NOT_CONNECTED"
	initialized      = "INITIALIZED"
	notInitialized   = "NOT_INITIALIZED"
	updateSuccessful = "UPDATE_SUCCESSFUL"
	updateFailed     = "UPDATE_FAILED"
)

// startPoll is how often Envoy is asked until it is live for the first time: who waits for that waits for this.
const startPoll = 500 * time.Millisecond

// HealthOptions is what a Health needs.
type HealthOptions struct {
	Envoy Process
	Admin *envoyadmin.Client
	Relay *relay.Relay // nil where Envoy has its own way to a control plane
	// RelayOnly is an agent without an Envoy: its relay serves others.
	RelayOnly bool
	// Apart: without interception each of Envoy's listeners is for a port of its own, and one that it cannot open leaves
	// the others as they are. Such a configuration has not failed, as long as some are open.
	Apart    bool
	Interval time.Duration
	Limit    time.Duration // how long a lost control plane counts as healthy
	Started  time.Time
	Now      func() time.Time
}

// Health polls Envoy and knows the Status.
type Health struct {
	HealthOptions

	mu           sync.Mutex
	of           life // that of the last poll
	state        string
	live         bool      // was live since it was started
	initial      string    // of its first configuration: "" while there is none
	disconnected time.Time // as Envoy says, where there is no relay
}

// NewHealth knows of nothing yet.
func NewHealth(o HealthOptions) *Health {
	return &Health{HealthOptions: o, state: envoyadmin.Unreachable, disconnected: o.Now()}
}

// Run polls until ctx ends. A little chance in the time between two polls keeps the proxies of a host apart.
func (h *Health) Run(ctx context.Context) {
	for {
		wait := jitterLow + rand.N(jitterHigh-jitterLow)
		if !h.RelayOnly {
			h.poll(ctx)
		}
		if h.wasLive() {
			wait += h.Interval
		} else {
			wait += min(h.Interval, startPoll)
		}
		if pause.For(ctx, wait) != nil {
			return
		}
	}
}

const jitterLow, jitterHigh = 10 * time.Millisecond, 50 * time.Millisecond

func (h *Health) wasLive() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.live
}

const (
	connectedState = "control_plane.connected_state"
	createFailure  = "listener_manager.listener_create_failure"
	updateRejected = "listener_manager.lds.update_rejected"
	updateSuccess  = "listener_manager.lds.update_success"
	listenersOpen  = "listener_manager.total_listeners_active"
)

func (h *Health) poll(ctx context.Context) {
	of := lifeOf(h.Envoy)
	state := h.Admin.State(ctx)
	stats, err := h.Admin.Stats(ctx, connectedState, createFailure, updateRejected, updateSuccess, listenersOpen)
	if of != lifeOf(h.Envoy) {
		return // nobody knows which one answered
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if of != h.of {
		h.of, h.live, h.initial = of, false, ""
	}
	h.state = state
	h.live = h.live || state == envoyadmin.Live
	if h.live && err == nil && h.initial != updateSuccessful {
		if h.initial = initialUpdate(stats); h.Apart && stats[listenersOpen] > 0 {
			h.initial = updateSuccessful
		}
	}
	switch {
	case stats[connectedState] == 1:
		h.disconnected = time.Time{}
	case h.disconnected.IsZero():
		h.disconnected = h.Now() // noticed now
	}
}

// initialUpdate says how the first configuration of an Envoy went that is live. One whose listeners it refused, or could not
// open, has failed, until Envoy takes one: then that was the first. What is refused later leaves Envoy with what it has, and
// an orchestrator no reason to end every proxy of a node at once.
func initialUpdate(stats map[string]int) string {
	if stats[createFailure]+stats[updateRejected] > 0 && stats[updateSuccess] == 0 {
		return updateFailed
	}
	return updateSuccessful
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
	h.mu.Lock()
	defer h.mu.Unlock()
	of := lifeOf(h.Envoy) // not before: a poll may find the next one meanwhile
	now := h.Now()
	s := Status{
		Health: unhealthy, Uptime: fmt.Sprintf("%ds", int(now.Sub(h.Started).Seconds())),
		Pid: strconv.Itoa(of.pid), State: h.state, Restarts: strconv.Itoa(of.restarted),
		ManagementServer: connected, Readiness: notInitialized, InitialUpdate: h.initial,
	}
	live := h.live
	switch {
	case h.RelayOnly: // it serves, or it would not answer
		s.State, live = envoyadmin.Live, true
	case of != h.of: // what is known is the state of one that is gone
		s.State, s.InitialUpdate, live = envoyadmin.Unreachable, "", false
	}
	since := h.lostSince()
	lost := !since.IsZero()
	if lost {
		s.ManagementServer = notConnected
		since = since.UTC()
		s.Disconnected = &since
	}
	if live {
		s.Readiness = initialized
	}
	if s.State == envoyadmin.Live && s.InitialUpdate != updateFailed && (h.RelayOnly || !lost || now.Sub(since) < h.Limit) {
		s.Health = healthy
	}
	if h.Relay != nil {
		serving, age := h.Relay.LastGood()
		s.tell(!lost, serving, age, h.Relay.Report())
	}
	return s
}

// tell says where Envoy's configuration is from, and why it is not from the control plane.
func (s *Status) tell(up, lastGood bool, age time.Duration, r relay.Report) {
	switch {
	case lastGood:
		s.Source, s.LastGoodAge = "LAST_GOOD", fmt.Sprintf("%ds", int(age.Seconds()))
	case up:
		s.Source = "CONTROL_PLANE"
	}
	if up {
		return
	}
	var failures []string
	for _, e := range r.Endpoints {
		for _, f := range e.Failures {
			failures = append(failures, fmt.Sprintf("%s at %s: %s", f.Endpoint, f.Address, f.Error()))
		}
	}
	s.Failures = strings.Join(failures[:min(len(failures), maxFailures)], " | ")
}

// maxFailures is how many are told; the log has all.
const maxFailures = 4
