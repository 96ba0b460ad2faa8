package drain

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/evermesh/evermesh/internal/ads"
	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/discovery"
	"github.com/evermesh/evermesh/internal/ledger"
	"github.com/evermesh/evermesh/internal/mesh"
	"github.com/evermesh/evermesh/internal/store"
)

const (
	// lasts is how long a drain outlasts its proxy's stream: for as long, whoever
	// registered the instance has time to take it out of Cloud Map. A fifth of that after
	// it was prolonged last it is prolonged again, and twice as often proxies are looked
	// at, beside when one connects.
	lasts = 5 * time.Minute
	// appears is how long a proxy that is not known is waited for, and appearsEvery how often
	// it is looked for: it is in the ledger a little after it has connected, and 2 s and a
	// write of the store after that where the store is slow.
	appears      = 3 * time.Second
	appearsEvery = 250 * time.Millisecond
)

// Store is where drains are kept; *store.Store is one.
type Store interface {
	WriteExpiring(ctx context.Context, key string, value []byte, lasts time.Duration) (revision int64, err error)
	Prolong(ctx context.Context, key string) error
	Write(ctx context.Context, lease bool, ops []store.Op) error
	Read(ctx context.Context, prefix string) (map[string][]byte, error)
	WatchRows(ctx context.Context, prefix string, fn func(store.RowBatch) error) error
}

// Ledger tells which proxies there are and what they have; *ledger.Reader is one.
type Ledger interface {
	Proxies(ctx context.Context, account string) ([]api.Proxy, []api.Replica, error)
	Drained(ctx context.Context, nodes []api.Key, instance, drain string, revision int64) (ledger.Drained, error)
	Changed() <-chan struct{}
}

// Config is what a Drains needs.
type Config struct {
	Store  Store
	Ledger Ledger
	// Snapshot is one as new as the store is; its errors are *api.Error.
	Snapshot func(ctx context.Context) (*mesh.Snapshot, error)
	// Endpoints leaves out what drains.
	Endpoints *discovery.Registry
	// Instances are the proxies of a node that are connected to this replica.
	Instances func(key api.Key) []ads.Instance
	// Lasts is how long a drain outlasts its proxy's stream, to the second; 0 is 5 minutes.
	Lasts time.Duration
	// Wait bounds how long Drain waits for clients; 0 is 10 s.
	Wait time.Duration
	Log  *slog.Logger
	Now  func() time.Time
}

// Drains knows which proxies drain. Its exported methods may be called from any
// goroutine.
type Drains struct {
	Config
	joined chan struct{}

	mu  sync.Mutex
	all map[string]*active // by name
}

// New makes a Drains; call Load and then Run.
func New(c Config) *Drains {
	if c.Wait == 0 {
		c.Wait = waitMost
	}
	if c.Lasts == 0 {
		c.Lasts = lasts
	}
	return &Drains{Config: c, joined: make(chan struct{}, 1), all: map[string]*active{}}
}

// Load reads the drains that there are, so that the first endpoints that are sent are
// without those of draining proxies.
func (d *Drains) Load(ctx context.Context) error {
	values, err := d.Store.Read(ctx, prefix)
	if err != nil {
		return fmt.Errorf("load drains: %w", err)
	}
	b := store.RowBatch{Reset: true}
	for key, value := range values {
		b.Rows = append(b.Rows, store.Row{Key: key, Value: value})
	}
	d.take(b)
	return nil
}

// Joined says that a proxy has connected here; it returns at once.
func (d *Drains) Joined() {
	select {
	case d.joined <- struct{}{}:
	default:
	}
}

// Since is since when the proxy drains; false when it does not.
func (d *Drains) Since(p api.Proxy) (time.Time, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, a := range d.all {
		if a.Instance == p.Instance && a.ARN == p.ResourceARN {
			return time.UnixMilli(a.At).UTC(), true
		}
	}
	return time.Time{}, false
}

// Run follows the drains of all replicas until ctx ends.
func (d *Drains) Run(ctx context.Context) error {
	var looking sync.WaitGroup
	defer looking.Wait()
	looking.Go(func() { d.look(ctx) })
	return d.Store.WatchRows(ctx, prefix, func(b store.RowBatch) error {
		d.take(b)
		d.Joined() // the proxy that ends a drain may have come before it was known here
		return nil
	})
}

// take takes in what has changed, and has endpoint sets follow.
func (d *Drains) take(b store.RowBatch) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if b.Reset {
		d.all = map[string]*active{}
	}
	for _, key := range b.Gone {
		if a := d.all[key]; a != nil {
			d.Log.Info("proxy drains no more", "mesh", a.key.Mesh, "key", a.Key, "proxy", a.Instance)
		}
		delete(d.all, key)
	}
	for _, r := range b.Rows {
		a, err := activeOf(r)
		if err != nil {
			d.Log.Warn("drain is left out", "err", err)
			continue
		}
		if d.all[a.name] == nil {
			d.Log.Info("proxy drains", "mesh", a.key.Mesh, "key", a.Key, "proxy", a.Instance)
		}
		a.prolonged = d.Now() // it was written with all of its time
		d.all[a.name] = a
	}
	all := make([]discovery.Drain, 0, len(d.all))
	for _, a := range d.all {
		all = append(all, a.drain())
	}
	d.Endpoints.Drain(b.Revision, all)
}

// look looks at the proxies of this replica until ctx ends: those that drain have their
// drains prolonged, and those that came in the place of one end its drain.
func (d *Drains) look(ctx context.Context) {
	tick := time.NewTicker(d.Lasts / 10)
	defer tick.Stop()
	for {
		select {
		case <-d.joined:
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		for _, a := range d.list() {
			if err := d.lookAt(ctx, a); err != nil && ctx.Err() == nil {
				d.Log.Warn("drain was not looked after", "key", a.Key, "proxy", a.Instance, "err", err)
			}
		}
	}
}

// list is a copy of the drains that there are.
func (d *Drains) list() []active {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := make([]active, 0, len(d.all))
	for _, name := range slices.Sorted(maps.Keys(d.all)) {
		out = append(out, *d.all[name])
	}
	return out
}

func (d *Drains) lookAt(ctx context.Context, a active) error {
	here := false
	for _, i := range d.Instances(a.key) {
		switch {
		case i.ID == a.Instance:
			here = true
		case a.succeeded(i):
			d.Log.Info("proxy was started anew where another drained", "mesh", a.key.Mesh, "key", a.Key, "proxy", i.ID, "drained", a.Instance)
			return d.Store.Write(ctx, false, []store.Op{{Key: a.name}})
		}
	}
	if !here || d.Now().Sub(a.prolonged) < d.Lasts/5 {
		return nil
	}
	if err := d.Store.Prolong(ctx, a.name); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if now := d.all[a.name]; now != nil {
		now.prolonged = d.Now()
	}
	return nil
}

// succeeded says whether a proxy of the same node is another process in the place of the
// draining one: it was not there when the drain began and has connected after that proxy
// had, has all of its addresses, and serves. Clients that were sent it before would be
// refused connections.
func (a *active) succeeded(i ads.Instance) bool {
	if !i.Serves || len(a.Addresses) == 0 || i.Connected.UnixMilli() <= a.Connected || slices.Contains(a.Beside, i.ID) {
		return false
	}
	for _, address := range a.Addresses {
		if !slices.Contains(i.Addresses, address) {
			return false
		}
	}
	return true
}

// Find is the connected proxy of that instance among those of the account's nodes and
// gateways, and of those in its meshes, and the key of what it is of; arn says of which,
// where several have one of that name, as an ARN or as a proxy's node id, and may be
// empty. Of those, only such count that may allows, and when it allows none its refusal is
// returned, with what was refused; nil allows all. One that has just connected is waited for. Its errors are
// *api.Error, or the store's.
func (d *Drains) Find(ctx context.Context, account, instance, arn string, may func(api.Key) error) (p api.Proxy, key api.Key, err error) {
	var of *api.ARN
	if arn != "" {
		parsed, err := api.ParseNodeID(arn)
		if err != nil {
			return p, key, api.Errorf(api.CodeBadRequest, "resourceArn: %v.", err)
		}
		of = &parsed
	}
	for began := d.Now(); ; {
		if p, key, err = d.find(ctx, account, instance, of, may); err == nil || d.Now().Sub(began) >= appears {
			return p, key, err
		}
		if known, ok := errors.AsType[*api.Error](err); !ok || known.Code != api.CodeNotFound {
			return p, key, err
		}
		select {
		case <-time.After(appearsEvery):
		case <-ctx.Done():
			return p, key, ctx.Err()
		}
	}
}

func (d *Drains) find(ctx context.Context, account, instance string, of *api.ARN, may func(api.Key) error) (p api.Proxy, key api.Key, refused error) {
	proxies, _, err := d.Ledger.Proxies(ctx, account)
	if err != nil {
		return p, key, err
	}
	found, others := map[api.Key]bool{}, false
	for _, x := range proxies {
		if x.Instance != instance {
			continue
		}
		k, err := keyOf(x.ResourceARN)
		if err != nil {
			return p, key, fmt.Errorf("read ledger: %w", err)
		}
		if found[k] {
			continue
		}
		if of != nil && !names(*of, k) {
			others = others || may == nil || may(k) == nil
			continue
		}
		if may != nil {
			if err := may(k); err != nil {
				refused = err
				if len(found) == 0 {
					p, key = x, k
				}
				continue
			}
		}
		found[k], p, key = true, x, k
	}
	switch {
	case len(found) == 0 && refused != nil:
		return p, key, refused
	case len(found) == 0 && others:
		return api.Proxy{}, api.Key{}, api.Errorf(api.CodeNotFound, "The proxy %q that is connected is of another node or gateway than the resourceArn.", clipped(instance))
	case len(found) == 0:
		return api.Proxy{}, api.Key{}, api.Errorf(api.CodeNotFound, "No proxy %q of yours is connected.", clipped(instance))
	case len(found) > 1:
		return api.Proxy{}, api.Key{}, api.Errorf(api.CodeBadRequest, "%d proxies are called %q: say with resourceArn of which node or gateway it is.", len(found), clipped(instance))
	}
	return p, key, nil
}

// keyOf is the key of a node or gateway.
func keyOf(arn string) (api.Key, error) {
	a, err := api.ParseARN(arn)
	if err != nil {
		return api.Key{}, err
	}
	return a.Key(""), nil
}

// names says whether an ARN, or a node id without an account, is of the key.
func names(of api.ARN, key api.Key) bool { return of.Key(key.Owner) == key }

// clipped keeps an answer readable, whatever was asked for.
func clipped(s string) string {
	const most = 64
	if len(s) > most {
		s = s[:most] + "..."
	}
	return strings.ToValidUTF8(s, "?")
}
