package ads

import (
	"maps"
	"slices"
	"strings"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/envoy"
	"github.com/evermesh/evermesh/internal/mesh"
)

// discoveryType is the type's name in the ledger and in metrics.
func discoveryType(t envoy.Type) api.DiscoveryType {
	return [...]api.DiscoveryType{
		api.DiscoveryTypeCluster, api.DiscoveryTypeEndpoint, api.DiscoveryTypeListener, api.DiscoveryTypeRoute, api.DiscoveryTypeSecret,
	}[t]
}

// Row is what the ledger keeps of the proxies of the client's node or gateway on
// this replica (D8), whatever their traits: false when there are none.
func (s *Server) Row(c mesh.Client) (api.LedgerRow, bool) {
	type group struct {
		goal    *goal
		members []*proxy
	}
	var groups []group
	s.mu.Lock()
	for _, g := range s.byKey[c.Key] {
		groups = append(groups, group{g.goal, slices.Collect(maps.Keys(g.members))})
	}
	s.mu.Unlock()
	if len(groups) == 0 {
		return api.LedgerRow{}, false
	}

	row := api.LedgerRow{Client: c.Key.String(), Replica: s.Replica}
	for i, g := range groups {
		revision := int64(0)
		if g.goal != nil {
			revision = g.goal.revision
		}
		if i == 0 || revision < row.Revision { // what all of them are to have
			row.Revision = revision
		}
		if g.goal != nil {
			for _, key := range g.goal.held {
				if !slices.Contains(row.Held, key.String()) {
					row.Held = append(row.Held, key.String())
				}
			}
		}
		for _, p := range g.members {
			row.Members = append(row.Members, p.describe(g.goal))
			row.Lacking = append(row.Lacking, p.lacking(g.goal)...)
			for _, problem := range p.problems() {
				if len(row.Problems) < maxNotes && !slices.Contains(row.Problems, problem) {
					row.Problems = append(row.Problems, problem)
				}
			}
		}
	}
	slices.Sort(row.Lacking)
	row.Lacking = slices.Compact(row.Lacking)
	slices.SortFunc(row.Problems, func(a, b api.Problem) int { return strings.Compare(a.Message, b.Message) })
	slices.SortFunc(row.Members, func(a, b api.Proxy) int { return strings.Compare(a.Instance, b.Instance) })
	return row, true
}

// States counts this replica's proxies by state.
func (s *Server) States() map[string]int {
	s.mu.Lock()
	byGoal := map[*goal][]*proxy{}
	for _, g := range s.groups {
		byGoal[g.goal] = slices.AppendSeq(byGoal[g.goal], maps.Keys(g.members))
	}
	s.mu.Unlock()
	out := map[string]int{string(api.ProxyStateCurrent): 0, string(api.ProxyStatePending): 0, string(api.ProxyStateRefused): 0}
	for goal, members := range byGoal {
		for _, p := range members {
			p.mu.Lock()
			out[string(p.state(goal))]++
			p.mu.Unlock()
		}
	}
	return out
}

// describe tells how far the proxy is on its way to the goal.
func (p *proxy) describe(goal *goal) api.Proxy {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := api.Proxy{
		ConnectedAt: api.Timestamp{Time: p.connected}, Dialect: p.dialect(), EnvoyVersion: p.envoy, Instance: p.instance,
		Peer: &p.peer, Replica: p.s.Replica, ResourceARN: p.arn, State: p.state(goal), Types: []api.TypeStatus{},
		Addresses: p.addresses, Traits: p.client.Traits.Words(),
	}
	if goal == nil || p.m == nil {
		return out
	}
	for t := envoy.Cluster; t <= envoy.Secret; t++ {
		if status, ok := p.m.status(t, goal); ok {
			out.Types = append(out.Types, status)
		}
	}
	out.Notes = p.notes()
	return out
}

// state sums the types up. A stream that has not yet taken the newest goal in
// is not current, whatever it has.
func (p *proxy) state(goal *goal) api.ProxyState {
	if goal == nil || p.m == nil {
		return api.ProxyStatePending
	}
	state := api.ProxyStateCurrent
	if p.m.goal.version != goal.version {
		state = api.ProxyStatePending
	}
	for _, t := range envoy.Types() {
		switch {
		case len(p.m.of[t].refused) > 0 && p.m.goal.version == goal.version:
			return api.ProxyStateRefused
		case !p.m.reached(t):
			state = api.ProxyStatePending
		}
	}
	return state
}

// status is what the ledger says of one type; ok is false for a type that plays
// no part.
func (m *machine) status(t envoy.Type, goal *goal) (status api.TypeStatus, ok bool) {
	s := &m.of[t]
	if !s.spoken && (t == envoy.Secret || len(goal.list(t)) == 0) {
		return api.TypeStatus{}, false
	}
	status = api.TypeStatus{Type: discoveryType(t), Refusal: s.refusal}
	accepted := s.version
	if t != envoy.Secret {
		wanted := goal.lists[t].Hash
		status.Wanted = &wanted
		switch {
		case m.reached(t) || (t == envoy.Cluster && m.covered()):
			accepted = m.goal.lists[t].Hash
		case accepted == wanted:
			accepted = "" // it had that before what it was sent since, and is to have it again
		}
	}
	if t == envoy.Secret {
		status.Refusal = m.refusedSecret()
	}
	if accepted != "" {
		status.Accepted, status.AcceptedAt = &accepted, &api.Timestamp{Time: s.acceptedAt}
	}
	return status, true
}

// notes are sentences for the person who looks at a proxy.
func (p *proxy) notes() []string {
	out := slices.Clone(p.said)
	if f := p.m.of[envoy.Cluster].flight; f != nil && !p.s.Now().Before(f.at.Add(p.m.silence)) {
		out = append(out, "Its clusters have not been acknowledged for "+p.m.silence.String()+": routes were sent without.")
	}
	for _, n := range slices.Sorted(maps.Keys(p.m.of[envoy.LoadAssignment].empty)) {
		out = append(out, "Endpoints of "+n+" are not known: it was given an empty set.")
	}
	for _, n := range slices.Sorted(maps.Keys(p.m.troubles)) {
		if t := p.m.troubles[n]; !t.refused {
			out = append(out, t.sentence(n))
		}
	}
	return out[:min(len(out), maxNotes)]
}

// maxNotes bounds the sentences about one proxy, and the problems of a node's.
const maxNotes = 20
