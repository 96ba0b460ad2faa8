package settings

import (
	"strings"
	"time"
)

// Supervision is how the agent keeps Envoy running.
type Supervision struct {
	// Delay is the pause before the second restart in a row (EVERMESH_ENVOY_RESTART_DELAY_MS), doubled for each one after
	// that. The first restart comes at once.
	Delay time.Duration
	// Forget is how long an Envoy must run for its restarts to be counted anew (EVERMESH_ENVOY_RESTART_FORGET_S); 0 never.
	Forget time.Duration
	// Silent is how many polls in a row an Envoy may leave unanswered before it is ended and started again
	// (EVERMESH_ENVOY_SILENT_POLLS); 0 for any number. HC_POLL_INTERVAL_MS is between two.
	Silent int
	// Poll is the least time between two looks for ended processes that nobody waits for (PID_POLL_INTERVAL_MS).
	Poll time.Duration
	// KeepCapabilities leaves the agent and Envoy the capabilities that the container has (EVERMESH_KEEP_CAPABILITIES).
	KeepCapabilities bool
}

func (v *variables) supervision() Supervision {
	return Supervision{
		Delay:            v.softMillis("EVERMESH_ENVOY_RESTART_DELAY_MS", 250*time.Millisecond, time.Millisecond, 10*time.Second),
		Forget:           v.softSeconds("EVERMESH_ENVOY_RESTART_FORGET_S", 10*time.Minute, 0, 24*time.Hour),
		Silent:           v.softInt("EVERMESH_ENVOY_SILENT_POLLS", 3, 0, 1000),
		Poll:             v.softMillis("PID_POLL_INTERVAL_MS", 100*time.Millisecond, 100*time.Millisecond, time.Second),
		KeepCapabilities: v.softBool("EVERMESH_KEEP_CAPABILITIES", false),
	}
}

// ForClient reads what is needed to ask an agent that runs already, and nothing else: where its HTTP interface is,
// which is asked on TCP unless APPNET_AGENT_ADMIN_MODE says uds, how long to ask, and where Envoy's own administration
// interface is. Nothing in it is refused.
func ForClient(getenv func(string) string, uid int) Settings {
	v := &variables{getenv: getenv}
	s := Settings{}
	s.health(v)
	s.Admin.Port = v.softInt("ENVOY_ADMIN_ACCESS_PORT", 9901, 1, 65535)
	if v.softChoice("ENVOY_ADMIN_MODE", "tcp", "tcp", "uds") == "uds" {
		s.Admin.Socket = adminSocket
	}
	asked := func(name string) string {
		if value := strings.TrimSpace(getenv(name)); value != "" || name != "APPNET_AGENT_ADMIN_MODE" {
			return value
		}
		return "tcp" // who asks takes it for there
	}
	s.server(&variables{getenv: asked}, uid)
	return s
}
