package audit

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/evermesh/evermesh/internal/audit/segment"
	"github.com/evermesh/evermesh/internal/auth"
)

const (
	// wholeRefusals is how many refusals of one principal are kept whole in a minute;
	// of more, one event says how many there were. Who may do nothing can still be
	// refused without end, and that must push nothing out.
	wholeRefusals = 20
	refusalSpan   = time.Minute
	// lookEvery is how often it is looked which minutes are over.
	lookEvery = 5 * time.Second
)

// refusals counts those of each principal in the minute that its first one began.
type refusals struct {
	mu     sync.Mutex
	of     map[string]*refused // by account and id; each is one that exists
	summed atomic.Int64
}

// refused is a principal's minute.
type refused struct {
	principal auth.Principal
	account   string // has the events
	began     time.Time
	n         int
	last      refusal
}

// refusal is one, as far as the sum tells of it.
type refusal struct {
	Name, Code, From string
	At               time.Time
}

// sum is what the event of many refusals tells.
type sum struct {
	Count int    `json:"refusedCalls"`
	Since string `json:"since"`
	Until string `json:"until"`
	Name  string `json:"lastEventName"`
	Code  string `json:"lastErrorCode"`
	From  string `json:"lastSourceIPAddress"`
}

// whole says whether a refusal is kept whole; else it is counted.
func (s *refusals) whole(p auth.Principal, account string, last refusal) bool {
	id, _, _ := strings.Cut(p.ID, ":") // of a session, its role's
	key := account + " " + p.Account + " " + id
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.of[key]
	if r == nil {
		r = &refused{principal: p, account: account, began: last.At}
		s.of[key] = r
	}
	if r.n++; r.n <= wholeRefusals {
		return true
	}
	r.last = last
	s.summed.Add(1)
	return false
}

// over takes out the minutes that began before a time, but for those without a
// refusal that was only counted, of which nothing is to be told.
func (s *refusals) over(before time.Time) (out []*refused) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, r := range s.of {
		if !r.began.Before(before) {
			continue
		}
		delete(s.of, key)
		if r.n > wholeRefusals {
			out = append(out, r)
		}
	}
	return out
}

// Summed is how many refusals have no event of their own.
func (t *Trail) Summed() int64 { return t.refusals.summed.Load() }

// sumUp keeps an event for each principal that had too many refusals in a minute
// that began before a time.
func (t *Trail) sumUp(ctx context.Context, before time.Time) {
	var out []segment.Entry
	for _, r := range t.refusals.over(before) {
		e := t.happened("RefusedCalls", r.last.At)
		e.Identity = identityOf(r.principal)
		e.Details = &sum{r.n - wholeRefusals, stamp(r.began), stamp(r.last.At), r.last.Name, r.last.Code, clipped(r.last.From)}
		e.Recipient = r.account
		out = append(out, e.entry(r.last.At))
	}
	_ = t.Refusals.Append(ctx, out...) // the log has said why
}

// trailSource is where events come from that the trail itself makes.
const trailSource = "cloudtrail.amazonaws.com"

// happened is an event that is no call's.
func (t *Trail) happened(name string, at time.Time) event {
	return event{
		Version: eventVersion, Time: stamp(at), Source: trailSource, Name: name, Region: t.Region, SourceIP: trailSource, UserAgent: trailSource,
		ID: t.NewID(), ReadOnly: true, Type: typeEvent, Management: true, Category: category,
	}
}
