package rest

import (
	"net/http"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/auth"
)

// mostLimiters bounds what keys that come and go leave behind.
const mostLimiters = 4096

// rates limits requests per caller: an access key, the sessions of one user or role
// together, the address of who does not sign. Only keys whose signature was verified
// reach it.
type rates struct {
	perSecond float64
	mu        sync.Mutex
	limiters  map[string]*rate.Limiter
}

// Throttle refuses a request beyond the rate of who makes it, whose proof was verified;
// the zero Principal is nobody who is known. Requests that come in elsewhere than at the
// API count, too. Its errors are *api.Error.
func (s *Server) Throttle(r *http.Request, p auth.Principal) error {
	caller, who := p.AccessKeyID, "this access key"
	switch {
	case p.Session != nil: // of which there can be any number
		caller, who = p.Session.IssuerID, "the sessions of this user or role together"
	case p == (auth.Principal{}):
		caller, who = from(r), "this address"
	}
	if !s.rates.allow(caller, s.Now()) {
		return api.Errorf(codeThrottled, "Rate exceeded: %s made more than %g requests per second; try again, with back-off.", who, s.Rate)
	}
	return nil
}

func newRates(perSecond float64) *rates {
	return &rates{perSecond: perSecond, limiters: map[string]*rate.Limiter{}}
}

func (r *rates) allow(caller string, now time.Time) bool {
	if r.perSecond <= 0 {
		return true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	l, ok := r.limiters[caller]
	if !ok {
		if len(r.limiters) >= mostLimiters {
			r.forget(now)
		}
		l = rate.NewLimiter(rate.Limit(r.perSecond), r.burst())
		r.limiters[caller] = l
	}
	return l.AllowN(now, 1)
}

func (r *rates) burst() int { return max(1, int(2*r.perSecond)) }

// forget drops the limiters that are as new: their keys would get the like again.
// When all are at work, all are dropped: to let a burst too many pass is the
// lesser evil.
func (r *rates) forget(now time.Time) {
	for key, l := range r.limiters {
		if l.TokensAt(now) >= float64(r.burst()) {
			delete(r.limiters, key)
		}
	}
	if len(r.limiters) >= mostLimiters {
		clear(r.limiters)
	}
}
