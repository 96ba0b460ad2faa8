package ads

import (
	"iter"
	"slices"
	"time"

	"github.com/evermesh/evermesh/internal/envoy"
)

// How far a proxy is: what it may be sent next follows from these questions.

// ready says whether the proxy has these clusters and keeps them. After too
// long a silence what was sent counts as had.
func (m *machine) ready(now time.Time, clusters iter.Seq[string]) bool {
	s := &m.of[envoy.Cluster]
	f := s.flight
	silent := f != nil && !now.Before(f.at.Add(m.silence))
	for c := range clusters {
		sent := f != nil && find(f.sent, c) != nil
		old := find(s.held, c)
		held := old != nil && old.Hash != perhaps
		if f != nil && held && !sent {
			held = !f.complete && !slices.Contains(f.removed, c)
		}
		if !held && (!silent || !sent) {
			return false
		}
	}
	return true
}

// settled says whether the proxy has accepted all listeners and routes of the
// goal, so that nothing uses a cluster that the goal does not name. A returning
// proxy asks for all that it has before it answers anything: one that did not
// ask for routes then has none.
func (m *machine) settled() bool {
	for _, t := range []envoy.Type{envoy.Listener, envoy.Route} {
		s := &m.of[t]
		silent := !s.spoken && m.returning
		switch {
		case silent && (t == envoy.Listener || len(m.goal.list(t)) > 0):
			return false
		case silent && !m.answered && len(m.of[envoy.Listener].held) == 0:
			return false
		case s.flight != nil, len(s.refused) > 0, !m.follows(t):
			return false
		}
	}
	return true
}

// follows says whether all that the proxy has of listeners or routes is the
// goal's.
func (m *machine) follows(t envoy.Type) bool {
	s := &m.of[t]
	if t == envoy.Listener {
		return !s.unknown && (!s.spoken || same(s.held, m.selected(t)))
	}
	if same(s.held, m.goal.list(t)) {
		return true
	}
	for _, r := range s.held {
		if wanted := find(m.goal.list(t), r.Name); wanted == nil || wanted.Hash != r.Hash {
			return false
		}
	}
	return true
}

// covered says whether the proxy has all clusters of the goal, perhaps with old
// ones that stay because it refused what would leave them unused.
func (m *machine) covered() bool {
	s := &m.of[envoy.Cluster]
	if !s.spoken || s.unknown || s.flight != nil || len(s.refused) > 0 {
		return false
	}
	for _, r := range m.selected(envoy.Cluster) {
		if old := find(s.held, r.Name); old == nil || old.Hash != r.Hash {
			return false
		}
	}
	return true
}

// reached says whether the proxy has all that it is to have of a type.
func (m *machine) reached(t envoy.Type) bool {
	s, wanted := &m.of[t], m.wanted(t)
	switch {
	case !s.spoken:
		return len(wanted) == 0
	case s.unknown || s.flight != nil || len(s.refused) > 0:
		return false
	case wild(t):
		return same(s.held, m.selected(t))
	}
	for _, r := range wanted {
		if old := find(s.held, r.Name); old != r && (old == nil || old.Hash != r.Hash) {
			return false
		}
	}
	return true
}
