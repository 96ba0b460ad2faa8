package envoy

import (
	"runtime"
	"sync"
	"weak"
)

// Builder makes bundles. It keeps what is encoded once per content, whichever
// client it is for, and drops it with the last bundle that holds it. The zero
// value is ready; it may be used by several goroutines. Bundles of different
// builders have the same hashes but share nothing.
type Builder struct {
	mu        sync.Mutex
	resources map[string]weak.Pointer[Resource]
	hosts     map[string]weak.Pointer[VirtualHost]
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
func drop[T any](in map[string]weak.Pointer[T], key string) {
	if in[key].Value() == nil {
		delete(in, key)
	}
}
