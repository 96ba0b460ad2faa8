package envoy

import (
	"runtime"
	"sync"
	"weak"

	"github.com/evermesh/evermesh/internal/api"
)

// Builder makes bundles. It keeps what is encoded once per content, whichever
// client it is for, and drops it with the last bundle that holds it. The zero
// value is ready; it may be used by several goroutines. Bundles of different
// builders have the same hashes but share nothing.
type Builder struct {
	// WithoutCloudMap says that nobody looks up instances in Cloud Map; nodes
	// that are found there have a problem then. Set it before the first Build.
	WithoutCloudMap bool
	// CloudMapOfAccounts says that each account has a Cloud Map of its own: a
	// node's instances are those of its owner's (DISC-009). Set it before the first
	// Build.
	CloudMapOfAccounts bool

	scratch   sync.Pool // of *canonical
	parts     steady
	mu        sync.Mutex
	resources map[string]weak.Pointer[Resource]
	hosts     map[string]weak.Pointer[VirtualHost]
	pieces    map[pieceKey]weak.Pointer[piece]
	callees   map[calleeKey]weak.Pointer[callee]
	served    map[servedKey]weak.Pointer[served]
}

// pieceKey names a piece among those of all clients. Clients with the same
// inputs share it; one with others makes its own and takes the name over.
type pieceKey struct {
	owner, mesh, name string
	metrics           bool // what it says of its target, loggers can read
}

// piece returns the piece of that name if it was made from the same inputs,
// else it makes one.
func (o *Builder) piece(key pieceKey, extra string, inputs []*api.Resource, mk func(p *piece)) *piece {
	o.mu.Lock()
	held := o.pieces[key].Value()
	o.mu.Unlock()
	if held.from(extra, inputs) {
		return held
	}
	made := &piece{name: key.name, inputs: inputs, extra: extra}
	mk(made)
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.pieces == nil {
		o.pieces = map[pieceKey]weak.Pointer[piece]{}
	}
	o.pieces[key] = weak.Make(made)
	runtime.AddCleanup(made, func(key pieceKey) { o.forget(func() { drop(o.pieces, key) }) }, key)
	return made
}

// shared returns the value of that key that all share, if it fits, or makes one,
// which takes the key over.
func shared[K comparable, T any](o *Builder, in *map[K]weak.Pointer[T], key K, fits func(*T) bool, mk func() *T) *T {
	o.mu.Lock()
	held := (*in)[key].Value()
	o.mu.Unlock()
	if held != nil && fits(held) {
		return held
	}
	made := mk()
	o.mu.Lock()
	defer o.mu.Unlock()
	// Another goroutine may have been faster; what it made is shared then.
	if held := (*in)[key].Value(); held != nil && fits(held) {
		return held
	}
	if *in == nil {
		*in = map[K]weak.Pointer[T]{}
	}
	(*in)[key] = weak.Make(made)
	runtime.AddCleanup(made, func(key K) { o.forget(func() { drop(*in, key) }) }, key)
	return made
}

// Held counts the resources and virtual hosts that some bundle holds, or held
// until the collector's last round.
func (o *Builder) Held() (resources, hosts int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.resources), len(o.hosts)
}

// intern returns the value of that key, made unless somebody still holds it.
// Content is the key: this cannot hand out the wrong thing.
func intern[T any](o *Builder, in *map[string]weak.Pointer[T], key string, mk func() (*T, error)) (*T, error) {
	o.mu.Lock()
	held := (*in)[key].Value()
	o.mu.Unlock()
	if held != nil {
		return held, nil
	}
	made, err := mk()
	if err != nil {
		return nil, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if held := (*in)[key].Value(); held != nil {
		return held, nil // another goroutine was faster
	}
	if *in == nil {
		*in = map[string]weak.Pointer[T]{}
	}
	(*in)[key] = weak.Make(made)
	runtime.AddCleanup(made, func(key string) { o.forget(func() { drop(*in, key) }) }, key)
	return made, nil
}

func (o *Builder) forget(drop func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	drop()
}

// drop forgets a value, unless an equal one has taken its place meanwhile.
func drop[K comparable, T any](in map[K]weak.Pointer[T], key K) {
	if in[key].Value() == nil {
		delete(in, key)
	}
}
