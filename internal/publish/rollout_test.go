package publish_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/evermesh/evermesh/internal/ads"
	"github.com/evermesh/evermesh/internal/ads/adstest"
	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/ledger"
	"github.com/evermesh/evermesh/internal/mesh"
	"github.com/evermesh/evermesh/internal/publish"
	"github.com/evermesh/evermesh/internal/store"
	"github.com/evermesh/evermesh/internal/store/storetest"
	"github.com/evermesh/evermesh/internal/testenv"
)

// counted is a store that counts transactions of the ledger.
type counted struct {
	*store.Store
	writes atomic.Int64
}

func (c *counted) Write(ctx context.Context, lease bool, ops []store.Op) error {
	c.writes.Add(1)
	return c.Store.Write(ctx, lease, ops)
}

// kept is a replica that keeps a ledger, and a reader of it.
type kept struct {
	*replica
	reader *ledger.Reader
	store  *counted
}

func newKept(t *testing.T, s *store.Store, id string, now func() time.Time, change ...func(*replica, *ads.Config, *publish.Config)) *kept {
	t.Helper()
	k := &kept{store: &counted{Store: s}}
	w := (&ledger.Writer{Store: k.store, Replica: api.Replica{ID: id, Version: "test"}, Log: quiet(), Now: now}).Init()
	k.reader = &ledger.Reader{Store: s, Realm: api.Realm{Partition: "aws", Region: "us-east-1"}, Flushed: w.Changed, Now: now}
	k.replica = newReplica(t, s, nil, append([]func(*replica, *ads.Config, *publish.Config){func(r *replica, a *ads.Config, p *publish.Config) {
		a.Replica, a.Dirty = id, w.Dirty
		p.Ledger, p.Rows, p.PublishWait, p.Problematic = k.reader, s, tooLong, w.Dirty
		applied := p.Applied
		p.Applied = func(revision int64) { applied(revision); w.Applied(revision) }
		w.Row = func(c mesh.Client) (api.LedgerRow, bool) { return r.server.Row(c) }
	}}, change...)...)
	k.reader.Affected = k.Affected
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = w.Run(ctx)
	}()
	stop := k.stop
	k.stop = func() { stop(); cancel(); <-done }
	t.Cleanup(k.stop)
	return k
}

// rollout waits until the rollout of the route looks as wanted: its state, and
// how many proxies accepted it, of how many.
func (k *kept) rollout(t *testing.T, want string) api.Rollout {
	t.Helper()
	var got api.Rollout
	text := ""
	for deadline := time.Now().Add(adstest.Patience); text != want; time.Sleep(5 * time.Millisecond) {
		var err error
		got, err = k.reader.Rollout(t.Context(), api.Key{Owner: account, Mesh: "m", Kind: api.KindRoute, Parent: "color", Name: "all"})
		adstest.Must(t, err)
		text = fmt.Sprintf("%s %d/%d", got.State, got.ProxiesAccepted, got.ProxiesAffected)
		if time.Now().After(deadline) {
			t.Fatalf("the rollout is %s, want %s: %+v", text, want, got)
		}
	}
	return got
}

func (k *kept) named(t *testing.T, name, instance string, delta bool) *adstest.Proxy {
	t.Helper()
	return adstest.Connect(t, k.conn, adstest.Options{Node: "mesh/m/virtualNode/" + name, Instance: instance, Delta: delta})
}

func TestARolloutCountsTheProxiesOfAllReplicas(t *testing.T) {
	stores := storetest.Replicas(t, 2)
	write(t, stores[0], colors()...)
	var late atomic.Int64 // how far the reader's clock is ahead
	now := func() time.Time { return time.Now().Add(time.Duration(late.Load())) }
	a, b := newKept(t, stores[0], "a", now), newKept(t, stores[1], "b", time.Now)
	one, two := a.named(t, "front", "i-1", true), b.named(t, "front", "i-2", false)
	bystander := b.named(t, "v1", "i-3", true)
	for _, p := range []*adstest.Proxy{one, two, bystander} {
		ready(t, p)
	}
	if got := a.rollout(t, "DONE 2/2"); got.ReplicasTotal != 2 || got.ReplicasApplied != 2 {
		t.Errorf("replicas: %d of %d", got.ReplicasApplied, got.ReplicasTotal)
	}

	two.SetRefuse(func(r adstest.Response) string {
		if r.Type == adstest.RDS {
			return "two does not like it"
		}
		return ""
	})
	write(t, stores[0], route("color", "v1", 5, "v2", 5))
	got := a.rollout(t, "REFUSED 1/2")
	if len(got.Refused) != 1 || got.Refused[0].Instance != "i-2" || got.Refused[0].Replica != "b" {
		t.Fatalf("refused by %+v", got.Refused)
	}
	var reasons []string
	for _, typ := range got.Refused[0].Types {
		if typ.Refusal != nil {
			reasons = append(reasons, string(typ.Type)+": "+typ.Refusal.Message)
		}
	}
	if diff := cmp.Diff([]string{"route: two does not like it"}, reasons); diff != "" {
		t.Error(diff)
	}
	two.SetRefuse(nil)
	write(t, stores[1], route("color", "v1", 6, "v2", 4))
	a.rollout(t, "DONE 2/2")

	t.Run("a silent replica is unknown, and nothing is done", func(t *testing.T) {
		late.Store(int64(time.Minute))
		if got := a.rollout(t, "WAITING 1/2"); len(got.Unknown) != 1 {
			t.Errorf("unknown is %q", got.Unknown)
		}
	})
}

func TestAWideChangeCostsFewTransactions(t *testing.T) {
	s := storetest.New(t)
	write(t, s, colors()...)
	k := newKept(t, s, "a", time.Now)
	const n = 200
	proxies := make([]*adstest.Proxy, n)
	for i := range proxies {
		proxies[i] = k.named(t, "front", fmt.Sprint(i), i%2 == 0)
	}
	testenv.EventuallyAll(t, "proxies are current", n, k.current)
	k.rollout(t, fmt.Sprintf("DONE %d/%d", n, n))
	before, began := k.store.writes.Load(), time.Now()
	write(t, s, route("color", "v1", 9, "v2", 1))
	k.rollout(t, fmt.Sprintf("DONE %d/%d", n, n))
	// The ledger is written every 250 ms, however long proxies take on a busy machine.
	most := 10 + int64(time.Since(began)/(250*time.Millisecond))
	if wrote := k.store.writes.Load() - before; wrote > most {
		t.Errorf("%d transactions for the %d proxies of one node, want at most %d", wrote, n, most)
	}
}
