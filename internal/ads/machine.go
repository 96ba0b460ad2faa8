package ads

import (
	"maps"
	"slices"
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

	goal      *goal
	returning bool // the proxy came with something it had already
	answered  bool // the proxy has answered a response
	of        [envoy.Secret + 1]subscription
	nonces    uint64

	secrets []*envoy.Resource // what of the subscribed secrets may be delivered
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
	// the goal changes.
	refused map[string]string
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
}

// aim sets what the proxy is to have. What was refused is tried again when
// something that may matter to it is another.
func (m *machine) aim(g *goal) {
	differs := func(t envoy.Type) bool { return m.goal.lists[t].Hash != g.lists[t].Hash }
	if differs(envoy.LoadAssignment) {
		m.of[envoy.LoadAssignment].refused = nil
	}
	if differs(envoy.Cluster) || differs(envoy.Listener) || differs(envoy.Route) {
		m.of[envoy.Cluster].refused, m.of[envoy.Listener].refused, m.of[envoy.Route].refused = nil, nil, nil
	}
	m.goal = g
	for _, t := range envoy.Types() {
		m.share(t)
	}
}

// receive takes in a request. Its error ends the stream.
func (m *machine) receive(now time.Time, r request) error {
	if err := bounded(r, len(m.of[r.typ].names)); err != nil {
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
		} else {
			s.accept(now, f)
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
}

// hold rebuilds what a delta proxy has from the versions that it names.
func (m *machine) hold(t envoy.Type, s *subscription, versions map[string]string) {
	for name, version := range versions {
		r := &envoy.Resource{Name: name, Hash: version}
		if wanted := find(m.wanted(t), name); wanted != nil && wanted.Hash == version {
			r = wanted
		}
		s.held = append(s.held, r)
	}
	slices.SortFunc(s.held, func(a, b *envoy.Resource) int { return byName(a, b.Name) })
	m.share(t)
}

// wild says whether the type can be asked for as a whole.
func wild(t envoy.Type) bool { return t == envoy.Cluster || t == envoy.Listener }

// subscribe adds names. Each is answered, also when the proxy had it before,
// unless it says which version it has.
func (m *machine) subscribe(now time.Time, t envoy.Type, names []string, versions map[string]string) {
	s := &m.of[t]
	for _, n := range names {
		if n == "*" && wild(t) {
			s.due = s.due || (!s.all && len(s.held) == 0)
			s.all = true
			continue
		}
		s.name(m.intern(n))
		if _, has := versions[n]; !has {
			s.owe(n, now)
		}
	}
}

func (m *machine) unsubscribe(now time.Time, t envoy.Type, names []string) {
	s := &m.of[t]
	for _, n := range names {
		if n == "*" && wild(t) {
			s.all = false
			s.held = slices.DeleteFunc(slices.Clone(s.held), func(r *envoy.Resource) bool { return !s.has(r.Name) })
			continue
		}
		if i, ok := slices.BinarySearch(s.names, n); ok {
			s.names = slices.Delete(s.names, i, i+1)
		}
		if s.all {
			s.owe(n, now) // the protocol: say what it is now by the wildcard
			continue
		}
		s.held = without(s.held, []string{n})
		delete(s.owed, n)
		delete(s.empty, n)
		delete(s.refused, n)
	}
}

// rename brings names in line with a state-of-the-world request, which lists
// all of them.
func (m *machine) rename(now time.Time, r request) {
	s := &m.of[r.typ]
	var add, remove []string
	wanted := make(map[string]bool, len(r.names))
	for _, n := range r.names {
		wanted[n] = true
		if !s.has(n) || n == "*" {
			add = append(add, n)
		}
	}
	for _, n := range s.names {
		if !wanted[n] {
			remove = append(remove, n)
		}
	}
	if s.all && len(r.names) > 0 && !wanted["*"] {
		remove = append(remove, "*")
	}
	m.unsubscribe(now, r.typ, remove)
	m.subscribe(now, r.typ, add, nil)
}

func (s *subscription) has(name string) bool {
	_, ok := slices.BinarySearch(s.names, name)
	return ok
}

func (s *subscription) name(n string) {
	if i, ok := slices.BinarySearch(s.names, n); !ok {
		s.names = slices.Insert(s.names, i, n)
	}
}

func (s *subscription) owe(name string, now time.Time) {
	if s.owed == nil {
		s.owed = map[string]time.Time{}
	}
	if _, ok := s.owed[name]; !ok {
		s.owed[name] = now
	}
}

// accept takes in an acknowledgement.
func (s *subscription) accept(now time.Time, f *flight) {
	s.version, s.acceptedAt = f.version, now
	for _, r := range f.sent {
		delete(s.refused, r.Name)
	}
	if wild(f.typ) || len(s.refused) == 0 {
		s.refused, s.refusal = nil, nil
	}
	if f.complete {
		s.held, s.unknown = f.sent, false
		return
	}
	sent := f.sent
	if !s.all {
		sent = slices.DeleteFunc(slices.Clone(sent), func(r *envoy.Resource) bool { return !s.has(r.Name) })
	}
	s.held = union(sent, without(s.held, f.removed))
}

// refuse takes in a refusal. Envoy applies what is good in a refused response
// and says nothing about it, so the stream is left with the worst of both: what
// was sent counts as held in no known form, what was withdrawn as gone from the
// clusters, and a listener or route configuration as naming what it named
// before and what it was to name. A new cluster counts as not had, unless
// routes went out because the answer took too long.
func (s *subscription) refuse(now time.Time, f *flight, reason string, late bool) {
	s.refusal = &api.Refusal{At: api.Timestamp{Time: now}, Message: shortened(reason), Version: f.version}
	if s.refused == nil {
		s.refused = map[string]string{}
	}
	withdrawn := f.removed
	if f.complete {
		withdrawn = nil
		for _, r := range s.held {
			if find(f.sent, r.Name) == nil {
				withdrawn = append(withdrawn, r.Name)
			}
		}
	}
	s.due = s.due || (f.complete && f.typ == envoy.Cluster)
	var doubtful []*envoy.Resource
	for _, r := range f.sent {
		if !s.all && !s.has(r.Name) {
			continue // given up meanwhile
		}
		s.refused[r.Name] = r.Hash
		if !wild(f.typ) {
			s.owe(r.Name, now) // an answer is still due, once there is another
		}
		old := find(s.held, r.Name)
		switch {
		case old != nil && (old.Hash == r.Hash || old.Hash == perhaps):
		case old != nil:
			doubtful = append(doubtful, doubt(old, r.Clusters))
		case f.typ != envoy.Cluster:
			doubtful = append(doubtful, doubt(&envoy.Resource{Name: r.Name}, r.Clusters))
		case late:
			doubtful = append(doubtful, doubt(r, nil))
		case !f.complete:
			doubtful = append(doubtful, &envoy.Resource{Name: r.Name, Hash: perhaps})
		}
	}
	if len(f.sent) == 0 && wild(f.typ) {
		s.refused["*"] = f.version // a withdrawal was refused
	}
	for _, n := range withdrawn {
		switch old := find(s.held, n); {
		case f.typ == envoy.Cluster && f.complete:
			s.held = without(s.held, []string{n})
		case f.typ == envoy.Cluster:
			doubtful = append(doubtful, &envoy.Resource{Name: n, Hash: perhaps})
		case old != nil:
			doubtful = append(doubtful, doubt(old, nil))
		}
	}
	slices.SortFunc(doubtful, func(a, b *envoy.Resource) int { return byName(a, b.Name) })
	s.held = union(doubtful, s.held)
}

// doubt is the resource in no known form; it may name these clusters too.
func doubt(r *envoy.Resource, clusters []string) *envoy.Resource {
	out := *r
	out.Hash = uncertain
	out.Clusters = slices.Compact(slices.Sorted(slices.Values(slices.Concat(r.Clusters, clusters))))
	return &out
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

// intern returns the goal's own copy of a name.
func (m *machine) intern(name string) string {
	for _, t := range envoy.Types() {
		if r := find(m.goal.list(t), name); r != nil {
			return r.Name
		}
	}
	return name
}

// wanted is the goal of a type.
func (m *machine) wanted(t envoy.Type) []*envoy.Resource {
	if t == envoy.Secret {
		return m.secrets
	}
	return m.goal.list(t)
}
