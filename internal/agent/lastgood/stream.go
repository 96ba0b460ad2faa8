package lastgood

import (
	"bytes"
	"maps"
	"slices"
	"time"
)

// The types that a stream may ask for as a whole.
const (
	clusterType  = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
	listenerType = "type.googleapis.com/envoy.config.listener.v3.Listener"
	secretType   = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
)

func wild(typ string) bool { return typ == clusterType || typ == listenerType }

const (
	// mostFlights bounds the unanswered responses of a type that are remembered; Evermesh's control plane has one.
	mostFlights = 8
	// mostBytes bounds what is kept of a stream.
	mostBytes = 64 << 20
	// patience is how long an answer that is due keeps a configuration from counting as whole.
	patience = 20 * time.Second
	// rest is how long nothing must have been said: Envoy asks for the routes of a listener after it has accepted it.
	// Where things always change, a configuration counts as whole after unrest.
	rest, unrest = 300 * time.Millisecond, 5 * time.Second
)

// everything stands for all of a type among names.
const everything = "*"

// Stream follows one stream of Envoy: from what is said on it follows what Envoy has acknowledged. Its methods may be
// called by several goroutines. Each message is to be shown to it before it is passed on.
type Stream struct {
	store *Store
	delta bool

	// The following are guarded by store.mu.
	types    map[string]*kind
	traits   string    // of its node
	follows  bool      // the stream before it left its Envoy with a whole configuration
	begun    bool      // a request came
	versions bool      // Envoy came with something that it had
	granted  bool      // the control plane serves it
	spoke    bool      // and has said something
	lost     bool      // it cannot be followed any more, or is answered from what is kept
	changed  time.Time // the first change that is in no snapshot; zero without one
	settled  time.Time // when it was last whole, or began
	last     time.Time // message
	end      time.Time // zero while it lasts
	served   *Answers  // who answers it instead of the control plane
}

// kind is what is known of one type on a stream.
type kind struct {
	all     bool                // for everything of it
	names   set                 // for these by name
	held    map[string]resource // acknowledged
	version string              // state of the world: acknowledged
	flights []flight
	owed    set // names, or everything, whose answer is due
	unknown set // Envoy has them, and nobody here knows in which form
}

type set map[string]struct{}

func (s set) has(name string) bool { _, ok := s[name]; return ok }

// flight is a response that Envoy has not answered yet.
type flight struct {
	nonce, version string
	sent           []resource
	removed        []string
}

func newKind() *kind {
	return &kind{names: set{}, held: map[string]resource{}, owed: set{}, unknown: set{}}
}

// request takes in what Envoy says. store.mu is held.
func (t *Stream) request(r request) {
	k := t.types[r.typ]
	opens := k == nil
	if opens {
		k = newKind()
		t.types[r.typ] = k
		t.open(r, k)
	}
	if r.nonce != "" {
		t.settle(r, k)
	}
	had := len(k.held)
	if t.delta {
		k.unsubscribe(r.unsubscribe)
		k.subscribe(r.typ, r.subscribe, r.versions)
	} else {
		k.rename(r, opens)
	}
	if len(k.held) < had {
		t.change()
	}
}

// open takes in what Envoy had of the type when the stream began.
func (t *Stream) open(r request, k *kind) {
	if t.delta {
		k.all = wild(r.typ) && len(r.subscribe) == 0
		for name, version := range r.versions {
			if had, ok := t.store.known(r.typ, name); ok && had.version == version {
				k.held[name] = had
			} else {
				k.unknown[name] = struct{}{}
			}
		}
		if k.all && len(r.versions) == 0 {
			k.owed[everything] = struct{}{}
		}
		t.versions = t.versions || len(r.versions) > 0
		return
	}
	k.all = wild(r.typ) && len(r.names) == 0
	if r.version == "" {
		if k.all {
			k.owed[everything] = struct{}{}
		}
		return
	}
	t.versions, k.version = true, r.version
	had := t.store.knownKind(r.typ, r.version)
	switch {
	case k.all && had == nil:
		k.unknown[everything] = struct{}{}
	case k.all:
		maps.Copy(k.held, had)
	}
	for _, name := range r.names {
		one, ok := had[name]
		switch {
		case ok:
			k.held[name] = one
		case had != nil: // it never came
			k.owed[name] = struct{}{}
		default:
			k.unknown[name] = struct{}{}
		}
	}
}

// settle takes in the answer to a response.
func (t *Stream) settle(r request, k *kind) {
	i := slices.IndexFunc(k.flights, func(f flight) bool { return f.nonce == r.nonce })
	if i < 0 {
		return
	}
	f := k.flights[i]
	k.flights = slices.Delete(k.flights, 0, i+1) // those before were overtaken
	if r.refused {
		return
	}
	t.change()
	if !t.delta && wild(r.typ) {
		clear(k.held)
		clear(k.unknown)
	}
	for _, name := range f.removed {
		delete(k.held, name)
		delete(k.unknown, name)
	}
	for _, one := range f.sent {
		delete(k.unknown, one.name)
		if one.any != nil && (k.all || k.names.has(one.name)) {
			k.held[one.name] = one
		} else {
			delete(k.held, one.name)
		}
	}
	k.version = f.version
}

// change notes that Envoy has something else now.
func (t *Stream) change() {
	if t.changed.IsZero() {
		t.changed = t.last
	}
}

// subscribe adds names: each is answered, but those that Envoy says it has.
func (k *kind) subscribe(typ string, names []string, versions map[string]string) {
	for _, name := range names {
		if name == everything && wild(typ) {
			if !k.all && len(k.held) == 0 {
				k.owed[everything] = struct{}{}
			}
			k.all = true
			continue
		}
		k.names[name] = struct{}{}
		if _, has := versions[name]; !has {
			k.owed[name] = struct{}{}
		}
	}
}

// unsubscribe takes names away: Envoy has forgotten what it had of them.
func (k *kind) unsubscribe(names []string) {
	for _, name := range names {
		if name == everything {
			k.all = false
			delete(k.owed, everything)
			for n := range k.held {
				if !k.names.has(n) {
					delete(k.held, n)
				}
			}
			continue
		}
		delete(k.names, name)
		delete(k.owed, name)
		if !k.all {
			delete(k.held, name)
			delete(k.unknown, name)
		}
	}
}

// rename brings names in line with a request of the state of the world, which lists all of them.
func (k *kind) rename(r request, opens bool) {
	wanted := set{}
	for _, name := range r.names {
		wanted[name] = struct{}{}
	}
	var gone, added []string
	for name := range k.names {
		if !wanted.has(name) {
			gone = append(gone, name)
		}
	}
	for name := range wanted {
		if !k.names.has(name) && name != everything {
			added = append(added, name)
		}
	}
	if k.all && len(wanted) > 0 && !wanted.has(everything) {
		gone = append(gone, everything)
	}
	k.unsubscribe(gone)
	if wild(r.typ) && wanted.has(everything) {
		k.all = true
	}
	for _, name := range added {
		k.names[name] = struct{}{}
		if _, has := k.held[name]; !has && (!opens || r.version == "") {
			k.owed[name] = struct{}{}
		}
	}
}

// response takes in what the control plane says. store.mu is held.
func (t *Stream) response(r response) {
	t.spoke = true
	k := t.types[r.typ]
	if k == nil {
		return // nobody asked
	}
	f := flight{nonce: r.nonce, version: r.version, removed: r.removed}
	for _, one := range r.resources {
		delete(k.owed, one.name)
		if one.fleeting {
			one.any = nil
		} else {
			one = t.own(r.typ, one, r.fresh)
		}
		f.sent = append(f.sent, one)
	}
	for _, name := range r.removed {
		delete(k.owed, name)
	}
	delete(k.owed, everything)
	k.flights = append(k.flights, f)
	if len(k.flights) > mostFlights || t.size() > mostBytes {
		t.lose("more than is kept")
	}
}

// own is the resource with bytes of its own: the one that is kept already when they are equal.
func (t *Stream) own(typ string, r resource, fresh bool) resource {
	had, ok := t.types[typ].held[r.name]
	if !ok {
		had, ok = t.store.known(typ, r.name)
	}
	switch {
	case ok && bytes.Equal(had.any, r.any):
		if had.version == r.version {
			return had
		}
		r.any = had.any
	case !fresh:
		r.any = bytes.Clone(r.any)
	}
	return r
}

// size is how many bytes of resources the stream holds.
func (t *Stream) size() (sum int) {
	for _, k := range t.types {
		for _, one := range k.held {
			sum += len(one.any)
		}
		for _, f := range k.flights {
			for _, one := range f.sent {
				sum += len(one.any)
			}
		}
	}
	return sum
}

// lose gives up following the stream; what was kept before stays.
func (t *Stream) lose(why string) {
	if !t.lost && t.served == nil {
		t.store.Log.Warn("this stream's configuration is not kept", "err", why)
	}
	t.lost = true
	t.types = nil
}

// whole says whether Envoy has all that it asked for, and asked for all: clusters, listeners, and each type that was kept
// before. Late says that it is so but for what is due.
func (t *Stream) whole() (whole, late bool) {
	if t.lost {
		return false, false
	}
	due, some := t.types[clusterType] == nil || t.types[listenerType] == nil, false
	for _, typ := range t.store.knownTypes() {
		due = due || t.types[typ] == nil
	}
	for _, k := range t.types {
		if len(k.flights) > 0 || len(k.unknown) > 0 {
			return false, false
		}
		due = due || len(k.owed) > 0
		some = some || len(k.held) > 0
	}
	return !due, due && some
}

// ripe says whether what Envoy has now is to be kept: it is whole, or has been waiting for too long for what is due.
func (t *Stream) ripe(now time.Time) bool {
	if !t.end.IsZero() {
		now = t.end
	}
	whole, late := t.whole()
	if whole {
		t.settled = now
		return now.Sub(t.last) >= rest || (!t.changed.IsZero() && now.Sub(t.changed) >= unrest)
	}
	return late && now.Sub(t.settled) >= patience
}

// left says whether the stream left its Envoy with a configuration that was whole.
func (t *Stream) left() bool {
	switch {
	case t == nil:
		return false
	case t.served != nil:
		return t.served.Done()
	case !t.spoke: // nothing came to Envoy
		return t.follows && (t.versions || !t.begun)
	}
	whole, late := t.whole()
	return whole || (late && t.last.Sub(t.settled) >= patience)
}
