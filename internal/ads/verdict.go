package ads

import (
	"slices"
	"time"

	"github.com/evermesh/evermesh/internal/envoy"
)

// What a proxy answers: it accepts or refuses a response as a whole.

// accept takes in an acknowledgement.
func (s *subscription) accept(now time.Time, f *flight) {
	s.version, s.acceptedAt = f.version, now
	for _, r := range f.sent {
		delete(s.refused, r.Name)
	}
	if wild(f.typ) || len(s.refused) == 0 {
		s.forgive()
		s.refusal = nil
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
	s.refusal = s.refusalOf(now, f, reason)
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
			doubtful = append(doubtful, doubt(old, r))
		case f.typ != envoy.Cluster:
			doubtful = append(doubtful, doubt(&envoy.Resource{Name: r.Name}, r))
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

// doubt is the resource in no known form; it may name the clusters of another
// form, if there is one, too.
func doubt(r, other *envoy.Resource) *envoy.Resource {
	out := *r
	out.Hash = uncertain
	out.Clusters = slices.Collect(r.AllClusters())
	if other != nil {
		out.Clusters = slices.AppendSeq(out.Clusters, other.AllClusters())
	}
	slices.Sort(out.Clusters)
	out.Clusters = slices.Compact(out.Clusters)
	return &out
}
