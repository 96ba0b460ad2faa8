package lastgood

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

const (
	// quiet is how long Envoy must have had nothing to say to count as done.
	quiet = time.Second
	// unversioned is the version, in the state of the world, of what came by the other dialect: no control plane's, so
	// that it is sent anew.
	unversioned = "last-good"

	endpointType = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
)

// Answers talks to one stream of Envoy in place of the control plane, of what is kept: with the control plane's own
// versions, so that its first answer afterwards is a small difference. It gives what Envoy lacks and takes nothing away.
type Answers struct {
	store *Store
	delta bool
	from  *configuration

	mu      sync.Mutex
	kinds   map[string]*asked
	nonces  uint64
	waiting set // nonces that Envoy has not answered
	last    time.Time
}

// asked is what Envoy asked for of one type.
type asked struct {
	names set
	had   map[string]string // delta: what it came with
	some  bool              // state of the world: it came with something
}

// Answers begins to talk to the stream's Envoy, which has waited for long enough; nil when nothing is kept for it. The
// stream is not followed any more.
func (t *Stream) Answers(ctx context.Context) *Answers {
	s := t.store
	s.look()
	s.mu.Lock()
	if !s.fits(t, true) {
		s.mu.Unlock()
		return nil
	}
	c := s.kept
	s.mu.Unlock()
	if c.unproven {
		if c = s.proven(ctx, c); c == nil {
			return nil
		}
	}
	a := &Answers{store: s, delta: t.delta, from: c, kinds: map[string]*asked{}, waiting: set{}, last: s.Now()}
	s.mu.Lock()
	defer s.mu.Unlock()
	t.lost, t.types, t.served = true, nil, a
	s.serving = true
	s.Log.Warn("no control plane answers: the last good configuration is served", "age", s.age().Round(time.Second).String(), "resources", c.count())
	return a
}

// proven is c, which nothing proved when it was read, as the keys prove it that may be there by now: with its secrets, if
// this identity can open them; nil, and not kept any more, when it is to be served to nobody.
func (s *Store) proven(ctx context.Context, c *configuration) *configuration {
	ctx, cancel := context.WithTimeout(ctx, keysWait)
	defer cancel()
	whole, err := c.prove(s.now(ctx), s.Strict)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.kept == c {
		s.kept = whole
	}
	switch {
	case err != nil:
		s.tell("read", unusedWords, fmt.Errorf("prove what was read: %w", err))
	case whole == c && len(c.sealed) > 0:
		s.tell("open", sealedWords, errSealed)
	}
	return whole
}

// Answer is what is to be said to a message of Envoy's: encoded messages, in that order. An error ends the stream.
func (a *Answers) Answer(message []byte) ([][]byte, error) {
	r, err := readRequest(message, a.delta)
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.last = a.store.Now()
	if a.waiting.has(r.nonce) && r.refused {
		a.store.Log.Warn("envoy refuses a part of the last good configuration", "type", r.typ, "err", r.reason)
	}
	delete(a.waiting, r.nonce)
	var out []response
	if a.delta {
		out = a.difference(r)
	} else {
		out = a.state(r)
	}
	var encoded [][]byte
	for _, one := range out {
		a.nonces++
		one.typ, one.nonce = r.typ, unversioned+"-"+strconv.FormatUint(a.nonces, 10)
		a.waiting[one.nonce] = struct{}{}
		encoded = append(encoded, one.write(a.delta))
	}
	return encoded, nil
}

// kind is what Envoy asked of the type so far; opens says that this is the first request.
func (a *Answers) kind(typ string) (k *asked, opens bool) {
	k = a.kinds[typ]
	if k == nil {
		k = &asked{names: set{}}
		a.kinds[typ] = k
		return k, true
	}
	return k, false
}

// difference answers a request of the delta dialect.
func (a *Answers) difference(r request) []response {
	k, opens := a.kind(r.typ)
	all := opens && wild(r.typ) && len(r.subscribe) == 0
	if opens {
		k.had = r.versions
	}
	f := response{}
	for _, name := range r.subscribe {
		_, has := k.had[name]
		one, kept := a.from.kinds[r.typ].resources[name]
		switch {
		case name == everything && wild(r.typ):
			all = true
		case kept && !has:
			f.resources = append(f.resources, one)
		case !has:
			f.removed = append(f.removed, name) // without a word Envoy would wait for it
		}
	}
	for _, name := range r.unsubscribe {
		delete(k.had, name)
	}
	if all {
		f.resources = f.resources[:0]
		for _, name := range slices.Sorted(maps.Keys(a.from.kinds[r.typ].resources)) {
			if _, has := k.had[name]; !has {
				f.resources = append(f.resources, a.from.kinds[r.typ].resources[name])
			}
		}
	}
	if len(f.resources)+len(f.removed) == 0 && (!all || len(k.had) > 0) {
		return nil
	}
	return apart(r.typ, f)
}

// state answers a request of the state of the world.
func (a *Answers) state(r request) []response {
	k, opens := a.kind(r.typ)
	kept := a.from.kinds[r.typ]
	f := response{version: kept.version}
	if f.version == "" {
		f.version = unversioned
	}
	if opens {
		k.some = r.version != ""
	}
	if wild(r.typ) && len(r.names) == 0 {
		if !opens || k.some {
			return nil
		}
		for _, name := range slices.Sorted(maps.Keys(kept.resources)) {
			f.resources = append(f.resources, kept.resources[name])
		}
		return []response{f}
	}
	names := set{}
	fresh := false
	for _, name := range r.names {
		names[name] = struct{}{}
		fresh = fresh || !k.names.has(name)
	}
	before := k.names
	k.names = names
	if !fresh || (opens && k.some) {
		return nil
	}
	for _, name := range r.names {
		one, ok := kept.resources[name]
		switch {
		case before.has(name) && !wild(r.typ):
		case ok:
			f.resources = append(f.resources, one)
		case r.typ == endpointType:
			f.resources = append(f.resources, resource{name: name, any: bare(r.typ, appendString(nil, 1, name))})
		case r.typ == secretType:
			f.resources = append(f.resources, resource{name: name, any: bare(r.typ, noSecret(name))})
		}
	}
	if len(f.resources) == 0 && !wild(r.typ) {
		return nil // the dialect has no word for what is not there
	}
	return apart(r.typ, f)
}

// apart gives each secret a response of its own: Envoy refuses a response as a whole, and one secret that it cannot use
// is to harm no other.
func apart(typ string, f response) []response {
	if typ != secretType {
		return []response{f}
	}
	var out []response
	for _, one := range f.resources {
		out = append(out, response{version: f.version, resources: []resource{one}})
	}
	if len(f.removed) > 0 {
		out = append(out, response{version: f.version, removed: f.removed})
	}
	return out
}

// bare is an encoded Any.
func bare(typ string, value []byte) []byte {
	return appendBytes(appendString(nil, 1, typ), 2, value)
}

// noSecret is a Secret that Envoy refuses at once, as the control plane says that there is none: an authority that is none.
func noSecret(name string) []byte {
	source := protowire.AppendString(protowire.AppendTag(nil, 3, protowire.BytesType), "not kept")
	return appendBytes(appendString(nil, 1, name), 4, appendBytes(nil, 1, source))
}

// Done says that Envoy has all that it asked for, clusters and listeners among it, and asks no more. The stream that
// follows is taken for one of an Envoy that has a configuration.
func (a *Answers) Done() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.waiting) == 0 && a.kinds[clusterType] != nil && a.kinds[listenerType] != nil && a.store.Now().Sub(a.last) >= quiet
}
