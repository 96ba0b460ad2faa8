package rest

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
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
