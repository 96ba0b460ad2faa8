package properties

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/envoy"
	"github.com/evermesh/evermesh/internal/mesh"
	"github.com/evermesh/evermesh/internal/model"
	"github.com/evermesh/evermesh/internal/store"
)

// Whatever is written, and however proxies, endpoints and time go on meanwhile:
// every bundle that is sent is whole, and in the end every client has what the
// resources as they are give from nothing, byte by byte, with the same problems;
// and Envoy takes it.
func TestWhateverIsWritten(t *testing.T) {
	t.Parallel()
	m, err := model.AppMesh()
	if err != nil {
		t.Fatal(err)
	}
	v := newValidator(t)
	taken, refused, reasons, held := map[string]int{}, map[string]int{}, map[string]int{}, map[string]int{}
	tries, bundles := 0, 0
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(m)
		w.lawless = seldom(rt, "lawless world")
		w.traits = []mesh.Traits{{}, rapid.SampledFrom(mesh.EveryTraits()[1:]).Draw(rt, "traits")}
		old := rapid.Bool().Draw(rt, "oldest Envoy")
		var given []sent
		bubble(t, func() {
			l := start()
			defer l.stop()
			history(rt, w, l)
			given = compare(rt, w, l, reasons)
			bundles += len(l.sent)
			for _, one := range l.sent {
				count(held, one.Bundle)
			}
			// Of those on the way the last, which nodes have whose listeners change.
			given = append(given, l.sent[max(0, len(l.sent)-10):]...)
		})
		if !w.lawless {
			add(taken, w.taken)
			add(refused, w.refused)
		}
		tries++
		v.validate(rt, w, given, old)
	})
	if t.Failed() {
		return
	}
	t.Logf("%d histories, %d bundles sent, writes taken %v, refused %v, problems %v; bundles with %v", tries, bundles, taken, refused, reasons, held)
	if tries < 100 {
		return
	}
	for _, row := range api.Kinds() {
		for _, verb := range []string{"create ", "update ", "delete "} {
			if of := verb + row.Type; taken[of] < 3 && of != "delete Mesh" { // which has to be empty
				t.Errorf("%s was taken %d times (refused %d times): the property shows nothing of it", of, taken[of], refused[of])
			}
		}
	}
	for _, what := range []string{"secrets", "endpoints", "routes to other nodes", "several targets"} {
		if held[what] == 0 {
			t.Errorf("no bundle had %s", what)
		}
	}
	for _, reason := range []string{mesh.ReasonNotFound, envoy.ReasonInvalid, envoy.ReasonMismatch, envoy.ReasonConflict} {
		if reasons[reason] == 0 {
			t.Errorf("no problem was %s", reason)
		}
	}
}

// count notes what is in a bundle that not every one has.
func count(held map[string]int, b *envoy.Bundle) {
	has := map[string]bool{"secrets": len(b.Secrets()) > 0, "endpoints": len(b.List(envoy.LoadAssignment).Resources) > 0}
	for _, r := range b.List(envoy.Route).Resources {
		for _, h := range r.Hosts {
			for _, c := range h.Clusters {
				if strings.HasPrefix(c, "cds_egress_"+meshName+"_") && !strings.HasSuffix(c, "mesh-allow-all") {
					has["routes to other nodes"] = true
					has["several targets"] = has["several targets"] || len(h.Clusters) > 1
				}
			}
		}
	}
	for what, yes := range has {
		if yes {
			held[what]++
		}
	}
}

func add(to, of map[string]int) {
	for k, n := range of {
		to[k] += n
	}
}

// bubble runs f where time passes when nobody has anything to do (synctest). What
// f panics with, as a property does that fails, is f's caller's.
func bubble(t *testing.T, f func()) {
	var failed any
	synctest.Test(t, func(*testing.T) {
		defer func() { failed = recover() }()
		f()
	})
	if failed != nil {
		panic(failed)
	}
}

// history is what happens to a control plane.
func history(t *rapid.T, w *world, l *line) {
	w.fill(t)
	reset(w, l)
	for _, c := range w.clients() {
		if !seldom(t, "away") {
			l.come(c)
		}
	}
	synctest.Wait()
	for range 40 {
		if !rapid.Bool().Draw(t, "goes on") && seldom(t, "ends") {
			break
		}
		switch what := rapid.SampledFrom([]string{
			"edit", "edit", "edit", "edit", "edit", "edit", "edit", "come", "leave", "endpoints", "accept", "silence", "wait",
		}).Draw(t, "step"); what {
		case "edit":
			var changes []api.Change
			for range rapid.IntRange(1, 3).Draw(t, "in one transaction") {
				for _, c := range w.edit(t) {
					changes = slices.DeleteFunc(changes, func(old api.Change) bool { return old.Key == c.Key })
					changes = append(changes, c)
				}
			}
			if len(changes) > 0 {
				l.batches <- store.Batch{Revision: w.revision, Changes: changes}
			}
		case "come":
			l.come(rapid.SampledFrom(w.clients()).Draw(t, "client"))
		case "leave":
			l.leave(rapid.SampledFrom(w.clients()).Draw(t, "client"))
		case "endpoints":
			l.book.turn()
		case "accept", "silence":
			l.accept(what == "accept")
		case "wait":
			time.Sleep(time.Second)
		}
		if rapid.Bool().Draw(t, "settles") {
			synctest.Wait()
		}
		if seldom(t, "reset") && seldom(t, "really") { // it is seldom, and hides what would be forgotten
			reset(w, l)
		}
	}
	for _, c := range w.clients() {
		l.come(c)
	}
	l.accept(true)
	time.Sleep(time.Minute)
	l.book.turn()
	synctest.Wait()
}

// reset is what the store tells at first, and when it has forgotten what a replica
// has missed.
func reset(w *world, l *line) {
	b := store.Batch{Revision: w.revision, Reset: true}
	for _, r := range w.resources() {
		b.Changes = append(b.Changes, api.Change{Key: r.Key, New: r})
	}
	l.batches <- b
}

// compare compares what clients have with what they are to have, and returns it.
func compare(t *rapid.T, w *world, l *line, reasons map[string]int) []sent {
	if fault := l.fault(); fault != "" {
		t.Fatalf("a bundle was sent that is not whole:\n%s\nin the end there is\n%s", fault, w)
	}
	if at := l.Snapshot().Revision(); at != w.revision {
		t.Fatalf("the control plane is at revision %d of %d", at, w.revision)
	}
	var out []sent
	wrong := map[api.Key][]mesh.Problem{}
	for _, c := range w.clients() {
		want, problems := fromNothing(w, l.book, c)
		wrong[c.Key] = append(wrong[c.Key], problems...)
		switch got := l.got[c]; {
		case got == nil && want == nil:
		case got == nil || want == nil:
			t.Fatalf("%s has a bundle: %v, and should: %v\n%s", c.Key, got != nil, want != nil, w)
		default:
			if found := differences(got, want); len(found) > 0 {
				t.Fatalf("%s %+v has another bundle than made from nothing:\n%s\n%s", c.Key, c.Traits, found[0], w)
			}
			out = append(out, sent{c, got})
		}
	}
	for k, want := range wrong {
		for _, p := range want {
			reasons[p.Reason]++
		}
		if diff := cmp.Diff(told(want), told(l.ProblemsOf(mesh.Client{Key: k}))); diff != "" {
			t.Fatalf("problems of %s, from nothing (-) and as they are told (+):\n%s\n%s", k, diff, w)
		}
	}
	return out
}
