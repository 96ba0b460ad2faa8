package ledger_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
	"github.com/evermesh/evermesh/internal/store"
	"github.com/evermesh/evermesh/internal/store/storetest"
)

// A change that all proxies of 500 nodes follow, one a moment after the other and four times over, is written in batches,
// at most one every 250 ms (D8): not once for each proxy, nor for each node.
func TestAWideChangeIsFewTransactions(t *testing.T) {
	const nodes, times = 500, 4
	s := storetest.New(t)
	w := newWorld(s, "a")
	clients := make([]mesh.Client, nodes)
	for i := range clients {
		clients[i] = node(fmt.Sprintf("n-%03d", i))
		w.connect(clients[i], w.proxy(clients[i], "i"))
	}
	w.flush(t)
	var transactions, flushes, rows atomic.Int64
	w.refuse = func(ops []store.Op) error {
		transactions.Add(1)
		for _, op := range ops {
			if strings.HasPrefix(op.Key, "ledger/replicas/") {
				flushes.Add(1) // each ends with the replica's own row
			} else {
				rows.Add(1)
			}
		}
		return nil
	}

	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	began := time.Now()
	go func() { ended <- w.Run(ctx) }()
	pace := time.NewTicker(time.Millisecond)
	defer pace.Stop()
	for range times {
		for _, c := range clients {
			<-pace.C
			w.Dirty(c)
		}
	}
	changed := w.Changed()
	w.Dirty(clients[0])
	select {
	case <-changed:
	case <-time.After(time.Minute):
		t.Error("nothing is written any more")
	}
	stop()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	took := time.Since(began)

	// One flush at each end, and what Run writes before and beside.
	most := int64(took/(250*time.Millisecond)) + 3
	t.Logf("%d changes of %d nodes in %v: %d flushes, %d transactions of %d rows", times*nodes, nodes, took.Round(time.Millisecond), flushes.Load(), transactions.Load(), rows.Load())
	if n := flushes.Load(); n > most {
		t.Errorf("%d flushes in %v, at most %d are every 250 ms", n, took, most)
	}
	if n, most := transactions.Load(), flushes.Load()*(nodes/100+2); n > most {
		t.Errorf("%d transactions in %d flushes, at most %d when full batches are written", n, flushes.Load(), most)
	}
	if n := rows.Load(); n < nodes {
		t.Errorf("%d rows were written of %d nodes: nothing is shown", n, nodes)
	}
}

// A node whose proxies differ in their traits has one row, which no proxy's changes
// take another's place in.
func TestOneRowForAllTraits(t *testing.T) {
	s := storetest.New(t)
	w := newWorld(s, "a")
	plain := node("n")
	measured := mesh.Client{Key: plain.Key, Traits: mesh.Traits{Metrics: true}}
	w.connect(plain, w.proxy(plain, "1"), w.proxy(plain, "2"))
	w.Dirty(measured)
	asked := map[mesh.Client]int{}
	row := w.Row
	w.Row = func(c mesh.Client) (api.LedgerRow, bool) { asked[c]++; return row(c) }
	w.flush(t)
	if len(asked) != 1 || asked[plain] != 1 {
		t.Errorf("rows were asked for of %v", asked)
	}
	w.Dirty(measured)
	w.flush(t)
	if got := proxies(t, reader(s, w.now), account); len(got) != 2 {
		t.Errorf("the ledger has %q", got)
	}
}
