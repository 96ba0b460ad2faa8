package ledger_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
	"github.com/evermesh/evermesh/internal/store"
	"github.com/evermesh/evermesh/internal/store/storetest"
)

// A replica that loses the store may still have proxies: a rollout is not done
// before it is back, has left, or cannot have streams any more.
func TestALostReplicaIsUnknown(t *testing.T) {
	server, prefix := storetest.Server(t)
	open := func() *store.Store { return storetest.Open(t, store.Options{Server: server, Prefix: prefix}) }
	here := open()
	revision := resource(t, here, theRoute, anyRoute)
	a := newWorld(here, "a")
	a.Applied(revision)
	a.connect(node("n"), a.proxy(node("n"), "i-1"))
	a.flush(t)

	// away is a replica with a proxy, and how it was lost.
	away := func(t *testing.T, id string) *world {
		lost, err := store.Open(t.Context(), store.Options{Server: server, Prefix: prefix})
		if err != nil {
			t.Fatal(err)
		}
		b := newWorld(lost, id)
		b.Applied(revision)
		b.connect(node("n"), b.proxy(node("n"), "i-2"))
		b.flush(t)
		return b
	}
	at := func(after time.Duration) string {
		t.Helper()
		a.now = start.Add(after)
		a.flush(t)
		got, _ := rollout(t, reader(here, a.now))
		return got
	}
	lose := func(t *testing.T, w *world) { // its lease ends
		if err := w.Store.Close(); err != nil {
			t.Fatal(err)
		}
	}

	t.Run("until it is forgotten", func(t *testing.T) {
		b := away(t, "b")
		if got := at(0); got != "DONE 2/2" {
			t.Fatalf("with both: %s", got)
		}
		lose(t, b)
		for _, after := range []time.Duration{16 * time.Second, time.Minute, 39 * time.Minute} {
			if got := at(after); got != "WAITING 1/2" {
				t.Errorf("after %v: %s", after, got)
			}
			if err := a.Sweep(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if got := at(41 * time.Minute); got != "DONE 1/1" {
			t.Errorf("after more than a stream: %s", got)
		}
		if err := a.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, of := range []string{"ledger/replicas/", "ledger/rows/"} {
			if rows, err := here.Read(t.Context(), of); err != nil || len(rows) != 1 {
				t.Errorf("%d of %s are kept, error %v", len(rows), of, err)
			}
		}
	})
	t.Run("until it leaves", func(t *testing.T) {
		b := away(t, "b")
		if err := b.Leave(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := at(time.Second); got != "DONE 1/1" {
			t.Errorf("after it left: %s", got)
		}
		lose(t, b)
	})
	t.Run("until another is in its place", func(t *testing.T) {
		address, elsewhere, anyPort := "0.0.0.0:15010", "0.0.0.0:15011", "0.0.0.0:0"
		b := away(t, "host-1-aaaa")
		b.Replica.Address = &anyPort
		b.flush(t)
		next := newWorld(open(), "host-1-bbbb")
		next.Replica.Address, next.now = &anyPort, start.Add(time.Minute)
		if err := next.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := at(time.Minute); got != "WAITING 1/2" {
			t.Errorf("with any port: %s", got)
		}
		b.Replica.Address = &address
		b.flush(t)
		lose(t, b)
		for _, c := range []struct {
			id, address string
			after       time.Duration
			want        string
		}{
			{"host-2-bbbb", address, time.Minute, "WAITING 1/2"},
			{"host-1-bbbb", elsewhere, time.Minute, "WAITING 1/2"},
			{"host-1-bbbb", address, time.Second, "DONE 2/2"}, // not silent yet
			{"host-1-bbbb", address, time.Minute, "DONE 1/1"},
		} {
			next := newWorld(open(), c.id)
			next.Replica.Address, next.now = &c.address, start.Add(c.after)
			if err := next.Sweep(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := at(c.after); got != c.want {
				t.Errorf("with %s at %s after %v: %s, want %s", c.id, c.address, c.after, got, c.want)
			}
		}
	})
}

// A killed replica whose proxies are all at others holds nobody back, on whichever
// host and address they are; a proxy that is nowhere else is waited for.
func TestAKilledReplicaIsWaitedForOnlyForProxiesThatAreNowhereElse(t *testing.T) {
	replicas := storetest.Replicas(t, 2)
	a, b := newWorld(replicas[0], "a"), newWorld(replicas[1], "b")
	revision := resource(t, replicas[0], theRoute, anyRoute)
	a.Applied(revision)
	b.Applied(revision)
	of := func(w *world, instances ...string) (out []api.Proxy) {
		for _, i := range instances {
			out = append(out, w.proxy(node("n"), i))
		}
		return out
	}
	b.connect(node("n"), of(b, "i-1", "i-2", "i-3")...)
	b.connect(node("m"), b.proxy(node("m"), "j"))
	b.flush(t)
	// b is killed at start. What it had comes to a, one after the other.
	for _, step := range []struct {
		after time.Duration
		has   []string
		want  string
		rows  int // of b
	}{
		{30 * time.Second, []string{"i-1", "i-2", "i-3"}, "WAITING 3/4", 2}, // i-1 to i-3 have moved, but who knows
		{90 * time.Second, []string{"i-1", "i-2"}, "WAITING 2/4", 2},
		{91 * time.Second, []string{"i-2", "i-3"}, "WAITING 2/3", 1}, // i-1 had moved, and has ended since
	} {
		a.now = start.Add(step.after)
		a.connect(node("n"), of(a, step.has...)...)
		a.flush(t)
		if got, full := rollout(t, reader(replicas[0], a.now)); got != step.want || len(full.Unknown) != 1 {
			t.Errorf("after %v: %s, unknown %q, want %s", step.after, got, full.Unknown, step.want)
		}
		if err := a.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := rowsOf(t, replicas[0], "b"); got != step.rows {
			t.Errorf("after %v: %d rows of b are left, want %d", step.after, got, step.rows)
		}
	}
	a.now = start.Add(2 * time.Minute)
	a.connect(node("m"), a.proxy(node("m"), "j"))
	a.flush(t)
	if got, full := rollout(t, reader(replicas[0], a.now)); got != "DONE 3/3" || full.ReplicasTotal != 1 {
		t.Errorf("with all at a: %s of %d replicas, unknown %q", got, full.ReplicasTotal, full.Unknown)
	}
	if err := a.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if kept, err := replicas[0].Read(t.Context(), "ledger/replicas/"); err != nil || len(kept) != 1 || rowsOf(t, replicas[0], "b") > 0 {
		t.Errorf("%d replicas are kept, error %v", len(kept), err)
	}
}

// rowsOf counts the rows of a replica.
func rowsOf(t *testing.T, s *store.Store, replica string) int {
	t.Helper()
	rows, err := s.Read(t.Context(), "ledger/rows/")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for key := range rows {
		if strings.Contains(key, "/"+replica+"/") {
			n++
		}
	}
	return n
}

// Whoever knows that a replica is gone may remove it: its rows go with it.
func TestRowsOfARemovedReplicaAreNobodys(t *testing.T) {
	s := storetest.New(t)
	revision := resource(t, s, theRoute, anyRoute)
	a, b := newWorld(s, "a"), newWorld(s, "b")
	a.Applied(revision)
	a.connect(node("n"), a.proxy(node("n"), "i"))
	a.flush(t)
	b.connect(node("n"), b.proxy(node("n"), "j"))
	b.flush(t)
	if err := s.Write(t.Context(), false, []store.Op{{Key: "ledger/replicas/b"}}); err != nil {
		t.Fatal(err)
	}
	if got, full := rollout(t, reader(s, a.now)); got != "DONE 1/1" {
		t.Errorf("rollout is %s, unknown %q", got, full.Unknown)
	}
	if err := a.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := rowsOf(t, s, "b"); n != 0 {
		t.Errorf("%d rows are left", n)
	}
}

// A silent replica is known by its rows only for resources that its proxies read.
func TestAKilledReplicaHoldsUpOnlyWhatItsProxiesRead(t *testing.T) {
	replicas := storetest.Replicas(t, 2)
	a, b := newWorld(replicas[0], "a"), newWorld(replicas[1], "b")
	revision := resource(t, replicas[0], theRoute, anyRoute)
	a.Applied(revision)
	b.Applied(revision)
	a.now = start.Add(2 * time.Minute)
	a.connect(node("n"), a.proxy(node("n"), "i"))
	a.flush(t)
	b.connect(node("other"), b.proxy(node("other"), "j"))
	b.flush(t)
	r := reader(replicas[0], a.now)
	r.Affected = func(_ context.Context, _ int64, _ api.Key, clients []mesh.Client) (map[mesh.Client]bool, error) {
		return map[mesh.Client]bool{node("n"): true}, nil
	}
	if got, full := rollout(t, r); got != "DONE 1/1" {
		t.Errorf("rollout is %s, unknown %q", got, full.Unknown)
	}
}

// Others may have changed the rows of a replica that was silent, and may be at it:
// it writes all of them, and once more.
func TestAReplicaThatWasSilentWritesEverythingAgain(t *testing.T) {
	s := storetest.New(t)
	w := newWorld(s, "a")
	w.connect(node("n"), w.proxy(node("n"), "i"))
	w.flush(t)
	spoil := func() {
		t.Helper()
		rows, err := s.Read(t.Context(), "ledger/rows/")
		if err != nil {
			t.Fatal(err)
		}
		for key := range rows {
			if err := s.Write(t.Context(), false, []store.Op{{Key: key}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	spoil()
	w.now = start.Add(5 * time.Second)
	w.flush(t)
	if n := rowsOf(t, s, "a"); n != 0 {
		t.Fatalf("%d rows are written for no reason", n)
	}
	w.now = start.Add(time.Minute)
	w.flush(t)
	if n := rowsOf(t, s, "a"); n != 1 {
		t.Errorf("%d rows after a silence, want 1", n)
	}
	spoil()
	w.Repeat()
	w.flush(t)
	if n := rowsOf(t, s, "a"); n != 1 {
		t.Errorf("%d rows some time after a silence, want 1", n)
	}
}

// A replica that does not reach the store says since when others cannot know of
// its proxies; one that reaches a store that takes nothing does not.
func TestAReplicaThatLostTheStoreSaysSo(t *testing.T) {
	for name, c := range map[string]struct {
		unreachable bool
		silent      time.Duration
		lost        bool
	}{
		"out of reach":                 {true, 11 * time.Second, true},
		"out of reach for a moment":    {true, 5 * time.Second, false},
		"within reach, but it is full": {false, time.Hour, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(storetest.New(t), "a")
			var since time.Time
			w.Lost = func(t time.Time) { since = t }
			w.flush(t)
			w.now = start.Add(c.silent)
			w.unreachable = c.unreachable
			w.Lose(t.Context())
			if c.lost != !since.IsZero() {
				t.Fatalf("it says since %v", since)
			}
			if c.lost && !since.Before(start) {
				t.Errorf("proxies that came before %v may be in no row either", since)
			}
		})
	}
}

// A proxy that moved counts once, where it is now, whatever the clocks show.
func TestAProxyThatMovedCountsOnce(t *testing.T) {
	for name, c := range map[string]struct {
		ahead  time.Duration // of b's clock
		silent time.Duration // since a's last word
		moved  time.Duration // after it came to a; negative: from b to a
		want   string
	}{
		"clocks are equal":               {0, 0, time.Minute, "i on b"},
		"the other way":                  {0, 0, -time.Minute, "i on a"},
		"b is behind":                    {-10 * time.Second, 0, 5 * time.Second, "i on b"},
		"b is behind and a is silent":    {-10 * time.Second, time.Minute, 5 * time.Second, "i on b"},
		"b is ahead, from b to a":        {10 * time.Second, 0, -5 * time.Second, "i on a"},
		"a is silent and was said later": {0, time.Minute, -time.Minute, "i on b"},
	} {
		t.Run(name, func(t *testing.T) {
			replicas := storetest.Replicas(t, 2)
			a, b := newWorld(replicas[0], "a"), newWorld(replicas[1], "b")
			now := start.Add(2 * time.Hour)
			came := start.Add(time.Hour)
			at := func(w *world, ahead, silent time.Duration, connected time.Time) {
				w.now = connected.Add(ahead)
				w.connect(node("n"), w.proxy(node("n"), "i"))
				w.now = now.Add(ahead - silent)
				w.flush(t)
			}
			at(a, 0, c.silent, came)
			at(b, c.ahead, 0, came.Add(c.moved))
			if got := strings.Join(proxies(t, reader(replicas[0], now), account), ", "); got != c.want {
				t.Errorf("it is %s, want %s", got, c.want)
			}
		})
	}
}

// What is of other accounts, in their meshes, is not even decoded. A proxy is its node's
// owner's to see, and the mesh's owner's.
func TestOthersRowsAreNotRead(t *testing.T) {
	s := storetest.New(t)
	revision := resource(t, s, theRoute, anyRoute)
	w := newWorld(s, "a")
	w.Applied(revision)
	shared := node("shared") // of another account, in this account's mesh
	p := w.proxy(shared, "i-2")
	p.ResourceARN = realm.ARN(shared.Key, other)
	foreign := node("n")
	foreign.Key.Owner = other
	elsewhere := node("n")
	elsewhere.Key.Mesh = "m2"
	w.connect(node("n"), w.proxy(node("n"), "i-1"))
	w.connect(shared, p)
	w.connect(foreign, w.proxy(foreign, "i-3"))
	w.connect(elsewhere, w.proxy(elsewhere, "i-4"))
	w.flush(t)
	r := reader(s, w.now)
	r.Flushed = w.Changed
	if diff := cmp.Diff([]string{"i-2 on a", "i-3 on a"}, proxies(t, r, other)); diff != "" {
		t.Error(diff)
	}
	if got, _ := rollout(t, r); got != "DONE 2/2" {
		t.Errorf("rollout is %s", got)
	}
	for _, key := range []string{"ledger/rows/" + foreign.Key.String() + "/" + other + "/z/0", "ledger/rows/" + other + "/m/virtualNode/x/" + other + "/z/0"} {
		if err := s.Write(t.Context(), true, []store.Op{{Key: key, Value: []byte("not decoded")}}); err != nil {
			t.Fatal(err)
		}
	}
	w.flush(t)
	if diff := cmp.Diff([]string{"i-1 on a", "i-2 on a", "i-4 on a"}, proxies(t, r, account)); diff != "" {
		t.Error(diff)
	}
	if got, _ := rollout(t, r); got != "DONE 2/2" {
		t.Errorf("rollout is %s", got)
	}
}
