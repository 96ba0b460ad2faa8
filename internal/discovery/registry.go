// Package discovery is where endpoints come from. A Registry knows, for every
// endpoint query that some bundle needs, the last set that a Source found; it
// tells the publishing loop which clients a change concerns.
//
// Endpoints are known or unknown (D6.4). Known is a list, perhaps empty; a
// source's error or silence never turns known into unknown or empty. The last
// known set of each query is kept in the store, so that a control plane that
// restarts while a source is away goes on with what it had.
package discovery

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/evermesh/evermesh/internal/envoy"
	"github.com/evermesh/evermesh/internal/mesh"
	"github.com/evermesh/evermesh/internal/store"
)

// Source finds endpoints. Watch calls found whenever the query's set is known
// anew, until ctx ends; an error makes the registry call it again after a
// back-off.
type Source interface {
	Watch(ctx context.Context, q envoy.EndpointQuery, found func([]envoy.Endpoint)) error
}

// Memory keeps the last known sets over restarts; *store.Store is one.
type Memory interface {
	Write(ctx context.Context, lease bool, ops []store.Op) error
	Read(ctx context.Context, prefix string) (map[string][]byte, error)
}

// Config is what a Registry needs. Source may be nil: then nothing is found
// beyond what Memory remembers.
type Config struct {
	Source Source
	// Own says that the source is the control plane's own registry: it tells every
	// change and no more, lasts by itself, so that Memory is not used, and knows the
	// services of each account apart, so that queries say whose they mean
	// (DISC-009).
	Own    bool
	Memory Memory
	Log    *slog.Logger
	Now    func() time.Time
}

// Registry holds the endpoint sets. Run works the source.
type Registry struct {
	Config
	changed chan struct{} // something for Take
	wanted  chan struct{} // the needed queries changed
	trouble trouble

	mu      sync.Mutex
	known   map[envoy.EndpointQuery]*set
	needs   map[mesh.Client][]envoy.EndpointQuery
	users   map[envoy.EndpointQuery]map[mesh.Client]bool
	since   map[envoy.EndpointQuery]time.Time // of the needed ones: since when
	touched map[mesh.Client][]envoy.EndpointQuery
	drains  drains
	asks    map[envoy.EndpointQuery]*ask
	watches map[envoy.EndpointQuery]*watching // those that run
	told    chan struct{}                     // closed at the next set that is found; nil when nobody waits
}

// set is the last known endpoints of a query.
type set struct {
	Query     envoy.EndpointQuery
	Endpoints []envoy.Endpoint
	At        time.Time
	saved     bool // memory has it
	// shown are Endpoints without those that drain, and kept the drains of which some are
	// shown yet.
	shown []envoy.Endpoint
	kept  []string
}

// watching is one watch on the source.
type watching struct{ told bool } // since it began

// New makes a Registry; call Load before Run.
func New(c Config) *Registry {
	return &Registry{
		Config: c, changed: make(chan struct{}, 1), wanted: make(chan struct{}, 1),
		trouble: trouble{log: c.Log, now: c.Now, failing: map[envoy.EndpointQuery]bool{}},
		since:   map[envoy.EndpointQuery]time.Time{},
		known:   map[envoy.EndpointQuery]*set{}, needs: map[mesh.Client][]envoy.EndpointQuery{},
		users: map[envoy.EndpointQuery]map[mesh.Client]bool{}, touched: map[mesh.Client][]envoy.EndpointQuery{},
		asks: map[envoy.EndpointQuery]*ask{}, watches: map[envoy.EndpointQuery]*watching{},
	}
}

// Known returns the endpoints of a query, and whether they are known at all.
func (r *Registry) Known(q envoy.EndpointQuery) ([]envoy.Endpoint, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.known[q]
	if s == nil {
		return nil, false
	}
	return s.shown, true
}

// Age is how long ago the source last told a set that is needed, of all of them
// the one for which that is longest ago; a set that was never told counts from
// when it was first needed. It is 0 when none is needed. What the control plane's
// own registry has told is as new as it is.
func (r *Registry) Age() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.Now()
	oldest := now
	for q, at := range r.since {
		switch s := r.known[q]; {
		case s != nil && r.Own:
			continue
		case s != nil:
			at = s.At
		}
		if at.Before(oldest) {
			oldest = at
		}
	}
	return now.Sub(oldest)
}

// Changed receives when Take has something to return.
func (r *Registry) Changed() <-chan struct{} { return r.changed }

// Take returns the clients whose endpoint sets changed since the last call, and
// which of their sets those are.
func (r *Registry) Take() map[mesh.Client][]envoy.EndpointQuery {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := r.touched
	r.touched = map[mesh.Client][]envoy.EndpointQuery{}
	r.take()
	return out
}

// Need says which endpoint sets the client's bundle uses; nil says that it
// uses none any more.
func (r *Registry) Need(c mesh.Client, b *envoy.Bundle) {
	var queries []envoy.EndpointQuery
	if b != nil {
		for _, cluster := range b.List(envoy.Cluster).Resources {
			if q, ok := cluster.Query(); ok && !slices.Contains(queries, q) {
				queries = append(queries, q)
			}
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if slices.Equal(r.needs[c], queries) {
		return
	}
	for _, q := range r.needs[c] {
		if delete(r.users[q], c); len(r.users[q]) == 0 {
			delete(r.users, q)
			delete(r.since, q)
		}
	}
	for _, q := range queries {
		if r.users[q] == nil {
			r.users[q] = map[mesh.Client]bool{}
			r.since[q] = r.Now()
		}
		r.users[q][c] = true
	}
	if r.needs[c] = queries; len(queries) == 0 {
		delete(r.needs, c)
	}
	signal(r.wanted)
}

// found takes in a set from a watch on the source; one that was stopped may tell what
// was before what another has told. It returns what memory does not have yet.
func (r *Registry) found(w *watching, q envoy.EndpointQuery, endpoints []envoy.Endpoint) (unsaved *set) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.watches[q] != w {
		return nil
	}
	w.told = true
	r.answer(q)
	if old := r.known[q]; old != nil && slices.Equal(old.Endpoints, endpoints) {
		old.At = r.Now()
		if old.saved {
			return nil
		}
		again := *old
		return &again
	}
	s := &set{Query: q, Endpoints: slices.Clone(endpoints), At: r.Now()}
	r.drains.show(s)
	r.known[q] = s
	r.touch(q)
	signal(r.changed)
	made := *s
	return &made
}

// touch says that the set of a query is another for whoever uses it.
func (r *Registry) touch(q envoy.EndpointQuery) {
	one := []envoy.EndpointQuery{q} // shared: mostly a client has one that changed
	for c := range r.users[q] {
		if touched := r.touched[c]; touched == nil {
			r.touched[c] = one
		} else if !slices.Contains(touched, q) {
			r.touched[c] = append(slices.Clip(touched), q)
		}
	}
}

// save notes that memory has the set, if it is still the one.
func (r *Registry) save(s *set) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := r.known[s.Query]; now != nil && slices.Equal(now.Endpoints, s.Endpoints) {
		now.saved = true
	}
}

func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
