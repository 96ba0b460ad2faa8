package ads

import (
	"slices"
	"time"

	"github.com/evermesh/evermesh/internal/envoy"
)

// What a proxy asks for by name: the two dialects say it in their own ways.

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
	var added []string
	defer func() {
		if len(added) > 0 { // sorted once: they may be very many
			s.names = slices.Concat(s.names, added)
			slices.Sort(s.names)
			s.names = slices.Clip(slices.Compact(s.names))
		}
	}()
	for _, n := range names {
		if n == "*" && wild(t) {
			s.due = s.due || (!s.all && len(s.held) == 0)
			s.all = true
			continue
		}
		if !s.has(n) {
			added = append(added, m.intern(n))
			if t == envoy.Secret {
				m.suspect(n)
			}
		}
		if _, has := versions[n]; !has {
			s.owe(n, now)
		}
	}
}

// unsubscribe takes names away; the proxy forgets what it had of them.
func (m *machine) unsubscribe(now time.Time, t envoy.Type, names []string) {
	s := &m.of[t]
	if len(names) == 0 {
		return
	}
	star := wild(t) && slices.Contains(names, "*")
	s.all = s.all && !star
	gone := make(map[string]bool, len(names))
	for _, n := range names {
		if !s.has(n) {
			continue
		}
		gone[n] = true
		if s.all {
			s.owe(n, now) // the protocol: say what it is now by the wildcard
			continue
		}
		delete(s.owed, n)
		delete(s.empty, n)
		delete(s.refused, n)
	}
	s.names = slices.DeleteFunc(s.names, func(n string) bool { return gone[n] })
	switch {
	case star:
		s.held = slices.DeleteFunc(slices.Clone(s.held), func(r *envoy.Resource) bool { return !s.has(r.Name) })
	case !s.all:
		s.held = slices.DeleteFunc(slices.Clone(s.held), func(r *envoy.Resource) bool { return gone[r.Name] })
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

func (s *subscription) owe(name string, now time.Time) {
	if s.owed == nil {
		s.owed = map[string]time.Time{}
	}
	if _, ok := s.owed[name]; !ok {
		s.owed[name] = now
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
