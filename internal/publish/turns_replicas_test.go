package publish_test

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/ads"
	"github.com/evermesh/evermesh/internal/ads/adstest"
	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/ledger"
	"github.com/evermesh/evermesh/internal/publish"
	"github.com/evermesh/evermesh/internal/store"
	"github.com/evermesh/evermesh/internal/store/storetest"
	"github.com/evermesh/evermesh/internal/testenv"
)

// The target's proxy and the client's are at other replicas than each other.
func TestReplicasWaitForEachOthersProxies(t *testing.T) {
	t.Parallel()
	stores := storetest.Replicas(t, 2)
	write(t, stores[0], lone("8080")...)
	a, b := newKept(t, stores[0], "a", time.Now), newKept(t, stores[1], "b", time.Now)
	front, v1, other := a.named(t, "front", "f", true), b.named(t, "v1", "v", true), a.named(t, "v1", "w", false)
	for _, p := range []*adstest.Proxy{front, v1, other} {
		ready(t, p)
	}
	target, client := shut(t, v1, adstest.LDS), shut(t, front, adstest.RDS)
	a.reach(t, write(t, stores[1], listening("v1", "9090")))
	other.Wait(t, "both ports", func() bool { return inbound(t, other) == "8080 raw_buffer, 9090 raw_buffer" })
	for began := time.Now(); time.Since(began) < time.Second; <-time.After(20 * time.Millisecond) {
		if got := toward(t, front); got != "8080" {
			t.Fatalf("its client was sent %q although one of two targets has not accepted", got)
		}
	}
	target.let()
	front.Wait(t, "the new port", func() bool { return strings.Contains(toward(t, front), "9090") })
	for began := time.Now(); time.Since(began) < time.Second; <-time.After(20 * time.Millisecond) {
		for _, p := range []*adstest.Proxy{v1, other} {
			if got := inbound(t, p); got != "8080 raw_buffer, 9090 raw_buffer" {
				t.Fatalf("the client at another replica has not accepted, and a target has %q", got)
			}
		}
	}
	client.let()
	for _, p := range []*adstest.Proxy{v1, other} {
		p.Wait(t, "the new port alone", func() bool { return inbound(t, p) == "9090 raw_buffer" })
	}
	settled(t, stores[0])
}

// A replica that starts in the middle of a turn goes on from where it is, also when
// the one that began it is gone.
func TestAReplicaStartsInTheMiddleOfATurn(t *testing.T) {
	t.Parallel()
	stores := storetest.Replicas(t, 2)
	write(t, stores[0], lone("8080")...)
	a := newKept(t, stores[0], "a", time.Now)
	front, v1 := a.named(t, "front", "f", true), a.named(t, "v1", "v", true)
	ready(t, front)
	ready(t, v1)
	target := shut(t, v1, adstest.LDS)
	revision := write(t, stores[0], listening("v1", "9090"))
	a.reach(t, revision)
	testenv.Eventually(t, "the turn is written down", func() bool {
		rows, err := stores[0].Read(t.Context(), "ledger/turns/")
		return err == nil && len(rows) == 1
	})
	var ahead atomic.Int64 // how far the clock of the new replica is
	b := newKept(t, stores[1], "b", func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) })
	second := b.named(t, "front", "g", false)
	ready(t, second)
	if got := toward(t, second); got != "8080" {
		t.Errorf("a client of the new replica uses %q, which the target has not accepted", got)
	}
	newcomer := b.named(t, "v1", "w", false)
	newcomer.Wait(t, "both ports", func() bool { return inbound(t, newcomer) == "8080 raw_buffer, 9090 raw_buffer" })

	testenv.Eventually(t, "the first replica has said that it applied the change", func() bool {
		_, replicas, err := b.reader.Proxies(t.Context(), account)
		return err == nil && slices.ContainsFunc(replicas, func(r api.Replica) bool { return r.ID == "a" && r.AppliedRevision >= revision })
	})
	a.stop()                             // as if killed: its rows stay, and its proxies come back elsewhere
	ahead.Store(int64(16 * time.Second)) // when a replica is silent, its rows are believed no more
	target.let()
	third := b.named(t, "front", "f", true)
	ready(t, third)
	if got := toward(t, third); got != "8080" && got != "9090" {
		t.Errorf("the client that came over uses %q", got)
	}
	over := b.named(t, "v1", "v", true)
	for _, p := range []*adstest.Proxy{second, third} {
		p.Wait(t, "the new port", func() bool { return toward(t, p) == "9090" })
	}
	for _, p := range []*adstest.Proxy{newcomer, over} {
		p.Wait(t, "the new port alone", func() bool { return inbound(t, p) == "9090 raw_buffer" })
	}
	settled(t, stores[1])
}

// A control plane of one replica that starts again in the middle of a turn does not
// take proxies for gone that are only coming back.
func TestALoneReplicaStartsInTheMiddleOfATurn(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	write(t, s, lone("8080")...)
	a := newKept(t, s, "a", time.Now)
	v1 := a.named(t, "v1", "v", true)
	ready(t, v1)
	target := shut(t, v1, adstest.LDS)
	a.reach(t, write(t, s, listening("v1", "9090")))
	testenv.Eventually(t, "the turn is written down", func() bool {
		rows, err := s.Read(t.Context(), "ledger/turns/")
		return err == nil && len(rows) == 1
	})
	target.let()
	a.stop()
	clear := (&ledger.Writer{Store: s}).Init()
	adstest.Must(t, clear.Clear(t.Context())) // as a replica that has the store to itself
	now := newHand()
	b := newKept(t, s, "b", time.Now, func(_ *replica, _ *ads.Config, p *publish.Config) { p.Now = now.read })
	front := b.named(t, "front", "f", true)
	ready(t, front)
	for began := time.Now(); time.Since(began) < 1500*time.Millisecond; <-time.After(20 * time.Millisecond) {
		if got := toward(t, front); got != "8080" {
			t.Fatalf("its client was sent %q although nobody knows whether the target has it", got)
		}
	}
	back := b.named(t, "v1", "v", true)
	back.Wait(t, "both ports", func() bool { return inbound(t, back) == "8080 raw_buffer, 9090 raw_buffer" })
	now.turn(16 * time.Second) // by then all have come back that will
	front.Wait(t, "the new port", func() bool { return toward(t, front) == "9090" })
	back.Wait(t, "the new port alone", func() bool { return inbound(t, back) == "9090 raw_buffer" })
	settled(t, s)
}

// A replica that has to read everything anew goes on with its turns, and begins
// those of changes that it missed.
func TestATurnOutlivesAReset(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	write(t, s, lone("8080")...)
	source := &again{Store: s, signal: make(chan struct{})}
	missed := &missing{Store: source}
	k := newKept(t, s, "a", time.Now, func(_ *replica, _ *ads.Config, p *publish.Config) { p.Store = missed })
	front, v1 := k.named(t, "front", "f", true), k.named(t, "v1", "v", true)
	ready(t, front)
	ready(t, v1)
	target := shut(t, v1, adstest.LDS)
	k.reach(t, write(t, s, listening("v1", "9090")))
	k.counts()
	source.signal <- struct{}{}
	seen := 0
	testenv.Eventually(t, "everything was looked at again", func() bool {
		views, _, _ := k.counts()
		seen += views
		return seen >= 2
	})
	for began := time.Now(); time.Since(began) < 600*time.Millisecond; <-time.After(20 * time.Millisecond) {
		if got := toward(t, front); got != "8080" {
			t.Fatalf("its client was sent %q although the target has not accepted", got)
		}
	}
	target.let()
	front.Wait(t, "the new port", func() bool { return toward(t, front) == "9090" })
	settled(t, s)

	target = shut(t, v1, adstest.LDS)
	missed.off.Store(true)
	write(t, s, listening("v1", "7070"))
	source.signal <- struct{}{}
	testenv.Eventually(t, "the change is known", func() bool {
		return k.Snapshot().Get(v1Key).VirtualNodeSpec().Listeners[0].PortMapping.Port == 7070
	})
	missed.off.Store(false)
	for began := time.Now(); time.Since(began) < 600*time.Millisecond; <-time.After(20 * time.Millisecond) {
		if got := toward(t, front); got != "9090" {
			t.Fatalf("its client was sent %q although the target has not accepted", got)
		}
	}
	target.let()
	front.Wait(t, "the third port", func() bool { return toward(t, front) == "7070" })
	settled(t, s)
}

// missing is a store whose watch leaves out what happens while it is told to.
type missing struct {
	publish.Store
	off atomic.Bool
}

func (m *missing) Watch(ctx context.Context, fn func(store.Batch) error) error {
	return m.Store.Watch(ctx, func(b store.Batch) error {
		if m.off.Load() && !b.Reset {
			return nil
		}
		return fn(b)
	})
}
