//go:build linux

package faults

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/appmesh"

	"github.com/evermesh/evermesh/internal/ads/adstest"
)

// load calls the API without a pause, as tools do that know two addresses: where a call is not answered well, it is made
// again at the other, with the same client token. Each must succeed in the end, once.
type load struct {
	t       *testing.T
	users   []*appmesh.Client
	mesh    string
	until   chan struct{}
	running sync.WaitGroup

	calls, again atomic.Int64
	mu           sync.Mutex
	why          map[string]int
	acked        map[string]state // what was acknowledged last, by node
}

func newLoad(t *testing.T, mesh string, users ...*appmesh.Client) *load {
	t.Helper()
	eventually(t, "a mesh", func(ctx context.Context) error { return makeMesh(ctx, users[0], mesh) })
	l := &load{t: t, users: users, mesh: mesh, until: make(chan struct{}), why: map[string]int{}, acked: map[string]state{}}
	for id := range 4 {
		l.running.Go(func() { l.run(id) })
	}
	return l
}

func (l *load) run(id int) {
	name := fmt.Sprintf("n%d", id)
	is := state{}
	for n := 0; ; n++ {
		select {
		case <-l.until:
			return
		default:
		}
		a := &attempt{verb: update, text: fmt.Sprintf("l%d-%d", id, n)}
		if !is.Exists {
			a.verb = create
		}
		got, ok := l.do(id, a.verb, name, a.text)
		if want := a.after(is); ok && !same(want, got) {
			l.t.Errorf("%s %s answered %+v, want %+v", a.verb, name, got, want)
		}
		is = got
		if ok {
			l.mu.Lock()
			l.acked[name] = is
			l.mu.Unlock()
		}
		if got, ok = l.do(id+1, describe, name, ""); ok && got != is {
			l.t.Errorf("%s is %+v, but what was acknowledged is %+v", name, got, is)
		}
	}
}

// do makes one call, at another replica if need be, as a client with retries does: a request that fails at one replica and
// then succeeds is counted in again, and does not fail the test. One that is refused as wrong, or that no replica took in
// 100 tries, does; then ok is false.
func (l *load) do(first int, v verb, name, text string) (s state, ok bool) {
	l.calls.Add(1)
	pause := time.NewTicker(100 * time.Millisecond)
	defer pause.Stop()
	var last error
	for try := range 100 {
		ctx, cancel := context.WithTimeout(context.Background(), callLimit)
		s, err := onNode(ctx, l.users[(first+try)%len(l.users)], v, l.mesh, name, text, "token-"+l.mesh+text)
		cancel()
		o, status, code := outcomeOf(err)
		if o == done {
			return s, true
		}
		if o == refused {
			l.t.Errorf("%s %s, try %d: %d %s: %v", v, name, try, status, code, err)
			return s, false
		}
		l.again.Add(1)
		l.mu.Lock()
		l.why[code]++
		l.mu.Unlock()
		last = err
		<-pause.C
	}
	l.t.Errorf("%s %s did not succeed at any replica: %v", v, name, last)
	return s, false
}

// acknowledged is what was acknowledged last of each node so far.
func (l *load) acknowledged() map[string]state {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.acked)
}

// stop ends the load and tells of it.
func (l *load) stop() {
	l.t.Helper()
	close(l.until)
	l.running.Wait()
	l.t.Logf("%d calls; %d tries failed and were made again, at the other replica if there is one: %v", l.calls.Load(), l.again.Load(), l.why)
	if l.calls.Load() == 0 {
		l.t.Error("there was no load")
	}
}

// proxies are many streams of the same node.
type proxies []*proxy

func (all proxies) have(t *testing.T, blue, green int) {
	t.Helper()
	for _, p := range all {
		p.has(t, blue, green)
	}
}

// sent is how many responses each has had.
func (all proxies) sent() []int {
	var out []int
	for _, p := range all {
		out = append(out, len(p.Responses()))
	}
	return out
}

// changed checks what was sent since before, when one change of weights has reached all: to a delta proxy this change,
// once, and nothing else, also if it has moved to another replica meanwhile. In state of the world who comes back is told
// its routes and endpoints again, as a version says nothing about a single name; Envoy leaves alone what is equal.
func (all proxies) changed(t *testing.T, before []int) {
	t.Helper()
	for i, p := range all {
		got := p.Responses()[before[i]:]
		right := len(got) == 1 || !p.Delta
		for _, r := range got {
			right = right && (strings.HasPrefix(r, adstest.RDS) || !p.Delta && strings.HasPrefix(r, adstest.EDS))
		}
		if !right {
			t.Errorf("proxy %d (delta: %t) was sent %s, though only weights had changed, once", i, p.Delta, got)
		}
	}
}

// TestTwoReplicas runs two evermeshd on one etcd, with streams on both and a load on their API: a write on one reaches
// the proxies of the other, either is killed, both are rolled.
func TestTwoReplicas(t *testing.T) {
	t.Parallel()
	etcd := newCluster(t, 1)
	settings := on(t, etcd.endpoints()...)
	replicas := []*replica{newReplica(t, "one", settings...).start(), newReplica(t, "two", settings...).start()}
	key := replicas[0].key()
	var users []*appmesh.Client
	for _, r := range replicas {
		users = append(users, userOf("http://"+r.api, key))
	}
	must(t, makeShop(t.Context(), users[0], "two", 90, 10))
	var all proxies
	for i := range 40 {
		a, b := replicas[i%2].xds, replicas[1-i%2].xds
		all = append(all, connect(t, key, "two", fmt.Sprintf("p%d", i), i%4 > 0, a, b))
	}
	all.have(t, 90, 10)
	l := newLoad(t, "load", users...)
	weight := 10
	// change writes at one replica; every proxy, wherever it is, must be sent this and nothing else.
	change := func(at int) {
		t.Helper()
		weight++
		before := all.sent()
		eventually(t, "a write", shifted(users[at], "two", int64(100-weight), int64(weight)))
		all.have(t, 100-weight, weight)
		all.changed(t, before)
	}
	change(0)
	change(1)
	for n, r := range replicas {
		before := all.sent()
		r.kill()
		change(1 - n)
		all.changed(t, before)
		r.start()
		change(n)
	}
	for n, r := range replicas {
		before := all.sent()
		r.stop()
		change(1 - n)
		all.changed(t, before)
		r.start()
		change(n)
	}
	l.stop()
	ended := 0
	for _, p := range all {
		ended += len(p.Ends())
	}
	t.Logf("%d streams ended and were opened anew", ended)
	if ended < len(all) {
		t.Errorf("only %d streams ended: the replicas that went had no proxies, and nothing is shown", ended)
	}
}
