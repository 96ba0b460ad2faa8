// Package publish is the one loop between the store and the proxies: a batch of
// stored changes becomes a new mesh.Snapshot, the index says which connected
// clients read what changed, their views are resolved and built into bundles,
// and the management service gets what differs.
//
// Where the listeners of a node change, its proxies and its clients wait for each
// other (turns.go, keeps.go, watch.go): the only steps of the loop that follow from what
// proxies have accepted and not from what is stored.
//
// Loop is the sole writer of bundles. Everything it calls on the way is pure;
// what is left here is the order of things: drain what is pending, apply, look
// at the affected clients only, publish, and only then say that the revision is
// applied.
package publish

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/catchup"
	"github.com/evermesh/evermesh/internal/discovery"
	"github.com/evermesh/evermesh/internal/envoy"
	"github.com/evermesh/evermesh/internal/mesh"
	"github.com/evermesh/evermesh/internal/store"
)

// Store is where changes come from; *store.Store is one.
type Store interface {
	// Watch calls fn with everything at one revision, then with each change.
	Watch(ctx context.Context, fn func(store.Batch) error) error
	// Head is the newest revision, read linearizably.
	Head(ctx context.Context) (int64, error)
}

// Proxies is where bundles go; *ads.Server is one.
type Proxies interface {
	// Set makes b what the client's proxies are to have; nil says that its
	// node or gateway does not exist. Several goroutines call it at once, each
	// for other clients.
	Set(c mesh.Client, revision int64, b *envoy.Bundle)
}

// Config is what a Loop needs. Endpoints may be nil where nothing needs EDS.
type Config struct {
	Store     Store
	Proxies   Proxies
	Endpoints *discovery.Registry
	// Ledger says who has accepted the listeners of a node; without it nobody waits
	// for another's. Rows keeps nodes whose listeners change for replicas that start;
	// nil is allowed. PublishWait bounds each wait (D6.3).
	Ledger      Ledger
	Rows        Rows
	PublishWait time.Duration
	Log         *slog.Logger
	// Workers bounds how many views are built at once.
	Workers int
	// Observe is told how long each phase of a publication took: "apply" to the
	// snapshot, "build" bundles and hand them over, "set" what is remembered of
	// them; nil is allowed.
	Observe func(phase string, took time.Duration)
	// Applied is told of every revision once its bundles are published.
	Applied func(revision int64)
	// Drained is told up to which revision drains are in the endpoint sets that were
	// published, and which of them leave an endpoint in them yet; nil is allowed.
	Drained func(revision int64, kept []string)
	// Problematic is told of each client whose problems became others; nil is
	// allowed.
	Problematic func(c mesh.Client)
	// Visited is told of each client whose view was resolved, for its proxies or
	// for a rollout, and whether a bundle was built from it; several goroutines call it. nil is allowed.
	Visited func(c mesh.Client, built bool)
	Now     func() time.Time
}

// Loop turns changes into bundles. Its exported methods may be called from any
// goroutine.
type Loop struct {
	Config
	heads   *catchup.Reads[int64]
	builder envoy.Builder

	snapshot atomic.Pointer[mesh.Snapshot]
	progress progress

	mu      sync.Mutex
	pending map[mesh.Client]bool // clients that came (true) or left since the loop looked
	wake    chan struct{}

	// Owned by the goroutine of Run.
	index   *mesh.Index
	clients map[mesh.Client]*client
	keeps   keeps

	// shown is the newest snapshot, as it is offered; keeping says that it has more than
	// what is stored, and turns. Run alone sets them.
	shown   atomic.Pointer[mesh.Snapshot]
	keeping atomic.Bool

	turns    turns
	past     past
	problems problems
	asked    asked
}

// client is what the loop last made for a connected client.
type client struct {
	mesh.Client
	bundle   *envoy.Bundle
	problems []mesh.Problem // of building the bundle
	// fresh says that Proxies has not got the bundle since the client came.
	fresh bool
	// affected says that the client is among those to publish for next, left that
	// its last proxy has gone.
	affected, left bool
}

// New makes a Loop; Run works it.
func New(c Config) *Loop {
	l := &Loop{
		Config: c, pending: map[mesh.Client]bool{}, wake: make(chan struct{}, 1),
		index: mesh.NewIndex(), clients: map[mesh.Client]*client{},
	}
	l.builder.WithoutCloudMap = c.Endpoints == nil || c.Endpoints.Source == nil
	l.builder.CloudMapOfAccounts = c.Endpoints != nil && c.Endpoints.Own
	l.heads = catchup.NewReads(c.Store.Head, 0)
	l.progress.init()
	l.turns.init()
	l.keeps = newKeeps()
	l.problems.log = c.Log
	return l
}

// Want says that a first proxy of the client has connected; Unwant that the
// last one has gone. Both return at once.
func (l *Loop) Want(c mesh.Client) { l.note(c, true) }

// Unwant is Want's opposite.
func (l *Loop) Unwant(c mesh.Client) { l.note(c, false) }

func (l *Loop) note(c mesh.Client, wanted bool) {
	l.mu.Lock()
	l.pending[c] = wanted
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Snapshot is the newest applied snapshot; nil before the first.
func (l *Loop) Snapshot() *mesh.Snapshot { return l.snapshot.Load() }

// Run follows the store until ctx ends. It returns the store's error when the
// watch cannot go on.
func (l *Loop) Run(ctx context.Context) error {
	batches := make(chan store.Batch)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return l.Store.Watch(ctx, func(b store.Batch) error {
			select {
			case batches <- b:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	})
	g.Go(func() error { return l.heads.Run(ctx) })
	g.Go(func() error { return l.work(ctx, batches) })
	if l.Ledger != nil {
		g.Go(func() error { return l.watch(ctx) })
	}
	return g.Wait()
}

func (l *Loop) work(ctx context.Context, batches <-chan store.Batch) error {
	var endpoints <-chan struct{}
	if l.Endpoints != nil {
		endpoints = l.Endpoints.Changed()
	}
	for {
		var affected []*client
		select {
		case b := <-batches:
			fresh := l.Snapshot() == nil
			affected = l.apply(b, affected)
			if fresh {
				if err := l.adopt(ctx); err != nil {
					return err
				}
			}
			affected = l.drain(batches, affected)
		case <-l.wake:
		case <-l.turns.moved:
		case <-endpoints:
			l.refresh()
			continue
		case <-ctx.Done():
			return ctx.Err()
		}
		if l.Snapshot() == nil {
			continue // nothing is known yet; who came stays pending
		}
		l.publish(l.arrivals(l.advance(affected)))
		revision := l.Snapshot().Revision()
		l.progress.reach(revision)
		if l.Applied != nil {
			l.Applied(revision)
		}
	}
}

// drain applies what has arrived meanwhile: building coalesces by itself under
// load and adds no delay when idle.
func (l *Loop) drain(batches <-chan store.Batch, affected []*client) []*client {
	for {
		select {
		case b := <-batches:
			affected = l.apply(b, affected)
		default:
			return affected
		}
	}
}

// apply makes the next snapshot and returns affected with the clients that the
// batch concerns beside them.
func (l *Loop) apply(b store.Batch, affected []*client) []*client {
	defer l.timed("apply")()
	before := l.Snapshot()
	if b.Reset || before == nil {
		resources := make([]*api.Resource, 0, len(b.Changes))
		for _, c := range b.Changes {
			if c.New != nil {
				resources = append(resources, c.New)
			}
		}
		l.snapshot.Store(mesh.NewSnapshot(b.Revision, resources))
		for _, c := range l.clients {
			affected = c.among(affected)
		}
	} else {
		l.snapshot.Store(before.Apply(b.Revision, b.Changes))
		for _, c := range l.index.Affected(b.Changes) {
			affected = l.clients[c].among(affected)
		}
	}
	for _, c := range l.index.Affected(l.show(before, l.Snapshot(), b.Changes)) {
		affected = l.clients[c].among(affected)
	}
	return affected
}

// among returns affected with the client, once.
func (c *client) among(affected []*client) []*client {
	if c.affected {
		return affected
	}
	c.affected = true
	return append(affected, c)
}

// arrivals takes in the clients that came and forgets those that left.
func (l *Loop) arrivals(affected []*client) []*client {
	l.mu.Lock()
	pending := l.pending
	l.pending = map[mesh.Client]bool{}
	l.mu.Unlock()
	for c, wanted := range pending {
		held := l.clients[c]
		if wanted {
			if held == nil {
				held = &client{Client: c}
				l.clients[c] = held
			}
			// It may have left and come again before the loop looked.
			held.fresh = true
			affected = held.among(affected)
			continue
		}
		if held != nil {
			held.left = true
		}
		delete(l.clients, c)
		l.index.Remove(c)
		if l.Endpoints != nil {
			l.Endpoints.Need(c, nil)
		}
		l.problems.set(c, nil)
	}
	return affected
}

func (l *Loop) timed(phase string) func() {
	if l.Observe == nil {
		return func() {}
	}
	start := l.Now()
	return func() { l.Observe(phase, l.Now().Sub(start)) }
}
