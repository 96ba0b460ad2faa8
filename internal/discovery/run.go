package discovery

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/evermesh/evermesh/internal/envoy"
	"github.com/evermesh/evermesh/internal/store"
)

const (
	memoryPrefix = "endpoints/"
	backoffLeast = 100 * time.Millisecond
	backoffMost  = 10 * time.Second
)

// Load reads the last known sets from memory; a proxy that connects before the
// source has answered gets them.
func (r *Registry) Load(ctx context.Context) error {
	if r.Own {
		return nil
	}
	rows, err := r.Memory.Read(ctx, memoryPrefix)
	if err != nil {
		return fmt.Errorf("load endpoint sets: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for key, value := range rows {
		s := &set{}
		if err := json.Unmarshal(value, s); err != nil {
			return fmt.Errorf("load endpoint set %s: %w", key, err)
		}
		s.saved = true
		r.drains.show(s)
		r.known[s.Query] = s
	}
	return nil
}

// Run keeps one watch on the source for every query that some client needs,
// until ctx ends; all of them have ended when it returns.
func (r *Registry) Run(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	stops := map[envoy.EndpointQuery]context.CancelFunc{}
	for {
		select {
		case <-r.wanted:
		case <-ctx.Done():
			return ctx.Err()
		}
		if r.Source == nil {
			continue
		}
		needed := r.needed()
		for q, stop := range stops {
			if !needed[q] {
				stop()
				delete(stops, q)
				r.follow(q, nil)
			}
		}
		for q := range needed {
			if stops[q] == nil {
				goesOn, stop := context.WithCancel(ctx)
				stops[q] = stop
				w := &watching{}
				r.follow(q, w)
				running.Go(func() { r.watch(goesOn, q, w) })
			}
		}
	}
}

func (r *Registry) needed() map[envoy.EndpointQuery]bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make(map[envoy.EndpointQuery]bool, len(r.users))
	for q := range r.users {
		out[q] = true
	}
	for q := range r.asks {
		out[q] = true
	}
	return out
}

// follow notes which watch of a query runs; nil is none.
func (r *Registry) follow(q envoy.EndpointQuery, w *watching) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.watches[q] = w; w == nil {
		delete(r.watches, q)
	}
}

// watch follows one query. A source that fails leaves what is known as it is.
func (r *Registry) watch(ctx context.Context, q envoy.EndpointQuery, w *watching) {
	wait := backoffLeast
	defer r.trouble.forget(q)
	for ctx.Err() == nil {
		err := r.Source.Watch(ctx, q, func(endpoints []envoy.Endpoint) {
			wait = backoffLeast
			r.trouble.answered(q)
			if s := r.found(w, q, endpoints); s != nil {
				r.remember(ctx, s)
			}
		})
		if ctx.Err() != nil {
			return
		}
		r.trouble.failed(q, err)
		select {
		case <-time.After(wait):
			wait = min(2*wait, backoffMost)
		case <-ctx.Done():
		}
	}
}

func (r *Registry) remember(ctx context.Context, s *set) {
	if r.Own {
		r.save(s)
		return
	}
	value, err := json.Marshal(s)
	if err == nil {
		name, _ := json.Marshal(s.Query)
		sum := sha256.Sum256(name)
		err = r.Memory.Write(ctx, false, []store.Op{{Key: memoryPrefix + hex.EncodeToString(sum[:16]), Value: value}})
	}
	if err != nil {
		// It is tried again when the source tells the set the next time.
		r.trouble.unsaved(s.Query, err)
		return
	}
	r.save(s)
}
