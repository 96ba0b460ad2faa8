package ads

import (
	"slices"
	"strconv"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"

	"github.com/evermesh/evermesh/internal/envoy"
)

// next returns what is to be sent now, or nil, and when to ask again although
// nothing happened (zero: never). The caller sends what it gets before it asks
// again.
//
// What is new goes clusters first; a listener or a route configuration follows
// when the proxy has acknowledged every cluster that it names, which Envoy does
// when they are warm. What is old goes in the other direction: a cluster leaves
// when the proxy has acknowledged all listeners and routes of the goal.
func (m *machine) next(now time.Time) (*flight, time.Time) {
	var wake time.Time
	for t := envoy.Cluster; t <= envoy.Secret; t++ {
		f, again := m.try(now, t)
		if f != nil {
			m.launch(now, t, f)
			return f, time.Time{}
		}
		wake = sooner(wake, again)
	}
	return nil, sooner(wake, m.retry())
}

func (m *machine) try(now time.Time, t envoy.Type) (*flight, time.Time) {
	s := &m.of[t]
	if !s.spoken || s.flight != nil {
		// Its silence is what ends the wait of the others.
		if t == envoy.Cluster && s.flight != nil && now.Before(s.flight.at.Add(m.silence)) {
			return nil, s.flight.at.Add(m.silence)
		}
		return nil, time.Time{}
	}
	switch t {
	case envoy.Cluster:
		if len(s.refused) > 0 {
			return nil, time.Time{}
		}
		return m.whole(s, t, m.clusters()), time.Time{}
	case envoy.Listener:
		if until, barred := s.barred(now); barred {
			return nil, until
		}
		if len(m.of[envoy.Cluster].refused) > 0 {
			return nil, time.Time{}
		}
		content, ok := m.listeners(now)
		if !ok {
			return nil, time.Time{}
		}
		return m.whole(s, t, content), time.Time{}
	case envoy.Route:
		if len(m.of[envoy.Cluster].refused) > 0 {
			return nil, time.Time{}
		}
	}
	return m.each(now, s, t)
}

// launch notes what is now in flight.
func (m *machine) launch(now time.Time, t envoy.Type, f *flight) {
	s := &m.of[t]
	m.nonces++
	f.typ, f.nonce, f.at, f.system = t, strconv.FormatUint(m.nonces, 10), now, m.goal.version
	f.version = m.versionAfter(t, s, f)
	s.flight, s.nonce, s.due = f, f.nonce, false
	for _, r := range f.sent {
		if t == envoy.Cluster {
			// Envoy warms the cluster anew and waits for its endpoints, whichever
			// it has, also when it has yet to ask for them on this stream (D6.1).
			eds := &m.of[envoy.LoadAssignment]
			if old := find(s.held, r.Name); (old == nil || old.Hash != r.Hash) && (eds.has(r.Name) || (!eds.spoken && m.byEDS(r))) {
				eds.owe(r.Name, now)
			}
		}
		delete(s.owed, r.Name)
		if r.Hash != none {
			delete(s.empty, r.Name)
		}
	}
	for _, n := range f.removed {
		delete(s.owed, n)
	}
	if f.complete || len(s.owed) == 0 {
		s.owed = nil
	}
}

// byEDS says whether the cluster gets its endpoints from us.
func (m *machine) byEDS(cluster *envoy.Resource) bool {
	_, ok := cluster.Query()
	return ok || find(m.goal.list(envoy.LoadAssignment), cluster.Name) != nil
}

// versionAfter is the type's version once the proxy has accepted f: the goal's
// when that is what it then has.
func (m *machine) versionAfter(t envoy.Type, s *subscription, f *flight) string {
	after := f.sent
	if !f.complete {
		after = union(f.sent, without(s.held, f.removed))
	}
	if t != envoy.Secret && same(after, m.goal.list(t)) {
		return m.goal.lists[t].Hash
	}
	return digest(after)
}

// clusters is what CDS is to hold now: the goal and, as long as some listener
// or route may use them, the old ones.
func (m *machine) clusters() []*envoy.Resource {
	wanted, held := m.selected(envoy.Cluster), m.of[envoy.Cluster].held
	if same(wanted, held) || m.settled() {
		return wanted
	}
	return union(wanted, held)
}

// listeners is what LDS is to hold now. A listener that has to wait for its
// clusters keeps its last form. ok is false when that form is not known.
func (m *machine) listeners(now time.Time) (content []*envoy.Resource, ok bool) {
	s, wanted := &m.of[envoy.Listener], m.selected(envoy.Listener)
	if same(wanted, s.held) {
		return wanted, true
	}
	waiting := false
	for _, r := range wanted {
		if m.ready(now, r.AllClusters()) {
			content = append(content, r)
			continue
		}
		waiting = true
		if old := find(s.held, r.Name); old != nil {
			content = append(content, old)
		}
	}
	switch {
	case !waiting:
		return wanted, true
	case s.due, s.unknown, m.of[envoy.Cluster].unknown:
		return nil, false
	}
	return content, true
}

// selected is the part of the goal that the proxy asked for.
func (m *machine) selected(t envoy.Type) []*envoy.Resource {
	s, all := &m.of[t], m.goal.list(t)
	if s.all {
		return all
	}
	return slices.DeleteFunc(slices.Clone(all), func(r *envoy.Resource) bool { return !s.has(r.Name) })
}

// whole is the response that gives the proxy this content of CDS or LDS, nil
// when there is nothing to say.
func (m *machine) whole(s *subscription, t envoy.Type, content []*envoy.Resource) *flight {
	if !s.due && !s.unknown && len(s.owed) == 0 && same(content, s.held) {
		return nil
	}
	if !m.delta {
		if slices.ContainsFunc(content, func(r *envoy.Resource) bool { return r.Encoded == nil }) {
			return nil // holds something in a form that nobody knows; it has to wait
		}
		return &flight{sent: content, complete: true}
	}
	f := &flight{}
	for _, r := range content {
		old := find(s.held, r.Name)
		_, owed := s.owed[r.Name]
		if r.Encoded != nil && (owed || old == nil || (old != r && old.Hash != r.Hash)) {
			f.sent = append(f.sent, r)
		}
	}
	for _, r := range s.held {
		if find(content, r.Name) == nil {
			f.removed = append(f.removed, r.Name)
		}
	}
	for n := range s.owed {
		if find(content, n) == nil && !slices.Contains(f.removed, n) {
			f.removed = append(f.removed, n)
		}
	}
	if len(f.sent) == 0 && len(f.removed) == 0 && !s.due {
		return nil
	}
	return f
}

// each is the response for types that are asked for by name: what changed and
// what is owed. Secrets go one by one: Envoy refuses a response as a whole, and
// one that it cannot use is to harm no other.
func (m *machine) each(now time.Time, s *subscription, t envoy.Type) (*flight, time.Time) {
	if len(s.owed) == 0 && t != envoy.Secret && same(s.held, m.goal.list(t)) {
		return nil, time.Time{}
	}
	var wake time.Time
	f := &flight{}
	for _, n := range s.names {
		if t == envoy.Secret && len(f.sent)+len(f.removed) > 0 {
			break
		}
		since, owed := s.owed[n]
		r, absent := m.target(now, s, t, n)
		old := find(s.held, n)
		switch {
		case r != nil && s.refused[n] == r.Hash && r.Hash != uncertain:
		case r != nil && t == envoy.Secret && r.Encoded == nil: // sent, or had
		case r != nil && (owed || old == nil || old.Hash != r.Hash):
			f.sent = append(f.sent, r)
		case r == nil && owed && absent && t == envoy.Secret && m.hopeful(n): // Envoy waits with what needs it
		case r == nil && owed && absent:
			switch {
			case m.delta:
				f.removed = append(f.removed, n)
			case t == envoy.Secret:
				f.sent = append(f.sent, noSecret(n))
			default:
				delete(s.owed, n) // the dialect has no word for it
			}
		case r == nil && owed && t == envoy.LoadAssignment && old == nil:
			if at := since.Add(m.patience); now.Before(at) {
				wake = sooner(wake, at)
				continue
			}
			if s.empty == nil {
				s.empty = map[string]bool{}
			}
			s.empty[n] = true
			f.sent = append(f.sent, noEndpoints(n))
		}
	}
	if len(f.sent) == 0 && len(f.removed) == 0 {
		if t == envoy.Route {
			wake = m.leaving(now)
		}
		return nil, wake
	}
	return f, time.Time{}
}

// target is what the proxy is to have now under a name of a type that is asked
// for by name: nil when that has to wait, or when there is no such thing.
func (m *machine) target(now time.Time, s *subscription, t envoy.Type, name string) (r *envoy.Resource, absent bool) {
	wanted, old := find(m.wanted(t), name), find(s.held, name)
	switch {
	case t == envoy.LoadAssignment && wanted == nil:
		// Unknown endpoints: what the proxy has stays (D6.4).
		if old != nil && old.Encoded != nil && old.Hash != uncertain {
			return old, false
		}
		return nil, false
	case wanted == nil:
		return nil, true
	case t != envoy.Route:
		return wanted, false
	case m.routable(now, wanted, old):
		return m.hop(now, wanted, old), false
	case old == nil || old.Encoded == nil:
		return nil, false
	}
	return m.hop(now, m.merged(now, wanted, old), old), false
}

// routable says whether the proxy has all clusters that a route configuration
// names. What it has accepted names none that it does not have: virtual hosts
// that stay are not looked at.
func (m *machine) routable(now time.Time, wanted, old *envoy.Resource) bool {
	if !m.ready(now, slices.Values(wanted.Clusters)) {
		return false
	}
	var has []*envoy.VirtualHost
	if old != nil && old.Hash != uncertain {
		has = old.Hosts
	}
	for i, h := range wanted.Hosts {
		if i < len(has) && has[i] == h {
			continue
		}
		if !m.ready(now, slices.Values(h.Clusters)) {
			return false
		}
	}
	return true
}

// merged is a route configuration in which the virtual hosts that wait for a
// cluster keep their last form.
func (m *machine) merged(now time.Time, wanted, old *envoy.Resource) *envoy.Resource {
	last := make(map[string]*envoy.VirtualHost, len(old.Hosts))
	for _, h := range old.Hosts {
		last[h.Name] = h
	}
	hosts := make([]*envoy.VirtualHost, 0, len(wanted.Hosts))
	for _, h := range wanted.Hosts {
		if !m.ready(now, slices.Values(h.Clusters)) {
			if h = last[h.Name]; h == nil {
				continue
			}
		}
		hosts = append(hosts, h)
	}
	return wanted.WithHosts(hosts)
}

// none is the hash of the empty set that stands for unknown endpoints.
const none = "none"

func noEndpoints(cluster string) *envoy.Resource {
	encoded, err := proto.Marshal(&endpointv3.ClusterLoadAssignment{ClusterName: cluster})
	if err != nil {
		return nil
	}
	return &envoy.Resource{Name: cluster, Hash: none, Encoded: encoded}
}

// nothing is the hash of the secret that stands for one that is not delivered.
const nothing = "nothing"

// noSecret says that there is no such secret, for which the state of the world
// has no word: without an answer Envoy would wait for 15 s with the cluster or
// listener that names it, and with all that comes after. It holds an authority
// that is none, which Envoy refuses whatever it asked for: an empty secret it
// might take for one that verifies nothing.
func noSecret(name string) *envoy.Resource {
	encoded, err := proto.Marshal(&tlsv3.Secret{Name: name, Type: &tlsv3.Secret_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{
		TrustedCa: &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: "not delivered"}},
	}}})
	if err != nil {
		return nil
	}
	return &envoy.Resource{Name: name, Hash: nothing, Encoded: encoded}
}

// sooner is the earlier of two times; zero is never.
func sooner(a, b time.Time) time.Time {
	if a.IsZero() || (!b.IsZero() && b.Before(a)) {
		return b
	}
	return a
}
