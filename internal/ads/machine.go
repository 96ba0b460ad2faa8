package ads

import (
	"maps"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/envoy"
)

// machine is the state of one stream, for both dialects of the protocol. It
// does no I/O and reads no clock: receive takes in what the proxy says, aim
// what it is to have, and next tells what may be sent. Nothing else is stored
// about progress: what may be sent follows from the goal and from what this
// stream has accepted (D6.1).
type machine struct {
	delta bool
	// silence is how long routes wait for an acknowledgement of their clusters,
	// patience how long a proxy without endpoints waits for unknown ones.
	silence, patience time.Duration
	again             time.Duration                     // how long refused listeners wait for the first time; 0: for a change
	vary              func(time.Duration) time.Duration // of that and what follows; nil: as it is

	goal      *goal
	returning bool // the proxy came with something it had already
	answered  bool // the proxy has answered a response
	of        [envoy.Secret + 1]subscription
	nonces    uint64

	secrets  []*envoy.Resource   // what of the subscribed secrets may be delivered
	troubles map[string]*trouble // why others are not had, by name
	renewed  map[string]bool     // to be asked for again
	asking   map[string]bool     // whose source is being asked
	forms    map[string]int      // in which form to ask for them; 0 at first
	proofs   map[string]proof    // whose acknowledgement does not count yet
	doubts   doubts              // left by the stream before, of types yet to open
}

// subscription is the state of one type on a stream.
type subscription struct {
	spoken bool     // the proxy asked for the type
	all    bool     // for everything of it, as is usual for CDS and LDS
	names  []string // for these by name, sorted

	// held is what the proxy is known to have, sorted. In rest it is the very
	// slice of the goal, so that a stream at its goal keeps no copy.
	held []*envoy.Resource
	// unknown says that the proxy has something beside held and nobody can say
	// what: a state-of-the-world proxy that came with another version.
	unknown bool

	flight *flight // sent and not answered yet; at most one
	nonce  string  // of the last response

	due bool // an answer is due even if it is empty
	// owed are names whose answer is due although nothing of them changed, and
	// since when.
	owed map[string]time.Time
	// refused is what the proxy refused, name to hash; not sent again before
	// the goal changes, or until again, where that is set. tries is how often in a
	// row the same was refused.
	refused map[string]string
	again   time.Time
	tries   int
	refusal *api.Refusal // the last one since something was accepted

	empty      map[string]bool // endpoint sets given as empty because nothing is known
	version    string          // last accepted, as it went over the wire
	acceptedAt time.Time
}

// flight is a response on its way.
type flight struct {
	typ     envoy.Type
	nonce   string
	version string // of the type
	system  string // of the bundle
	at      time.Time
	sent    []*envoy.Resource // sorted
	removed []string          // delta only
	// complete says that the proxy drops what is not in sent: CDS and LDS in
	// state of the world.
	complete bool
	bytes    int // on the wire
}

// uncertain is the hash of a resource that the proxy has in a form that nobody
// knows: it was part of a refused response, or its version is another's.
const uncertain = ""

// perhaps is the hash of a cluster that was new in a refused delta response, or
// withdrawn by one: no route may count on it, but if it is not wanted any more it
// is withdrawn.
const perhaps = "?"

// request is what both dialects' requests say.
type request struct {
	typ     envoy.Type
	nonce   string
	refused bool
	reason  string // of the refusal

	// delta
	subscribe, unsubscribe []string
	versions               map[string]string
	// state of the world
	names   []string
	version string

	count, weight int // of all names in the request, and their bytes; more than are kept
}

// aim sets what the proxy is to have. What was refused is tried again when
// something that may matter to it is another.
func (m *machine) aim(g *goal) {
	differs := func(t envoy.Type) bool { return m.goal.lists[t].Hash != g.lists[t].Hash }
	if differs(envoy.LoadAssignment) {
		m.of[envoy.LoadAssignment].forgive()
	}
	if differs(envoy.Cluster) || differs(envoy.Listener) || differs(envoy.Route) {
		for _, t := range []envoy.Type{envoy.Cluster, envoy.Listener, envoy.Route} {
			m.of[t].forgive()
		}
	}
	m.goal = g
	for _, t := range envoy.Types() {
		m.share(t)
	}
}

// receive takes in a request. Its error ends the stream.
func (m *machine) receive(now time.Time, r request) error {
	if err := bounded(r, m.of[r.typ].names); err != nil {
		return err
	}
	s := &m.of[r.typ]
	if !s.spoken {
		m.open(now, s, r)
		return nil
	}
	if f := s.flight; f != nil && r.nonce == f.nonce {
		s.flight, m.answered = nil, true
		if r.refused {
			s.refuse(now, f, r.reason, now.Sub(f.at) >= m.silence)
			m.resend(now, f)
		} else {
			s.accept(now, f)
		}
		switch {
		case r.typ != envoy.Secret:
		case r.refused:
			m.refusedSecrets(now, f, r.reason)
		default:
			m.acceptedSecrets(f)
		}
		m.share(r.typ)
	} else if !m.delta && r.nonce != "" && r.nonce != s.nonce {
		return nil // it answers what was overtaken; its answer to the newest follows
	}
	if m.delta {
		m.subscribe(now, r.typ, r.subscribe, nil)
		m.unsubscribe(now, r.typ, r.unsubscribe)
		return nil
	}
	m.rename(now, r)
	return nil
}

// open takes in the first request of a type: what the proxy wants, and what it
// has from an earlier stream (D6.2).
func (m *machine) open(now time.Time, s *subscription, r request) {
	defer maps.DeleteFunc(s.owed, func(n string, _ time.Time) bool { return !s.all && !s.has(n) })
	s.spoken, s.acceptedAt = true, now
	everything := wild(r.typ)
	if m.delta {
		s.all = everything && len(r.subscribe) == 0
		m.hold(r.typ, s, r.versions)
		s.due = everything && len(s.held) == 0
		m.subscribe(now, r.typ, r.subscribe, r.versions)
		m.returning = m.returning || len(r.versions) > 0
		m.distrust(r.typ, s)
		return
	}
	s.all = everything && len(r.names) == 0
	m.rename(now, r)
	s.due = everything && r.version == ""
	if r.version == "" {
		return
	}
	m.returning = true
	s.version = r.version
	switch {
	case everything && s.all && r.version == m.goal.lists[r.typ].Hash:
		s.held = m.goal.list(r.typ)
	case everything:
		s.unknown, s.due = true, true
	default:
		// The version says nothing about a single name: it is answered again.
		for _, n := range s.names {
			s.held = append(s.held, &envoy.Resource{Name: n, Hash: uncertain})
		}
	}
	m.distrust(r.typ, s)
}

// share replaces what the stream keeps of a type by the goal's own slice when
// they are the same.
func (m *machine) share(t envoy.Type) {
	if t == envoy.Secret {
		return
	}
	if s := &m.of[t]; same(s.held, m.goal.list(t)) {
		s.held = m.goal.list(t)
	}
}

// unanswered is how many bytes are on their way to the proxy.
func (m *machine) unanswered() (bytes int) {
	for i := range m.of {
		if f := m.of[i].flight; f != nil {
			bytes += f.bytes
		}
	}
	return bytes
}

// wanted is the goal of a type.
func (m *machine) wanted(t envoy.Type) []*envoy.Resource {
	if t == envoy.Secret {
		return m.secrets
	}
	return m.goal.list(t)
}
