package relay

import (
	"regexp"
	"sync"
	"time"
)

// skewed are the control plane's words for a signature that is too old or too new: they end with its own time and the
// difference that it allows. AWS's services say the same, and so do its SDKs read it.
var skewed = regexp.MustCompile(`(?:Signature expired|Signature not yet current): \d{8}T\d{6}Z is (?:now earlier|still later) than \d{8}T\d{6}Z \((\d{8}T\d{6}Z) [+-] `)

// clock is this machine's, corrected by what the control plane says: a signature holds its time, and is refused when
// the clocks differ by more than five minutes. A machine whose clock jumps by a day is refused once, corrected, and
// corrected again when its clock is right.
type clock struct {
	now func() time.Time

	mu     sync.Mutex
	offset time.Duration
}

// time is the control plane's, as far as is known.
func (c *clock) time() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now().Add(c.offset)
}

// correct learns from a refusal; ok is false when that was not about time. A difference below what the control plane
// allows is none.
func (c *clock) correct(refusal string) (offset time.Duration, ok bool) {
	m := skewed.FindStringSubmatch(refusal)
	if m == nil {
		return 0, false
	}
	theirs, err := time.Parse("20060102T150405Z", m[1])
	if err != nil {
		return 0, false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.offset = theirs.Sub(c.now()).Round(time.Second)
	if c.offset.Abs() < time.Minute {
		c.offset = 0
	}
	return c.offset, true
}

func (c *clock) ahead() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.offset
}

// clockWords is an offset for people.
func clockWords(offset time.Duration) string {
	switch {
	case offset > 0:
		return "this machine's clock is " + offset.String() + " behind the control plane's"
	case offset < 0:
		return "this machine's clock is " + (-offset).String() + " ahead of the control plane's"
	}
	return "this machine's clock is the control plane's"
}
