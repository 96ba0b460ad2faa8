//go:build linux

package faults

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/appmesh"
)

// writer owns a few names and writes to them, one call at a time. It knows what each has to be.
type writer struct {
	id    int
	rand  *rand.Rand
	names []string // mesh/name
	is    map[string]state
	acked map[string]bool // client tokens of what was acknowledged
	open  *attempt        // the write whose outcome is not known
	count int
}

// attempt is a write on its way.
type attempt struct {
	verb              verb
	mesh, name        string // name is "" for the mesh itself
	text, token, path string
}

func newWriter(id int, meshes []string, r *rand.Rand) *writer {
	w := &writer{id: id, rand: r, is: map[string]state{}, acked: map[string]bool{}}
	for i, m := range meshes {
		for j := range 2 {
			w.names = append(w.names, fmt.Sprintf("%s/n%d-%d-%d", m, id, i, j))
		}
	}
	return w
}

// next draws a write that must be accepted.
func (w *writer) next() *attempt {
	w.count++
	a := &attempt{path: w.names[w.rand.IntN(len(w.names))], text: fmt.Sprintf("w%d-%d", w.id, w.count)}
	a.token = "token-" + a.text
	a.mesh, a.name = split(a.path)
	switch {
	case !w.is[a.path].Exists:
		a.verb = create
	case w.rand.IntN(4) == 0:
		a.verb = remove
	default:
		a.verb = update
	}
	return a
}

func split(path string) (mesh, name string) {
	for i := range path {
		if path[i] == '/' {
			return path[:i], path[i+1:]
		}
	}
	return path, ""
}

// after is what the resource must be once the write was done.
func (a *attempt) after(before state) state {
	switch a.verb {
	case create:
		return state{Exists: true, Version: 1, Text: a.text}
	case update:
		before.Version, before.Text = before.Version+1, a.text
		return before
	default:
		return state{}
	}
}

// same compares; the uid of what was just created is the server's choice.
func same(want, got state) bool {
	if want.UID == "" {
		want.UID = got.UID
	}
	return want == got
}

// writes writes until a call's outcome is not known, or until is closed. What is answered must be right.
func (w *writer) writes(ctx context.Context, c *appmesh.Client, until <-chan struct{}, wrong func(string, ...any)) {
	for {
		select {
		case <-until:
			return
		default:
		}
		a := w.next()
		before := w.is[a.path]
		got, err := onNode(ctx, c, a.verb, a.mesh, a.name, a.text, a.token)
		switch o, status, code := outcomeOf(err); {
		case o == unsent:
			return // the next round begins with another
		case o == unknown:
			if status != 0 && status != http.StatusServiceUnavailable {
				wrong("%s %s: %d %s", a.verb, a.path, status, code)
			}
			w.open = a
			return
		case o == refused:
			wrong("%s %s was refused (%d %s), but it was %+v", a.verb, a.path, status, code, before)
			w.open = a
			return
		}
		w.took(a, before, got, wrong)
	}
}

// took notes an acknowledged write.
func (w *writer) took(a *attempt, before, got state, wrong func(string, ...any)) {
	want := a.after(before)
	if a.verb == remove {
		if got.Exists || got.UID != before.UID {
			wrong("delete %s answered %+v, but it was %+v", a.path, got, before)
		}
		got = state{}
	} else if !same(want, got) {
		wrong("%s %s answered %+v, want %+v", a.verb, a.path, got, want)
	}
	w.is[a.path] = got
	if a.verb != remove {
		w.acked[a.token] = true
	}
}

// settle finds out what became of the open write, repeats it with its token, and demands that it happened exactly once:
// a resource without the token that was written with it is made twice, or refused, and a token without the resource
// answers with what is not there.
func (w *writer) settle(ctx context.Context, c *appmesh.Client, wrong func(string, ...any)) error {
	a := w.open
	if a == nil {
		return nil
	}
	before := w.is[a.path]
	now, err := onNode(ctx, c, describe, a.mesh, a.name, "", "")
	if err != nil {
		return err
	}
	happened := same(a.after(before), now)
	if !happened && now != before {
		wrong("%s %s was not acknowledged; it was %+v and is %+v: neither before nor after", a.verb, a.path, before, now)
	}
	if happened && a.verb == remove {
		w.open, w.is[a.path] = nil, state{}
		return nil
	}
	got, err := onNode(ctx, c, a.verb, a.mesh, a.name, a.text, a.token)
	o, status, code := outcomeOf(err)
	switch {
	case o == unknown || o == unsent:
		return err
	case o == refused:
		wrong("%s %s, repeated with its token, was refused: %d %s; it had happened: %t", a.verb, a.path, status, code, happened)
		return nil
	case happened && got != now:
		wrong("%s %s, repeated with its token, answered %+v, but it is %+v", a.verb, a.path, got, now)
	}
	w.open = nil
	w.took(a, before, got, wrong)
	if a.verb == remove {
		return nil
	}
	if again, err := onNode(ctx, c, describe, a.mesh, a.name, "", ""); err != nil {
		return err
	} else if again != got {
		wrong("%s %s, repeated with its token, answered %+v and left %+v", a.verb, a.path, got, again)
	}
	return nil
}

// TestKilledUnderWrites kills an evermeshd with embedded etcd at random moments, again and again, while writers do not
// stop. After each kill every acknowledged write is there, no write is there by half, and listings agree with describes.
// In the end etcd's own history is read: every revision is a whole write.
func TestKilledUnderWrites(t *testing.T) {
	t.Parallel()
	random := chance(t)
	r := newReplica(t, "evermeshd").start()
	key := r.key()
	c := userOf("http://"+r.api, key)
	meshes := []string{"m0", "m1", "m2"}
	for _, m := range meshes {
		must(t, makeMesh(t.Context(), c, m))
	}
	var writers []*writer
	for i := range 6 {
		writers = append(writers, newWriter(i, meshes, rand.New(rand.NewPCG(random.Uint64(), random.Uint64()))))
	}
	churn := &churner{rand: rand.New(rand.NewPCG(random.Uint64(), random.Uint64())), acked: map[string]bool{}}
	wrong := func(format string, args ...any) { t.Errorf(format, args...) }

	rounds, limit := 10, 40*time.Second
	if *soak > 0 {
		rounds, limit = 1<<30, *soak
	}
	const least = 3 // or nothing is shown
	began, kills := time.Now(), 0
	for ; kills < rounds && (kills < least || time.Since(began) < limit) && !t.Failed(); kills++ {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		stop := make(chan struct{})
		var writing sync.WaitGroup
		for _, w := range writers {
			writing.Go(func() {
				if err := w.settle(ctx, c, wrong); err == nil {
					w.writes(ctx, c, stop, wrong)
				}
			})
		}
		writing.Go(func() {
			if err := churn.settle(ctx, c, wrong); err == nil {
				churn.writes(ctx, c, stop, wrong)
			}
		})
		select {
		case <-time.After(time.Duration(200+random.IntN(1300)) * time.Millisecond): // the moment of the kill is what is random
		case <-ctx.Done():
		}
		r.kill()
		close(stop)
		writing.Wait()
		cancel()
		r.start()
		c = userOf("http://"+r.api, key)
		compareAll(t, c, meshes, writers)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	acked, open := churn.acked, 0
	for _, w := range writers {
		if w.open != nil {
			open++
		}
		must(t, w.settle(ctx, c, wrong))
		maps.Copy(acked, w.acked)
	}
	must(t, churn.settle(ctx, c, wrong))
	compareAll(t, c, meshes, writers)
	r.kill()
	t.Logf("%d kills in %v, %d writes acknowledged, %d open at the last kill", kills, time.Since(began).Round(time.Second), len(acked), open)
	readHistory(t, r.dir, acked)
}

// compareAll compares what is listed and described with what the writers know, while nobody writes.
func compareAll(t *testing.T, c *appmesh.Client, meshes []string, writers []*writer) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	all, err := listMeshes(ctx, c)
	must(t, err)
	for _, m := range meshes {
		if _, ok := all[m]; !ok {
			t.Errorf("mesh %s is not in the list of meshes: %v", m, slices.Sorted(maps.Keys(all)))
		}
		listed, err := listNodes(ctx, c, m)
		must(t, err)
		for _, w := range writers {
			for _, path := range w.names {
				mesh, name := split(path)
				if mesh != m {
					continue
				}
				is, err := onNode(ctx, c, describe, mesh, name, "", "")
				must(t, err)
				if version, ok := listed[name]; ok != is.Exists || version != is.Version {
					t.Errorf("%s is listed: %t, with version %d; described it is %+v", path, ok, version, is)
				}
				delete(listed, name)
				want := w.is[path]
				open := w.open != nil && w.open.path == path
				if is != want && (!open || !same(w.open.after(want), is)) {
					t.Errorf("lost: %s is %+v, acknowledged was %+v, open: %+v", path, is, want, w.open)
				}
			}
		}
		if len(listed) > 0 {
			t.Errorf("mesh %s lists what nobody has made: %v", m, listed)
		}
	}
}
