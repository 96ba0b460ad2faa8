package discovery

import (
	"context"

	"github.com/evermesh/evermesh/internal/envoy"
)

// Who drains a proxy asks what its node is found by, whether or not a client here needs
// it: a proxy reaches only what the service discovery of its own node names.

// ask is somebody who waits for what a query finds.
type ask struct {
	by   int  // how many
	told bool // since the first of them asked
}

// answer notes that the source has told a query's set; mu is held.
func (r *Registry) answer(q envoy.EndpointQuery) {
	if a := r.asks[q]; a != nil {
		a.told = true
	}
	if r.told != nil {
		close(r.told)
		r.told = nil
	}
}

// Ask returns what each query finds, whoever drains: what is followed is known, the
// source is asked for the rest. When ctx ends before it has told all, what was known
// before, of an earlier need or run, is returned of those, and nothing of those that
// never were.
func (r *Registry) Ask(ctx context.Context, queries []envoy.EndpointQuery) map[envoy.EndpointQuery][]envoy.Endpoint {
	r.mu.Lock()
	var asked []envoy.EndpointQuery
	for _, q := range queries {
		if r.Source == nil || r.current(q) {
			continue
		}
		if r.asks[q] == nil {
			r.asks[q] = &ask{}
		}
		r.asks[q].by++
		asked = append(asked, q)
	}
	r.mu.Unlock()
	if len(asked) > 0 {
		signal(r.wanted)
		r.await(ctx, asked)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, q := range asked {
		if r.asks[q].by--; r.asks[q].by == 0 {
			delete(r.asks, q)
			signal(r.wanted)
		}
	}
	out := map[envoy.EndpointQuery][]envoy.Endpoint{}
	for _, q := range queries {
		if s := r.known[q]; s != nil {
			out[q] = s.Endpoints
		}
	}
	return out
}

// await returns when the source has told all of the queries, or ctx ends.
func (r *Registry) await(ctx context.Context, queries []envoy.EndpointQuery) {
	for {
		r.mu.Lock()
		all := true
		for _, q := range queries {
			all = all && (r.asks[q].told || r.current(q))
		}
		if all {
			r.mu.Unlock()
			return
		}
		if r.told == nil {
			r.told = make(chan struct{})
		}
		told := r.told
		r.mu.Unlock()
		select {
		case <-told:
		case <-ctx.Done():
			return
		}
	}
}

// current says whether the query's set is known and followed: that it is needed does not
// say that the source has told it since. mu is held.
func (r *Registry) current(q envoy.EndpointQuery) bool {
	w := r.watches[q]
	return w != nil && w.told && r.known[q] != nil
}

// Current returns what a query finds, whoever drains, when that is known and followed for
// some client here.
func (r *Registry) Current(q envoy.EndpointQuery) ([]envoy.Endpoint, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.current(q) || len(r.users[q]) == 0 {
		return nil, false
	}
	return r.known[q].Endpoints, true
}
