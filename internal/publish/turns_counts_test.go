package publish_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/ads"
	"github.com/evermesh/evermesh/internal/ads/adstest"
	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/publish"
	"github.com/evermesh/evermesh/internal/store"
	"github.com/evermesh/evermesh/internal/store/storetest"
	"github.com/evermesh/evermesh/internal/testenv"
)

// asks is a ledger and rows that count how often they are asked.
type asks struct {
	publish.Ledger
	publish.Rows
	n atomic.Int64
}

func (a *asks) Mesh(ctx context.Context, key api.Key) ([]api.LedgerRow, []api.Replica, bool, error) {
	a.n.Add(1)
	return a.Ledger.Mesh(ctx, key)
}

func (a *asks) Write(ctx context.Context, lease bool, ops []store.Op) error {
	a.n.Add(1)
	return a.Rows.Write(ctx, lease, ops)
}

func (a *asks) Read(ctx context.Context, prefix string) (map[string][]byte, error) {
	a.n.Add(1)
	return a.Rows.Read(ctx, prefix)
}

// While no listeners change nobody asks for anything (D6.5).
func TestChangesOfOtherThingsAskForNothing(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	write(t, s, lone("8080")...)
	counted := &asks{}
	k := newKept(t, s, "a", time.Now, func(_ *replica, _ *ads.Config, p *publish.Config) {
		counted.Ledger, counted.Rows = p.Ledger, p.Rows
		p.Ledger, p.Rows = counted, counted
	})
	front, v1 := k.named(t, "front", "f", true), k.named(t, "v1", "v", true)
	ready(t, front)
	ready(t, v1)
	if n := counted.n.Swap(0); n != 1 {
		t.Errorf("a start asked %d times, want once for turns that others have begun", n)
	}
	moved := listening("v1", "8080")
	moved.spec = strings.ReplaceAll(moved.spec, "v1.local", "moved.local")
	write(t, s, moved)
	write(t, s, listening("v2", "8080 9090"))
	write(t, s, node("front"), change{kind: api.KindVirtualNode, name: "v2"})
	k.reach(t, write(t, s, route("color", "v1", 5)))
	<-time.After(600 * time.Millisecond) // two looks, if there were any
	if n := counted.n.Load(); n != 0 {
		t.Errorf("changes that wait for nobody asked %d times", n)
	}
	k.reach(t, write(t, s, listening("v1", "9090")))
	// Else nothing is shown.
	testenv.Eventually(t, "a change of listeners asks", func() bool { return counted.n.Load() >= 4 })
	settled(t, s)
}

// Many nodes that change at once are written down together, and looked at together.
func TestManyTurnsCostFewTransactions(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	const n = 80
	var before, after []change
	for i := range n {
		name := fmt.Sprint("n", i)
		before, after = append(before, listening(name, "8080")), append(after, listening(name, "9090/STRICT"))
	}
	write(t, s, theMesh)
	write(t, s, before...)
	counted := &asks{}
	k := newKept(t, s, "a", time.Now, func(_ *replica, _ *ads.Config, p *publish.Config) {
		counted.Ledger, counted.Rows = p.Ledger, p.Rows
		p.Ledger, p.Rows = counted, counted
	})
	p := k.named(t, "n0", "i", true)
	ready(t, p)
	target := shut(t, p, adstest.LDS)
	counted.n.Store(0)
	began := time.Now()
	write(t, s, after...)
	testenv.Eventually(t, "all but one are over", func() bool {
		rows, err := s.Read(t.Context(), "ledger/turns/")
		return err == nil && len(rows) == 1 && len(k.Problems(api.Key{})) > 0
	})
	target.let()
	settled(t, s)
	// A start, two steps and an end are written, and it was looked at every 250 ms, of
	// which a busy machine may take many.
	most := n/2 + int64(time.Since(began)/(250*time.Millisecond))
	if asked := counted.n.Load(); asked > most {
		t.Errorf("%d turns asked %d times, want at most %d", n, asked, most)
	}
}
