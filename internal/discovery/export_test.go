package discovery

import "github.com/evermesh/evermesh/internal/envoy"

// Shown is what a set of these endpoints shows while one proxy drains.
func Shown(q envoy.EndpointQuery, endpoints []envoy.Endpoint, d Drain) []envoy.Endpoint {
	s := &set{Query: q, Endpoints: endpoints}
	all := drains{of: drainsOf([]Drain{d})}
	all.show(s)
	return s.shown
}
