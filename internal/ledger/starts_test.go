package ledger_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/store"
	"github.com/evermesh/evermesh/internal/store/storetest"
)

// A replica that starts while another sweeps keeps its rows, whichever read it
// falls between: no rollout is done without its proxies.
func TestASweepLeavesAReplicaThatStartsAlone(t *testing.T) {
	for at := 1; at <= 4; at++ {
		t.Run(fmt.Sprint("before read ", at), func(t *testing.T) {
			replicas := storetest.Replicas(t, 2)
			a, b := newWorld(replicas[0], "a"), newWorld(replicas[1], "b")
			revision := resource(t, replicas[0], theRoute, anyRoute)
			a.Applied(revision)
			a.connect(node("n"), a.proxy(node("n"), "i-1"))
			a.flush(t)
			starts := func() {
				b.Applied(revision)
				p := b.proxy(node("n"), "i-2")
				p.State = api.ProxyStatePending
				b.connect(node("n"), p)
				b.flush(t)
			}
			reads := 0
			a.reading = func(string) {
				if reads++; reads == at {
					starts()
				}
			}
			if err := a.Sweep(t.Context()); err != nil {
				t.Fatal(err)
			}
			if reads < at {
				starts()
			}
			if got, _ := rollout(t, reader(replicas[0], a.now)); got != "WAITING 1/2" {
				t.Errorf("rollout is %s", got)
			}
		})
	}
}

// A replica that comes back while another sweeps keeps what it has too.
func TestASweepLeavesAReplicaThatComesBackAlone(t *testing.T) {
	replicas := storetest.Replicas(t, 2)
	a, b := newWorld(replicas[0], "a"), newWorld(replicas[1], "b")
	revision := resource(t, replicas[0], theRoute, anyRoute)
	b.Applied(revision)
	b.connect(node("n"), b.proxy(node("n"), "i-2"))
	b.flush(t)
	a.now, b.now = start.Add(time.Hour), start.Add(time.Hour)
	a.Applied(revision)
	a.flush(t)
	a.reading = func(prefix string) {
		if prefix == "ledger/rows/" {
			b.flush(t)
		}
	}
	if err := a.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, _ := rollout(t, reader(replicas[0], a.now)); got != "DONE 1/1" {
		t.Errorf("rollout is %s", got)
	}
}

// Others know a replica before they find rows of it, at its start and when it was
// silent for so long that it may be forgotten: rows of nobody are removed.
func TestAReplicaIsKnownBeforeItsRows(t *testing.T) {
	a := newWorld(storetest.Replicas(t, 1)[0], "a")
	known, rows := false, 0
	a.refuse = func(ops []store.Op) error {
		before := known
		for _, op := range ops {
			known = known || strings.HasPrefix(op.Key, "ledger/replicas/")
			if strings.HasPrefix(op.Key, "ledger/rows/") {
				rows++
				if !before {
					t.Errorf("%s is written before the replica is known", op.Key)
				}
			}
		}
		return nil
	}
	for n, after := range []time.Duration{0, time.Hour} {
		known, a.now = false, start.Add(after)
		a.connect(node("n"), a.proxy(node("n"), fmt.Sprint("i-", n)))
		a.flush(t)
	}
	if rows < 2 {
		t.Errorf("%d rows were written", rows)
	}
}
