package relay

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Step is where the way to the control plane ends (TRBL-002).
type Step string

// The steps, in the order in which a stream takes them.
const (
	StepCredentials Step = "credentials" // there are none to sign with, or they are refused (code 16)
	StepDNS         Step = "DNS"         // the name has no address
	StepTCP         Step = "TCP"         // nobody takes the connection
	StepTLS         Step = "TLS"         // certificates or keys do not fit, or there is no TLS
	StepXDS         Step = "xDS"         // what answers speaks no HTTP/2, or no xDS
	StepPermission  Step = "permission"  // the principal may not stream the node (code 7)
	StepResource    Step = "resource"    // there is no such node or gateway (code 3)
	StepQuota       Step = "quota"       // too many Envoys (code 8)
	StepService     Step = "service"     // the control plane has trouble of its own (codes 13, 14 and others)
)

// Failure is why there is no stream to one address, in plain words.
type Failure struct {
	Endpoint string // as in APPMESH_XDS_ENDPOINT
	Address  string // which of the endpoint's addresses; the name itself where it has none
	Step     Step
	Reason   string // what happened, one line
	Tried    string // with what: name server, CA file, source of credentials, node
	Do       string // what helps

	suspect suspicion // whether interception may be why
}

// Error is the failure in one line.
func (f *Failure) Error() string {
	text := f.what()
	if f.Tried != "" {
		text += "; tried: " + f.Tried
	}
	if f.Do != "" {
		text += "; do: " + f.Do
	}
	return text
}

// what is the failure without what was tried and what to do.
func (f *Failure) what() string { return fmt.Sprintf("%s failed: %s", f.Step, f.Reason) }

// kind is the same for failures that need not be told twice: numbers in reasons, such as ports of this machine and
// times, make no other failure, nor does at what this side was when the other one hung up.
func (f *Failure) kind() string {
	at := f.Endpoint + "|" + f.Address + "|" + string(f.Step) + "|"
	for _, words := range []string{"connection reset by peer", "broken pipe", "EOF"} {
		if strings.HasSuffix(strings.TrimRight(f.Reason, `"`), words) {
			return at + "hung up"
		}
	}
	return at + strings.Map(func(r rune) rune {
		if '0' <= r && r <= '9' {
			return -1
		}
		return r
	}, f.Reason)
}

// Report is what is known of the way to the control plane; /status and `evermesh-agent preflight` show it.
type Report struct {
	Node        string           // whose configuration is asked for
	Proof       string           // how the agent proves who it is, such as "signature, credentials from the environment"
	Endpoints   []EndpointReport // in the order of APPMESH_XDS_ENDPOINT
	ClockOffset time.Duration    // what the control plane's clock is ahead of this machine's, when signatures were refused for it
}

// EndpointReport is what came of an endpoint last.
type EndpointReport struct {
	Endpoint string
	Tried    bool       // false before the first attempt
	Served   bool       // an address of it served a stream, and no attempt failed since then
	At       time.Time  // of what is told here
	Failures []*Failure // one for each address that failed since it last served; at most maxFailures
}

// maxFailures bounds the addresses of an endpoint that are told apart.
const maxFailures = 16

// OK says whether an endpoint serves.
func (r Report) OK() bool {
	return slices.ContainsFunc(r.Endpoints, func(e EndpointReport) bool { return e.Served })
}

// Lines are the report for people: who asks, then a line for each endpoint, or for each of its addresses that failed.
func (r Report) Lines() []string {
	out := []string{fmt.Sprintf("node %s, proof: %s", r.Node, r.Proof)}
	if r.ClockOffset != 0 {
		out = append(out, "clock: "+clockWords(r.ClockOffset))
	}
	for _, e := range r.Endpoints {
		switch {
		case e.Served:
			out = append(out, e.Endpoint+": serves")
		case !e.Tried:
			out = append(out, e.Endpoint+": not tried yet")
		}
		for _, f := range e.Failures {
			out = append(out, fmt.Sprintf("%s (%s): %s", e.Endpoint, f.Address, f.Error()))
		}
	}
	return out
}
