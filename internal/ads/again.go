package ads

import (
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/envoy"
)

// Listeners open ports and files, so Envoy may refuse one for what is wrong around it:
// a port that another program has, a directory that is not there. Nobody tells when that
// is over. So listeners that were refused are sent again after a while, although nothing
// of them changed: Envoy leaves those alone that it has, and tries the others. What else
// is refused is so for what it says (secrets apart, see trouble.go), and waits for a change.

const (
	// firstAgain is how long refused listeners wait for the first time, then twice as long
	// each time; lastAgain is the most. Proxies that refused the same do not come
	// together: each waits a tenth less or more.
	firstAgain = 30 * time.Second
	lastAgain  = 10 * time.Minute
)

// forgive forgets what was refused: what is wanted is another, or was accepted.
func (s *subscription) forgive() { s.refused, s.tries, s.again = nil, 0, time.Time{} }

// resend notes when what was refused now is sent again.
func (m *machine) resend(now time.Time, f *flight) {
	s := &m.of[f.typ]
	if f.typ != envoy.Listener || m.again <= 0 {
		return
	}
	wait := m.again
	for range min(s.tries, 10) {
		wait *= 2
	}
	wait = min(wait, max(lastAgain, m.again))
	if m.vary != nil {
		wait = m.vary(wait)
	}
	s.tries, s.again = s.tries+1, now.Add(wait)
}

// barred says whether what was refused is not to be sent yet, and until when; zero is
// until a change.
func (s *subscription) barred(now time.Time) (until time.Time, barred bool) {
	if len(s.refused) == 0 || (!s.again.IsZero() && !now.Before(s.again)) {
		return time.Time{}, false
	}
	return s.again, true
}

// refusalOf is a refusal as it is told. One that says what the last one said began
// with that.
func (s *subscription) refusalOf(now time.Time, f *flight, reason string) *api.Refusal {
	out := &api.Refusal{At: api.Timestamp{Time: now}, Message: shortened(reason), Version: f.version}
	if last := s.refusal; last != nil && s.tries > 0 && last.Message == out.Message && last.Version == out.Version {
		return last
	}
	return out
}

// repeated says whether a refusal of listeners that were sent again says what the one
// before said: whoever logs says so once.
func (m *machine) repeated(r request) bool {
	s := &m.of[r.typ]
	return r.typ == envoy.Listener && s.flight != nil && r.nonce == s.flight.nonce &&
		s.tries > 0 && s.refusal != nil && s.refusal.Message == shortened(r.reason)
}
