package simulate

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"
)

// Meaning is what an outcome is for the client and for the target, and nothing
// else: no listener, route or cluster by name, no indexes, no number of hops.
// Two systems treat a request alike when its meanings are equal, whatever they
// call things and however many routes they need.
//
// Left out are names, words that explain, access logs, and what decides over
// connections and not over requests (limits, outlier detection, checks): compare
// Targets of the outcomes where those matter. Several clusters with the same
// endpoints are one place.
type Meaning struct {
	End        End
	Status     int
	GRPCStatus string
	Places     []Place // sorted; without those that get nothing
	Sent       Message
	// Timeout is the shortest of all hops, as are PerTry and Idle; 0: nothing
	// bounds it.
	Timeout, PerTry, Idle time.Duration
	// Retry is that of the last hop that has one; nil: one try.
	Retry *Retry
	// HiddenFromClients are headers that responses lose, sorted.
	HiddenFromClients []string
}

// Place is where a share of the requests goes.
type Place struct {
	Where string // Discovery in words
	HTTP2 bool
	TLS   string // in words, with server name, secrets and names; empty: none
	Share float64
}

// same says whether two places are one, whatever their shares.
func (p Place) same(q Place) bool { return p.Where == q.Where && p.HTTP2 == q.HTTP2 && p.TLS == q.TLS }

// Meaning drops the names of an outcome.
func (o *Outcome) Meaning() Meaning {
	out := Meaning{End: o.End, Status: o.Status, GRPCStatus: o.GRPCStatus}
	if o.End != Forwarded {
		return out
	}
	out.Sent = o.Sent
	out.Sent.Headers = slices.Clone(o.Sent.Headers)
	out.Sent.Headers = slices.DeleteFunc(out.Sent.Headers, func(h Header) bool { return strings.HasPrefix(h.Name, "x-envoy-original-") })
	for i := range o.Hops {
		h := &o.Hops[i]
		out.Timeout, out.PerTry, out.Idle = shorter(out.Timeout, h.Timeout), shorter(out.PerTry, h.PerTry), shorter(out.Idle, h.Idle)
		out.HiddenFromClients = append(out.HiddenFromClients, h.HiddenFromClients...)
		if h.Retry != nil {
			out.Retry = h.Retry
		}
	}
	slices.Sort(out.HiddenFromClients)
	out.HiddenFromClients = slices.Compact(out.HiddenFromClients)
	for _, t := range o.Targets {
		if t.Share == 0 {
			continue
		}
		place := Place{Where: t.Discovery.String(), HTTP2: t.HTTP2, Share: t.Share}
		if t.TLS != nil {
			place.TLS = "TLS" + t.TLS.String()
		}
		if i := slices.IndexFunc(out.Places, place.same); i >= 0 {
			out.Places[i].Share += place.Share
			continue
		}
		out.Places = append(out.Places, place)
	}
	slices.SortFunc(out.Places, func(a, b Place) int {
		return cmp.Or(cmp.Compare(a.Where, b.Where), cmp.Compare(a.TLS, b.TLS), cmp.Compare(b.Share, a.Share))
	})
	return out
}

// shorter is the shorter of two bounds, of which 0 is none.
func shorter(a, b time.Duration) time.Duration {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// Differences are the parts in which two meanings differ, in words, and none
// when they are equal. Shares may differ by rounding.
func (m Meaning) Differences(other Meaning) []string {
	var out []string
	differ := func(what string, a, b any) {
		if !reflect.DeepEqual(a, b) {
			out = append(out, fmt.Sprintf("%s: %v and %v", what, a, b))
		}
	}
	differ("end", m.End, other.End)
	differ("status", m.Status, other.Status)
	differ("gRPC status", m.GRPCStatus, other.GRPCStatus)
	if !slices.EqualFunc(m.Places, other.Places, func(a, b Place) bool {
		return a.same(b) && a.Share-b.Share < 1e-9 && b.Share-a.Share < 1e-9
	}) {
		differ("places", m.Places, other.Places)
	}
	differ("method", m.Sent.Method, other.Sent.Method)
	differ("scheme", m.Sent.Scheme, other.Sent.Scheme)
	differ("host", m.Sent.Authority, other.Sent.Authority)
	differ("path", m.Sent.Path, other.Sent.Path)
	if !slices.Equal(m.Sent.Headers, other.Sent.Headers) {
		differ("headers", m.Sent.Headers, other.Sent.Headers)
	}
	differ("timeout", m.Timeout, other.Timeout)
	differ("timeout of a try", m.PerTry, other.PerTry)
	differ("idle timeout", m.Idle, other.Idle)
	if !m.Retry.equal(other.Retry) {
		differ("retries", m.Retry, other.Retry)
	}
	differ("hidden from clients", m.HiddenFromClients, other.HiddenFromClients)
	return out
}

// equal does not look at the order of events and statuses.
func (r *Retry) equal(s *Retry) bool {
	if r == nil || s == nil {
		return r == s
	}
	sorted := func(a []string) []string { return slices.Compact(slices.Sorted(slices.Values(a))) }
	codes := func(a []uint32) []uint32 { return slices.Compact(slices.Sorted(slices.Values(a))) }
	return slices.Equal(sorted(r.On), sorted(s.On)) && slices.Equal(codes(r.Statuses), codes(s.Statuses)) &&
		r.Retries == s.Retries && r.OtherHost == s.OtherHost
}

// String names the end.
func (e End) String() string { return [...]string{"forwarded", "answered", "closed"}[e] }
