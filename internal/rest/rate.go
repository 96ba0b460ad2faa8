package rest

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// rates limits requests per access key. Only keys whose signature was verified
// reach it, so it holds no more limiters than there are keys.
type rates struct {
	perSecond float64
	mu        sync.Mutex
	limiters  map[string]*rate.Limiter
}

func newRates(perSecond float64) *rates {
	return &rates{perSecond: perSecond, limiters: map[string]*rate.Limiter{}}
}

func (r *rates) allow(accessKey string, now time.Time) bool {
	if r.perSecond <= 0 {
		return true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	l, ok := r.limiters[accessKey]
	if !ok {
		l = rate.NewLimiter(rate.Limit(r.perSecond), max(1, int(2*r.perSecond)))
		r.limiters[accessKey] = l
	}
	return l.AllowN(now, 1)
}
