package relay

import (
	"slices"
	"sync"
	"time"

	"github.com/evermesh/evermesh/internal/agent/settings"
)

// sayAgain is how long the same failure is not told again at a level that people read.
const sayAgain = time.Minute

// reports keeps what came of the endpoints, and what was told of it.
type reports struct {
	mu   sync.Mutex
	of   map[settings.Endpoint]*EndpointReport
	said map[string]time.Time // by kind of failure
}

func newReports() *reports {
	return &reports{of: map[settings.Endpoint]*EndpointReport{}, said: map[string]time.Time{}}
}

// failed notes a failure, and says whether it is to be told: it is another one than before, or the last time is long
// ago.
func (r *reports) failed(e settings.Endpoint, f *Failure, now time.Time) (tell bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.keep(e, f, now)
	for kind, at := range r.said { // addresses come and go
		if now.Sub(at) >= sayAgain {
			delete(r.said, kind)
		}
	}
	if _, told := r.said[f.kind()]; told {
		return false
	}
	r.said[f.kind()] = now
	return true
}

// known puts in what was found out about a failure later.
func (r *reports) known(e settings.Endpoint, f *Failure, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.keep(e, f, now)
}

func (r *reports) keep(e settings.Endpoint, f *Failure, now time.Time) {
	of := r.at(e, now)
	of.Served = false
	of.Failures = slices.DeleteFunc(of.Failures, func(old *Failure) bool { return old.Address == f.Address })
	if len(of.Failures) == maxFailures {
		of.Failures = slices.Delete(of.Failures, 0, 1)
	}
	of.Failures = append(of.Failures, f)
}

// served notes that the endpoint serves a stream: what fails after that is news.
func (r *reports) served(e settings.Endpoint, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	of := r.at(e, now)
	for _, f := range of.Failures {
		delete(r.said, f.kind())
	}
	of.Served, of.Failures = true, nil
}

func (r *reports) at(e settings.Endpoint, now time.Time) *EndpointReport {
	of := r.of[e]
	if of == nil {
		of = &EndpointReport{Endpoint: e.String()}
		r.of[e] = of
	}
	of.Tried, of.At = true, now
	return of
}

// list is a copy for the endpoints.
func (r *reports) list(endpoints []settings.Endpoint) []EndpointReport {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []EndpointReport
	for _, e := range endpoints {
		one := EndpointReport{Endpoint: e.String()}
		if of := r.of[e]; of != nil {
			one = *of
			one.Failures = slices.Clone(of.Failures)
		}
		out = append(out, one)
	}
	return out
}
