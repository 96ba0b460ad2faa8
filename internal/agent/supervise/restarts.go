package supervise

import "time"

// maxDelay bounds the pause between two starts.
const maxDelay = 10 * time.Second

// budget counts the restarts in a row. An Envoy that ran for long starts a new row: what failed once a week is no loop.
type budget struct {
	allowed int
	delay   time.Duration // before the second restart in a row; doubled for each one after that
	forget  time.Duration // how long an Envoy must run to be none of the row; 0 never forgets

	used int
}

// next is how long to wait before the next start, after one that ran for so long; false when there is none left. The
// first restart comes at once.
func (b *budget) next(ran time.Duration) (time.Duration, bool) {
	if b.forget > 0 && ran >= b.forget {
		b.used = 0
	}
	if b.used >= b.allowed {
		return 0, false
	}
	b.used++
	if b.used == 1 {
		return 0, true
	}
	return min(b.delay<<min(b.used-2, 16), maxDelay), true
}
