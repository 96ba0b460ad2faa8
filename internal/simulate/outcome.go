package simulate

import (
	"slices"
	"time"
)

// End is what becomes of a request.
type End int

// Ends.
const (
	Forwarded End = iota // it goes to one of the targets
	Answered             // the proxy answers by itself
	Closed               // the connection is closed without an answer
)

// Outcome is what becomes of a request, with all names on the way.
type Outcome struct {
	Hops []Hop // one at a node, two at a gateway
	End  End
	// Status is the HTTP status of an answer; to gRPC requests it is 200 and
	// GRPCStatus says the rest.
	Status     int
	GRPCStatus string
	// Why says in words why it was answered or closed.
	Why     string
	Targets []Target // of what is forwarded, in the configuration's order
	// Sent is the request as it leaves the proxy. What Envoy adds to every request
	// (x-request-id, x-forwarded-proto, x-envoy-expected-rq-timeout-ms) is not in it.
	Sent Message
}

// Message is a request between two hops, or as it arrives. By TCP it is empty.
type Message struct {
	Method, Scheme, Authority, Path string
	Headers                         []Header // sorted by name; names in lower case
}

// Hop is one way through a listener.
type Hop struct {
	Listener string
	Chain    int    // index of the filter chain; -1: none matches
	Match    string // what the chain matches, in words
	TLS      *TLS   // nil: the chain does not end TLS
	// MaxConnections is how many connections the chain takes at a time; 0: no limit.
	MaxConnections uint64
	// RouteConfig and what follows is for HTTP. Host is the virtual host, Route the
	// index of the route in it, or -1; Matched is its match, in words.
	RouteConfig, Host string
	Route             int
	Matched           string
	// Path is the path that was matched: after normalisation, with the query.
	Path string
	// Timeout bounds a request, PerTry each try of it, also an only one, and Idle a
	// silent stream or TCP connection; 0: nothing does.
	Timeout, PerTry, Idle time.Duration
	Retry                 *Retry // nil: one try
	// HiddenFromClients are headers that are taken out of responses.
	HiddenFromClients []string
	AccessLogs        []string // paths of files in which it may be logged
}

// Retry is a retry policy.
type Retry struct {
	On       []string // Envoy's words, in its order
	Statuses []uint32 // for retriable-status-codes
	Retries  uint32   // tries beside the first
	// OtherHost says that a retry goes to a host that was not tried, if one of
	// that many picks (HostPicks) finds one.
	OtherHost bool
	HostPicks int64
}

// Repeats says whether an answer with that status is tried again.
func (r *Retry) Repeats(status uint32) bool {
	return r != nil && slices.Contains(r.On, "retriable-status-codes") && slices.Contains(r.Statuses, status)
}

// close ends in a connection that is closed.
func (o *Outcome) close(why string) { o.End, o.Why, o.Targets = Closed, why, nil }

// answer ends in an answer of the proxy.
func (o *Outcome) answer(status int, why string, m *message) {
	o.End, o.Status, o.Why, o.Targets = Answered, status, why, nil
	if m.isGRPC() {
		o.Status, o.GRPCStatus = 200, grpcStatus(status)
	}
}

// grpcStatus is what a status becomes for a gRPC client.
func grpcStatus(status int) string {
	switch status {
	case 400:
		return "INTERNAL"
	case 401:
		return "UNAUTHENTICATED"
	case 403:
		return "PERMISSION_DENIED"
	case 404:
		return "UNIMPLEMENTED"
	case 429, 502, 503, 504:
		return "UNAVAILABLE"
	}
	return "UNKNOWN"
}
