package ads

import (
	"time"

	"github.com/evermesh/evermesh/internal/envoy"
)

// A request through a gateway's proxy is looked up twice: the first hop chooses a
// service, the second one looks for its virtual host. Envoy changes one route
// configuration after the other, so a host comes to the second hop before the first
// one leads there, and leaves it after; between them lies an acknowledgement, as
// with clusters (D6.1).

// linger is how long a virtual host stays in the second hop when the first one has
// ceased to lead there: requests may be on the way between the two.
const linger = 200 * time.Millisecond

// hop is what the proxy is to have now of a route configuration that it may have in
// the form r, as far as clusters are concerned: nil when that has to wait, and
// nothing of before is known.
func (m *machine) hop(now time.Time, r, old *envoy.Resource) *envoy.Resource {
	known := old != nil && old.Encoded != nil && old.Hash != uncertain
	if envoy.SecondHop(r.Name) {
		if known && (m.leading() || now.Before(m.lingers())) {
			return r.Beside(old)
		}
		return r
	}
	s := &m.of[envoy.Route]
	for _, second := range m.goal.list(envoy.Route) {
		if !envoy.SecondHop(second.Name) || !s.has(second.Name) {
			continue
		}
		if has := find(s.held, second.Name); has != nil && has.Hash != uncertain && has.Carries(second) {
			continue
		}
		if known {
			return old
		}
		return nil
	}
	return r
}

// leading says whether some first hop may lead to what the goal's does not.
func (m *machine) leading() bool {
	for _, r := range m.of[envoy.Route].held {
		if envoy.SecondHop(r.Name) {
			continue
		}
		if wanted := find(m.goal.list(envoy.Route), r.Name); wanted == nil || wanted.Hash != r.Hash {
			return true
		}
	}
	return false
}

// lingers is until when virtual hosts stay that no first hop leads to any more.
func (m *machine) lingers() time.Time { return m.of[envoy.Route].acceptedAt.Add(linger) }

// leaving is when such virtual hosts are to go; zero for never, or not yet.
func (m *machine) leaving(now time.Time) time.Time {
	if at := m.lingers(); now.Before(at) && !m.leading() {
		for _, r := range m.of[envoy.Route].held {
			if wanted := find(m.goal.list(envoy.Route), r.Name); wanted != nil && envoy.SecondHop(r.Name) && wanted.Hash != r.Hash {
				return at
			}
		}
	}
	return time.Time{}
}
