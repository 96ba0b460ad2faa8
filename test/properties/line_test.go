package properties

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/discovery"
	"github.com/evermesh/evermesh/internal/envoy"
	"github.com/evermesh/evermesh/internal/mesh"
	"github.com/evermesh/evermesh/internal/publish"
	"github.com/evermesh/evermesh/internal/store"
)

// line is a control plane without a network: the publishing loop and the registry
// of endpoints as they ship. What they talk to is in memory: where changes come
// from, where bundles go, who has accepted them, who finds endpoints. (Real etcd,
// real streams and a real ledger are with internal/publish; here it is thousands
// of meshes.)
type line struct {
	*publish.Loop
	batches chan store.Batch
	book    *book
	stop    func()
	here    map[mesh.Client]bool // who is connected

	mu sync.Mutex
	// accepted says that the proxies of all nodes have accepted what they got, so
	// that nodes whose listeners change may go on (D6.3).
	accepted bool
	got      map[mesh.Client]*envoy.Bundle
	sent     []sent
	faults   []string // of bundles on their way
}

// sent is a bundle that proxies were given.
type sent struct {
	mesh.Client
	*envoy.Bundle
}

// start starts a control plane; stop ends it and waits for it.
func start() *line {
	l := &line{batches: make(chan store.Batch, 64), book: &book{}, here: map[mesh.Client]bool{}, got: map[mesh.Client]*envoy.Bundle{}}
	log := slog.New(slog.DiscardHandler)
	registry := discovery.New(discovery.Config{Source: l.book, Memory: forgetful{}, Log: log, Now: time.Now})
	l.Loop = publish.New(publish.Config{
		Store: l, Proxies: l, Endpoints: registry, Ledger: l, PublishWait: 1000 * time.Hour, Log: log, Workers: 2, Now: time.Now,
	})
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = l.Run(ctx) })
	running.Go(func() { _ = registry.Run(ctx) })
	l.stop = func() { cancel(); running.Wait() }
	return l
}

// Watch is the store's.
func (l *line) Watch(ctx context.Context, fn func(store.Batch) error) error {
	for {
		select {
		case b := <-l.batches:
			if err := fn(b); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Head is the store's; nobody asks for it here.
func (l *line) Head(context.Context) (int64, error) { return 0, nil }

// Set is the management service's. A bundle must be whole whenever it is sent.
func (l *line) Set(c mesh.Client, _ int64, b *envoy.Bundle) {
	var found []string
	if b != nil {
		lacks, err := dangling(b)
		if found = lacks; err != nil {
			found = append(found, err.Error())
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.got[c] = b; b == nil {
		delete(l.got, c)
	} else {
		l.sent = append(l.sent, sent{c, b})
	}
	if len(found) > 0 {
		l.faults = append(l.faults, fmt.Sprintf("%s %+v: %s", c.Key, c.Traits, strings.Join(found, "\n")))
	}
}

// Mesh is the ledger's.
func (l *line) Mesh(context.Context, api.Key) ([]api.LedgerRow, []api.Replica, bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return nil, []api.Replica{{ID: "r", AppliedRevision: math.MaxInt64, SeenAt: api.Timestamp{Time: time.Now()}}}, l.accepted, nil
}

func (l *line) accept(yes bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.accepted = yes
}

// come and leave are what the management service does when the first proxy of a
// client comes and its last one goes. Who is here already does not come: that would
// make the loop look at it anew.
func (l *line) come(c mesh.Client) {
	if !l.here[c] {
		l.here[c] = true
		l.Want(c)
	}
}

func (l *line) leave(c mesh.Client) {
	if l.here[c] {
		delete(l.here, c)
		l.Unwant(c)
	}
}

func (l *line) fault() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.faults, "\n")
}

// book is a source of endpoints. Each query has a set, another one after turn.
type book struct {
	mu     sync.Mutex
	page   int
	turned chan struct{}
}

// known is the set of a query; ok is false for those that the source says nothing of.
func (b *book) known(q envoy.EndpointQuery) ([]envoy.Endpoint, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if q.Service != "svc" {
		return nil, q.Service == "ns" // which has none
	}
	set := []envoy.Endpoint{{Address: "10.0.0.1", Port: cmp.Or(q.Port, 9000)}, {Address: fmt.Sprint("10.0.1.", b.page), Port: cmp.Or(q.Port, 9000)}}
	if strings.HasPrefix(q.IPPreference, "IPv6") {
		set = append(set, envoy.Endpoint{Address: "2001:db8::1", Port: 9001})
	}
	return set, true
}

func (b *book) turn() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.page = (b.page + 1) % 3
	if b.turned != nil {
		close(b.turned)
	}
	b.turned = nil
}

// Watch is the source's.
func (b *book) Watch(ctx context.Context, q envoy.EndpointQuery, found func([]envoy.Endpoint)) error {
	for {
		b.mu.Lock()
		if b.turned == nil {
			b.turned = make(chan struct{})
		}
		turned := b.turned
		b.mu.Unlock()
		if set, ok := b.known(q); ok {
			found(set)
		}
		select {
		case <-turned:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// forgetful is a memory of endpoints for a control plane that never starts again.
type forgetful struct{}

func (forgetful) Write(context.Context, bool, []store.Op) error           { return nil }
func (forgetful) Read(context.Context, string) (map[string][]byte, error) { return nil, nil }

// fromNothing is what a client gets of these resources, and what is wrong with them,
// where nothing was before.
func fromNothing(w *world, b *book, c mesh.Client) (*envoy.Bundle, []mesh.Problem) {
	view, problems, _ := mesh.NewSnapshot(w.revision, w.resources()).View(c)
	if view == nil {
		return nil, nil
	}
	bundle, more := new(envoy.Builder).Build(view, nil)
	return bundle.WithEndpoints(b.known), append(problems, more...)
}

// told are problems as text, each once, sorted.
func told(problems []mesh.Problem) []string {
	out := map[string]bool{}
	for _, p := range problems {
		out[fmt.Sprintf("%s %s: %s", p.Key, p.Reason, p.Message)] = true
	}
	return slices.Sorted(maps.Keys(out))
}
