package ledger_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

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
			if got := at(after); got != "WAITING 1/1" {
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
		if rows, err := here.Read(t.Context(), "ledger/replicas/"); err != nil || len(rows) != 1 {
			t.Errorf("%d replicas are kept, error %v", len(rows), err)
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
			{"host-2-bbbb", address, time.Minute, "WAITING 1/1"},
			{"host-1-bbbb", elsewhere, time.Minute, "WAITING 1/1"},
			{"host-1-bbbb", address, time.Second, "DONE 1/1"}, // not silent yet
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

// A replica that comes back says so in the same transaction as its rows, or at
// least after the store has made sure of them (see package store): else rollouts
// would be done without its proxies.
func TestAReplicaIsNotBackBeforeItsRows(t *testing.T) {
	s := storetest.New(t)
	w := newWorld(s, "a")
	w.flush(t)
	w.connect(node("n"), w.proxy(node("n"), "i"))
	w.flush(t)
	w.flush(t)
	if diff := cmp.Diff([]bool{true, true, true}, w.leases); diff != "" {
		t.Error(diff)
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

// What is of other accounts and other meshes is not even decoded.
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
	if diff := cmp.Diff([]string{"i-1 on a", "i-4 on a"}, proxies(t, r, account)); diff != "" {
		t.Error(diff)
	}
	if got, _ := rollout(t, r); got != "DONE 2/2" {
		t.Errorf("rollout is %s", got)
	}
}
