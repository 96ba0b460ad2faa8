package ledger_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/store"
	"github.com/evermesh/evermesh/internal/store/storetest"
)

const anyRoute = `{"httpRoute":{"match":{"prefix":"/"},"action":{"weightedTargets":[{"virtualNode":"n","weight":1}]}}}`

// Whatever connects, an etcd with its own settings takes what is written of it,
// and a rollout comes to its end.
func TestManyProxiesFitIntoEtcd(t *testing.T) {
	const most = 2500
	for name, nodes := range map[string]int{"of one node": 1, "of a hundred nodes": 100} {
		t.Run(name, func(t *testing.T) {
			s := storetest.New(t)
			revision := resource(t, s, theRoute, anyRoute)
			w := newWorld(s, "a")
			w.Applied(revision)
			connect := func(n int) {
				for i := range nodes {
					c := node(fmt.Sprintf("n-%02d", i))
					var list []api.Proxy
					for j := range n / nodes {
						list = append(list, w.proxy(c, fmt.Sprintf("instance-%04d", j)))
					}
					w.connect(c, list...)
				}
				w.flush(t)
			}
			for _, n := range []int{most, 500, 1500, 0} {
				connect(n)
				if got, _ := rollout(t, reader(s, w.now)); got != fmt.Sprintf("DONE %d/%d", n, n) {
					t.Errorf("%d proxies: rollout is %s", n, got)
				}
			}
			if rows, err := s.Read(t.Context(), "ledger/rows/"); err != nil || len(rows) > 0 {
				t.Errorf("%d rows are left, error %v", len(rows), err)
			}
		})
	}
}

// A row that is read while its parts are written may lack a proxy: it is unknown.
func TestARowHalfWrittenIsUnknown(t *testing.T) {
	s := storetest.New(t)
	revision := resource(t, s, theRoute, anyRoute)
	w := newWorld(s, "a")
	w.Applied(revision)
	var list []api.Proxy
	for i := range 2500 {
		list = append(list, w.proxy(node("n"), fmt.Sprintf("instance-%04d", i)))
	}
	w.connect(node("n"), list...)
	w.flush(t)
	written := 0
	w.refuse = func(ops []store.Op) error {
		if len(ops) == 1 && strings.HasPrefix(ops[0].Key, "ledger/replicas/") {
			return nil
		}
		if written++; written > 1 {
			return errBroken
		}
		return nil
	}
	w.connect(node("n"), slices.Insert(list, 0, w.proxy(node("n"), "a new one"))...)
	if err := w.Flush(t.Context()); err == nil {
		t.Fatal("the row is written as a whole")
	}
	got, full := rollout(t, reader(s, w.now))
	if !strings.HasPrefix(got, "WAITING") || len(full.Unknown) != 1 {
		t.Errorf("half written: %s, unknown is %q", got, full.Unknown)
	}
	w.refuse = nil
	w.flush(t)
	if got, full := rollout(t, reader(s, w.now)); got != "DONE 2501/2501" {
		t.Errorf("written: %s, unknown is %q", got, full.Unknown)
	}
}

func TestTextsAreBounded(t *testing.T) {
	s := storetest.New(t)
	w := newWorld(s, "a")
	p := w.proxy(node("n"), "i")
	long := strings.Repeat("é", 5000)
	p.Types[0].Refusal = &api.Refusal{Message: long, Version: "1"}
	p.Notes = []string{long}
	w.connect(node("n"), p)
	w.rows[node("n")].Problems = []api.Problem{{Message: long}}
	w.flush(t)
	rows, err := s.Read(t.Context(), "ledger/rows/")
	if err != nil || len(rows) != 1 {
		t.Fatalf("%d rows, error %v", len(rows), err)
	}
	for _, value := range rows {
		if len(value) > 5000 {
			t.Errorf("the row has %d bytes", len(value))
		}
	}
	if p.Types[0].Refusal.Message != long || p.Notes[0] != long {
		t.Error("what the management service holds is cut")
	}
}

// A row that cannot be written keeps its replica from saying that more is
// applied, but not from saying that it lives.
func TestAReplicaLivesThoughARowIsNotWritten(t *testing.T) {
	s := storetest.New(t)
	w := newWorld(s, "a")
	w.Applied(5)
	w.flush(t)
	replica := func() (out []string) {
		_, all, err := reader(s, w.now).Proxies(t.Context(), account)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range all {
			out = append(out, fmt.Sprintf("%s applied %d, seen at %d", r.ID, r.AppliedRevision, r.SeenAt.Unix()-start.Unix()))
		}
		return out
	}
	w.refuse = func(ops []store.Op) error {
		if slices.ContainsFunc(ops, func(op store.Op) bool { return strings.HasPrefix(op.Key, "ledger/rows/") }) {
			return errBroken
		}
		return nil
	}
	w.connect(node("n"), w.proxy(node("n"), "i"))
	w.Applied(6)
	w.now = w.now.Add(7e9)
	if err := w.Flush(t.Context()); err == nil {
		t.Fatal("the row is written")
	}
	if diff := cmp.Diff([]string{"a applied 5, seen at 7"}, replica()); diff != "" {
		t.Error(diff)
	}
	w.refuse = nil
	w.flush(t)
	if diff := cmp.Diff([]string{"a applied 6, seen at 7"}, replica()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"i on a"}, proxies(t, reader(s, w.now), account)); diff != "" {
		t.Error(diff)
	}
}
