package ads

import (
	"slices"
	"time"

	"github.com/evermesh/evermesh/internal/envoy"
	"github.com/evermesh/evermesh/internal/mesh"
)

// A proxy that refused something may have applied a part of it, and says nothing
// about that when it comes back. So what a stream that ends leaves in doubt is
// remembered for its proxy's next one on this replica.

const (
	// doubtsFor is how long a proxy's doubts are remembered, maxDoubts of how many
	// proxies.
	doubtsFor = time.Hour
	maxDoubts = 10_000
)

// doubts are, by type, the resources that a proxy has in no known form.
type doubts [envoy.Secret][]*envoy.Resource

type instance struct {
	client mesh.Client
	name   string
}

type remembered struct {
	at     time.Time
	doubts doubts
}

// remember keeps what is in doubt about a proxy. Server.mu is held.
func (s *Server) remember(p *proxy, d doubts) {
	some := false
	for _, list := range d {
		some = some || len(list) > 0
	}
	if !some {
		return
	}
	now := s.Now()
	for id, r := range s.doubts {
		if now.Sub(r.at) > doubtsFor {
			delete(s.doubts, id)
		}
	}
	if len(s.doubts) < maxDoubts {
		s.doubts[instance{p.client, p.instance}] = remembered{now, d}
	}
}

// recall gives what was remembered of a proxy to its new stream. Server.mu is held.
func (s *Server) recall(p *proxy) doubts {
	id := instance{p.client, p.instance}
	r := s.doubts[id]
	delete(s.doubts, id)
	if s.Now().Sub(r.at) > doubtsFor {
		return doubts{}
	}
	return r.doubts
}

// doubtful is what is in doubt about the proxy now.
func (p *proxy) doubtful() doubts {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.m == nil {
		return p.doubts
	}
	return p.m.doubtful()
}

func (m *machine) doubtful() (out doubts) {
	for _, t := range envoy.Types() {
		s := &m.of[t]
		if !s.spoken || s.unknown {
			out[t] = m.doubts[t]
			continue
		}
		for _, r := range s.held {
			if r.Hash == uncertain || r.Hash == perhaps {
				out[t] = append(out[t], &envoy.Resource{Name: r.Name, Hash: r.Hash, Clusters: slices.Collect(r.AllClusters())})
			}
		}
	}
	return out
}

// distrust takes in, when a type opens, what an earlier stream left in doubt. A
// proxy that has nothing has been started anew, and lost that too.
func (m *machine) distrust(t envoy.Type, s *subscription) {
	if t == envoy.Secret || !m.returning {
		return
	}
	var doubted []*envoy.Resource
	for _, r := range m.doubts[t] {
		if s.all || s.has(r.Name) {
			doubted = append(doubted, r)
		}
	}
	switch {
	case len(doubted) == 0:
	case m.delta:
		s.held = union(doubted, s.held)
	case wild(t):
		s.held, s.unknown, s.due = nil, true, true
	}
}
