package ledger_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/store/storetest"
)

type seen = map[api.Key]map[string]time.Time

// Whom a replica had that left is known at the others, by mesh; of replicas that follow
// one another one note is left.
func TestAReplicaThatLeavesNotesItsProxies(t *testing.T) {
	s := storetest.New(t)
	n, m := node("n").Key, node("m").Key
	elsewhere := n
	elsewhere.Mesh = "m2"
	keep := func(replica string, had seen) {
		t.Helper()
		w := newWorld(s, replica)
		if err := w.Keep(t.Context(), had, time.Hour); err != nil {
			t.Fatal(err)
		}
		if err := w.Leave(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	is := func(key api.Key, want seen) {
		t.Helper()
		got, err := reader(s, start).Left(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
	notes := func(want int) {
		t.Helper()
		rows, err := s.Read(t.Context(), "ledger/left/")
		if err != nil || len(rows) != want {
			t.Errorf("%d notes are left, want %d, error %v", len(rows), want, err)
		}
	}
	is(n, seen{})
	keep("a", seen{n: {"i-1": start, "i-2": start}, elsewhere: {"i": start}})
	notes(2)
	is(n, seen{n: {"i-1": start, "i-2": start}})
	is(elsewhere, seen{elsewhere: {"i": start}})
	later := start.Add(time.Minute)
	keep("b", seen{n: {"i-1": later, "i-3": later}, m: {"j": start}}) // it has not heard of i-2
	notes(3)
	is(n, seen{n: {"i-1": later, "i-2": start, "i-3": later}, m: {"j": start}})
	all := seen{n: {"i-1": later, "i-2": start, "i-3": later}, m: {"j": start}, elsewhere: {"i": start}}
	is(api.Key{}, all)
	keep("c", all)
	notes(2)
	is(api.Key{}, all)
	keep("d", nil) // it has nothing to say
	notes(2)
}

// A note of many proxies has parts that every etcd takes.
func TestANoteOfManyProxies(t *testing.T) {
	s := storetest.New(t)
	many := seen{node("n").Key: {}}
	for i := range 10_000 {
		many[node("n").Key][fmt.Sprintf("0123456789abcdef0123456789abcdef-%05d", i)] = start
	}
	if err := newWorld(s, "a").Keep(t.Context(), many, time.Hour); err != nil {
		t.Fatal(err)
	}
	rows, err := s.Read(t.Context(), "ledger/left/")
	if err != nil || len(rows) < 2 {
		t.Errorf("%d parts, error %v", len(rows), err)
	}
	for key, value := range rows {
		if len(value) > 300<<10 || !strings.HasPrefix(key, "ledger/left/"+account+"/m/a/") {
			t.Errorf("%s has %d bytes", key, len(value))
		}
	}
	if got, err := reader(s, start).Left(t.Context(), node("n").Key); err != nil || !cmp.Equal(many, got) {
		t.Errorf("%d are known, error %v", len(got[node("n").Key]), err)
	}
}
