package cloudmap

import (
	"context"
	"log/slog"
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/evermesh/evermesh/internal/api/cloudmapapi"
	"github.com/evermesh/evermesh/internal/store"
)

// Registry is what is registered, of all accounts, in memory and as new as the
// store's watch. Run follows the store; until it has read everything once, nothing
// is known. Its methods may be called from any goroutine.
type Registry struct {
	store *store.Store
	log   *slog.Logger

	mu         sync.RWMutex
	loaded     bool
	namespaces map[string]map[string]*namespace // by account and id
	services   map[string]map[string]*known     // by account and id
	places     map[topic]map[string]*known      // by name, then by id
	watchers   map[topic]map[chan struct{}]bool // told when a service of that name changes
	above      map[above]int                    // names below which services have theirs, and how many
	zones      map[string][]*zone               // private namespaces by lower-case name, who was first before others
	contested  int                              // zones that more than one account has
}

// topic is what is known by names: services of several namespaces may share one,
// and HTTP's differ in case.
type topic struct{ account, namespace, service string }

func topicOf(account, namespace, service string) topic {
	return topic{account, strings.ToLower(namespace), strings.ToLower(service)}
}

// known is one service.
type known struct {
	account    string
	definition *definition // nil while only instances have been told
	instances  map[string]*instance
	names      *Service // what package meshdns sees of it; nil when it is to be made anew
}

// NewRegistry makes a Registry.
func NewRegistry(s *store.Store, log *slog.Logger) *Registry {
	r := &Registry{store: s, log: log, watchers: map[topic]map[chan struct{}]bool{}}
	r.reset()
	return r
}

// reset forgets what is known; mu is held or not needed yet.
func (r *Registry) reset() {
	r.namespaces, r.services = map[string]map[string]*namespace{}, map[string]map[string]*known{}
	r.places, r.above, r.zones = map[topic]map[string]*known{}, map[above]int{}, map[string][]*zone{}
}

// Run follows the store until ctx ends, and returns its error.
func (r *Registry) Run(ctx context.Context) error {
	return r.store.WatchRecords(ctx, rootTail, func(b store.RecordBatch) error {
		r.take(b)
		return nil
	})
}

// take learns what one revision changed, at once.
func (r *Registry) take(b store.RecordBatch) {
	r.mu.Lock()
	defer r.mu.Unlock()
	touched, renamed := map[topic]bool{}, false
	if b.Reset {
		for t := range r.watchers {
			touched[t] = true
		}
		r.reset()
		r.loaded, renamed = true, true
	}
	for _, tail := range b.Gone {
		renamed = r.learn(tail, nil, touched) || renamed
	}
	for i := range b.Records {
		renamed = r.learn(b.Records[i].Key, &b.Records[i], touched) || renamed
	}
	if renamed {
		r.rezone()
	}
	for t := range touched {
		for ch := range r.watchers[t] {
			select {
			case ch <- struct{}{}:
			default: // it has not looked since it was told
			}
		}
	}
}

// learn takes in one record, or that it is gone; renamed says that it was a
// namespace. mu is held.
func (r *Registry) learn(tail string, record *store.Record, touched map[topic]bool) (renamed bool) {
	parts := strings.Split(strings.TrimPrefix(tail, rootTail), "/")
	for i, p := range parts {
		if plain, err := url.PathUnescape(p); err == nil {
			parts[i] = plain
		}
	}
	if len(parts) < 4 {
		return false
	}
	account, of, id, what := parts[0], parts[1], parts[2], parts[3]
	switch {
	case of == "names" && id == "namespace":
		n, err := namespaces.of(record)
		if err != nil {
			r.log.Error("namespace cannot be read and is left out", "key", tail, "err", err)
		}
		if n == nil {
			delete(r.namespaces[account], what)
		} else {
			put(r.namespaces, account, what, n)
		}
		return true
	case of == "service" && what == "service" && len(parts) == 4:
		d, err := definitions.of(record)
		if err != nil {
			r.log.Error("service cannot be read and is left out", "key", tail, "err", err)
		}
		r.define(account, id, d, touched)
	case of == "service" && what == "instance" && len(parts) == 5:
		i, err := instances.of(record)
		if err != nil {
			r.log.Error("instance cannot be read and is left out", "key", tail, "err", err)
		}
		k := r.service(account, id)
		if i == nil {
			delete(k.instances, parts[4])
		} else {
			k.instances[parts[4]] = i
		}
		r.touch(k, touched)
		r.tidy(account, id, k)
	}
	return false
}

func put[V any](m map[string]map[string]V, account, id string, v V) {
	if m[account] == nil {
		m[account] = map[string]V{}
	}
	m[account][id] = v
}

// service finds a service, or makes a place for it; mu is held.
func (r *Registry) service(account, id string) *known {
	k := r.services[account][id]
	if k == nil {
		k = &known{account: account, instances: map[string]*instance{}}
		put(r.services, account, id, k)
	}
	return k
}

// define takes in what a service is; nil is that it is no more.
func (r *Registry) define(account, id string, d *definition, touched map[topic]bool) {
	k := r.service(account, id)
	r.touch(k, touched)
	if k.definition != nil {
		t := k.topic()
		if delete(r.places[t], id); len(r.places[t]) == 0 {
			delete(r.places, t)
		}
		r.count(k.definition, -1)
	}
	if k.definition = d; d != nil {
		t := k.topic()
		if r.places[t] == nil {
			r.places[t] = map[string]*known{}
		}
		r.places[t][id] = k
		r.touch(k, touched)
		r.count(d, 1)
	}
	r.tidy(account, id, k)
}

// above is a name in a namespace, in lower case, below which services have theirs.
type above struct{ namespace, name string }

// count counts the names above a service's, of which there are some where it has
// dots; mu is held.
func (r *Registry) count(d *definition, by int) {
	if d.Type == cloudmapapi.ServiceTypeHTTP {
		return
	}
	name := strings.ToLower(d.Name)
	for {
		_, rest, dots := strings.Cut(name, ".")
		if !dots {
			return
		}
		at := above{d.Namespace, rest}
		if r.above[at] += by; r.above[at] == 0 {
			delete(r.above, at)
		}
		name = rest
	}
}

// touch notes that a service is another; mu is held.
func (r *Registry) touch(k *known, touched map[topic]bool) {
	k.names = nil
	if k.definition != nil {
		touched[k.topic()] = true
	}
}

// tidy forgets a service of which nothing is left.
func (r *Registry) tidy(account, id string, k *known) {
	if k.definition == nil && len(k.instances) == 0 {
		delete(r.services[account], id)
	}
}

func (k *known) topic() topic { return topicOf(k.account, k.definition.In, k.definition.Name) }

// named finds the service that an account's names mean: in HTTP namespaces letter
// for letter. mu is held.
func (r *Registry) named(account, in, called string) *known {
	all := r.places[topicOf(account, in, called)]
	for _, t := range types {
		for _, k := range all {
			d := k.definition
			if d.Kind == t && spelled(d.In, t) == spelled(in, t) && spelled(d.Name, t) == spelled(called, t) {
				return k
			}
		}
	}
	return nil
}

// subscribe returns a channel that receives after services of the name changed,
// until done is called.
func (r *Registry) subscribe(t topic) (changed <-chan struct{}, done func()) {
	ch := make(chan struct{}, 1)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.watchers[t] == nil {
		r.watchers[t] = map[chan struct{}]bool{}
	}
	r.watchers[t][ch] = true
	return ch, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if delete(r.watchers[t], ch); len(r.watchers[t]) == 0 {
			delete(r.watchers, t)
		}
	}
}

// rezone works out which private namespaces are served; mu is held.
func (r *Registry) rezone() {
	before := r.zones
	r.zones, r.contested = map[string][]*zone{}, 0
	for account, all := range r.namespaces {
		for _, n := range all {
			if n.Type == cloudmapapi.NamespaceTypeDNSPrivate {
				name := strings.ToLower(n.Name)
				r.zones[name] = append(r.zones[name], &zone{account, n})
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(r.zones)) {
		list := r.zones[name]
		if len(list) == 1 {
			continue
		}
		r.contested++
		slices.SortFunc(list, func(a, b *zone) int {
			if c := a.namespace.Created.Compare(b.namespace.Created); c != 0 {
				return c
			}
			return strings.Compare(a.account+a.namespace.ID, b.account+b.namespace.ID)
		})
		if len(before[name]) != len(list) {
			r.log.Warn("several accounts have a private namespace of one name: names in it are those of the first", "namespace", name,
				"first", list[0].account, "others", len(list)-1)
		}
	}
}
