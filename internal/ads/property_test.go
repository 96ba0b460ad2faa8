package ads

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/evermesh/evermesh/internal/envoy"
)

// envoyModel is a proxy as the protocol allows it to be: it takes responses in
// their order and answers them in any, applies any part of what it refuses, loses
// its stream at any moment, and asks for the routes and endpoints that its
// listeners and clusters need.
type envoyModel struct {
	*rapid.T
	delta bool
	m     *machine
	goal  *goal
	now   time.Time

	has      map[envoy.Type]map[string]*envoy.Resource // what it really has
	version  map[envoy.Type]string                     // state of the world: last accepted
	nonce    map[envoy.Type]string
	spoken   map[envoy.Type]bool
	asked    map[envoy.Type][]string
	inbox    []*flight               // sent and not looked at
	flying   map[envoy.Type]*flight  // sent and not answered
	verdict  map[envoy.Type]*request // what will be answered
	thirsty  map[string]bool         // clusters that wait for endpoints since they changed
	sent     map[string]bool         // the clusters sent and not withdrawn
	onStream map[envoy.Type]map[string]bool
}

func newEnvoyModel(t *rapid.T, delta bool) *envoyModel {
	e := &envoyModel{T: t, delta: delta, now: start, has: map[envoy.Type]map[string]*envoy.Resource{}, version: map[envoy.Type]string{}, sent: map[string]bool{}, thirsty: map[string]bool{}}
	for _, typ := range envoy.Types() {
		e.has[typ] = map[string]*envoy.Resource{}
	}
	e.edit(false)
	e.connect()
	return e
}

var (
	clusterNames  = []string{"c0", "c1", "c2", "c3", "c4"}
	hostNames     = []string{"h0", "h1", "h2"}
	listenerNames = []string{"l0", "l1"}
)

// edit makes another goal. Each listener has a route configuration of its name.
// A mended goal differs from every earlier one in all its lists.
func (e *envoyModel) edit(mended bool) {
	pick := func(names []string, label string) []string {
		return rapid.SliceOfNDistinct(rapid.SampledFrom(names), 0, len(names), rapid.ID[string]).Draw(e.T, label)
	}
	content := func() string { return rapid.SampledFrom([]string{"1", "2"}).Draw(e.T, "content") }
	s := spec{}
	named := map[string]bool{}
	for _, n := range pick(clusterNames, "unused clusters") {
		named[n] = true
	}
	for _, n := range pick(listenerNames, "listeners") {
		direct := pick(clusterNames[:2], "of listener")
		s[envoy.Listener] = append(s[envoy.Listener], resource(n, content()+fmt.Sprint(slices.Sorted(slices.Values(direct))), direct...))
		var hosts []*envoy.VirtualHost
		for _, h := range pick(hostNames, "hosts") {
			targets := pick(clusterNames, "of host")
			hosts = append(hosts, virtualHost(h, content()+fmt.Sprint(slices.Sorted(slices.Values(targets))), targets...))
			direct = append(direct, targets...)
		}
		s[envoy.Route] = append(s[envoy.Route], routeOf(n, hosts...))
		for _, c := range direct {
			named[c] = true
		}
	}
	for _, n := range slices.Sorted(maps.Keys(named)) {
		// Clusters of virtual nodes have a query also while no endpoints are known:
		// without it they would be of another type as soon as some are, under one hash.
		s[envoy.Cluster] = append(s[envoy.Cluster], resource(n, content()).WithQuery(envoy.EndpointQuery{}))
	}
	for _, n := range pick(clusterNames, "known endpoints") {
		if named[n] {
			s[envoy.LoadAssignment] = append(s[envoy.LoadAssignment], resource(n, content()))
		}
	}
	e.goal = goalWith(s)
	if mended {
		for _, l := range e.goal.lists {
			l.Hash += " mended"
		}
	}
	if e.m != nil {
		e.m.aim(e.goal)
	}
}

// connect opens a stream. What was under way on the old one was applied or not.
func (e *envoyModel) connect() {
	for _, f := range e.inbox {
		// What routes went out for after a silence is taken as arrived.
		if e.now.Sub(f.at) < testSilence && !rapid.Bool().Draw(e.T, "arrived before the stream broke") {
			break
		}
		e.apply(f, nil)
		e.version[f.typ] = f.version
	}
	e.m = &machine{delta: e.delta, goal: e.goal, silence: testSilence, patience: testPatience}
	e.spoken, e.nonce, e.asked = map[envoy.Type]bool{}, map[envoy.Type]string{}, map[envoy.Type][]string{}
	e.inbox, e.verdict = nil, map[envoy.Type]*request{}
	e.flying, e.onStream = map[envoy.Type]*flight{}, map[envoy.Type]map[string]bool{envoy.Listener: {}, envoy.Route: {}}
	// A cluster whose endpoints were on the way takes those that Envoy cached.
	e.thirsty = map[string]bool{}
	e.sent = map[string]bool{}
	for n := range e.has[envoy.Cluster] {
		e.sent[n] = true
	}
}

// ask sends the first request of a type, or what changed in its names.
func (e *envoyModel) ask(t envoy.Type) {
	var names []string
	switch t {
	case envoy.LoadAssignment:
		names = slices.Sorted(maps.Keys(e.has[envoy.Cluster]))
	case envoy.Route:
		names = slices.Sorted(maps.Keys(e.has[envoy.Listener]))
	}
	r := request{typ: t}
	if !e.delta {
		r.names, r.version, r.nonce = names, e.version[t], e.nonce[t]
	} else {
		for _, n := range names {
			if !slices.Contains(e.asked[t], n) {
				r.subscribe = append(r.subscribe, n)
			}
		}
		for _, n := range e.asked[t] {
			if !slices.Contains(names, n) {
				r.unsubscribe = append(r.unsubscribe, n)
				delete(e.has[t], n)
			}
		}
		if !e.spoken[t] {
			r.versions = map[string]string{}
			for n, x := range e.has[t] {
				if wild(t) || slices.Contains(names, n) {
					r.versions[n] = x.Hash
				}
			}
		}
	}
	if !wild(t) {
		for n := range e.has[t] {
			if !slices.Contains(names, n) {
				delete(e.has[t], n) // Envoy forgets what nothing needs
			}
		}
	}
	e.asked[t], e.spoken[t] = names, true
	e.receive(r)
}

func (e *envoyModel) receive(r request) {
	if err := e.m.receive(e.now, r); err != nil {
		e.Fatalf("receive: %v", err)
	}
}

// pump takes what the machine sends.
func (e *envoyModel) pump() {
	for range 100 {
		f, _ := e.m.next(e.now)
		if f == nil {
			return
		}
		if e.flying[f.typ] != nil {
			e.Fatalf("two responses of type %d are in flight", f.typ)
		}
		if !e.spoken[f.typ] {
			e.Fatalf("type %d was sent unasked", f.typ)
		}
		e.flying[f.typ] = f
		e.inbox = append(e.inbox, f)
		if f.typ == envoy.Cluster {
			if f.complete {
				e.sent = map[string]bool{}
			}
			for _, r := range f.sent {
				e.sent[r.Name] = true
			}
			for _, n := range f.removed {
				delete(e.sent, n)
			}
		}
		e.check()
	}
	e.Fatalf("sends without end")
}

// check is the invariant of decision D6.1: the clusters sent to a stream include
// every cluster named by any listener or route configuration that this stream
// accepted or has in flight. In delta that holds for everything that the proxy
// has, from whichever stream, even for what it applied of a refused response. In
// state of the world what was accepted on an earlier stream is left out (D6.2).
func (e *envoyModel) check() {
	for _, t := range []envoy.Type{envoy.Listener, envoy.Route} {
		for n, r := range e.has[t] {
			if e.delta || e.onStream[t][n] {
				e.covered(r, "has")
			}
		}
		if f := e.flying[t]; f != nil {
			for _, r := range f.sent {
				e.covered(r, "is sent")
			}
		}
	}
}

func (e *envoyModel) covered(r *envoy.Resource, how string) {
	for c := range r.AllClusters() {
		if !e.sent[c] {
			e.Fatalf("the proxy %s %s (%s), which names %s; it was sent %v", how, r.Name, r.Hash, c, slices.Sorted(maps.Keys(e.sent)))
		}
	}
}

// apply does what Envoy does with a response; some is nil for everything, else
// the names that are applied.
func (e *envoyModel) apply(f *flight, some map[string]bool) {
	has := e.has[f.typ]
	for _, r := range f.sent {
		if some != nil && !some[r.Name] {
			continue
		}
		if !wild(f.typ) && !slices.Contains(e.asked[f.typ], r.Name) {
			continue
		}
		old := has[r.Name]
		has[r.Name] = r
		if f.typ == envoy.Cluster && (old == nil || old.Hash != r.Hash) {
			e.thirsty[r.Name] = true
		}
		if f.typ == envoy.LoadAssignment {
			delete(e.thirsty, r.Name)
		}
		if on := e.onStream[f.typ]; on != nil {
			on[r.Name] = true
		}
	}
	gone := f.removed
	if f.complete {
		for n := range has {
			if find(f.sent, n) == nil {
				gone = append(gone, n)
			}
		}
	}
	for _, n := range gone {
		if some == nil || some[n] {
			delete(has, n)
		}
	}
}

// take looks at the oldest response and applies it, or part of it when it is
// to be refused.
func (e *envoyModel) take(ok bool) {
	f := e.inbox[0]
	e.inbox = e.inbox[1:]
	t := f.typ
	r := &request{typ: t, nonce: f.nonce}
	if ok {
		e.apply(f, nil)
		e.version[t] = f.version
	} else {
		some := map[string]bool{}
		for _, x := range f.sent {
			// After a reconnect a version would say nothing of it, so what a
			// state-of-the-world proxy applies of a refused whole is left out.
			some[x.Name] = !f.complete && rapid.Bool().Draw(e.T, "applied "+x.Name)
		}
		for _, n := range slices.Sorted(maps.Keys(e.has[t])) {
			if find(f.sent, n) == nil {
				some[n] = !f.complete && rapid.Bool().Draw(e.T, "withdrew "+n)
			}
		}
		if t == envoy.Cluster {
			some = e.keepUsed(some, f)
		}
		e.apply(f, some)
		r.refused, r.reason = true, "no"
	}
	e.verdict[t] = r
}

// answer sends the answer about a type.
func (e *envoyModel) answer(t envoy.Type) {
	r := e.verdict[t]
	delete(e.verdict, t)
	delete(e.flying, t)
	e.nonce[t] = r.nonce
	if !e.delta {
		r.names, r.version = e.asked[t], e.version[t]
	}
	e.receive(*r)
}

// keepUsed: of refused clusters whose routes went out for its silence the proxy
// applied all, else nobody could help it.
func (e *envoyModel) keepUsed(some map[string]bool, f *flight) map[string]bool {
	if e.now.Sub(f.at) >= testSilence {
		for n := range some {
			some[n] = find(f.sent, n) != nil
		}
	}
	return some
}

func (e *envoyModel) step() {
	answers := slices.Sorted(maps.Keys(e.verdict))
	opened := true // Envoy opens all that it has before it answers anything
	for _, t := range envoy.Types() {
		if len(e.has[t]) > 0 && !e.spoken[t] {
			opened, answers = false, nil
		}
	}
	actions := []string{"ask", "ask", "ask", "edit", "wait", "reconnect"}
	if len(e.inbox) > 0 {
		actions = append(actions, "take", "take", "take", "take")
		if opened {
			actions = append(actions, "refuse")
		}
	}
	if len(answers) > 0 {
		actions = append(actions, "answer", "answer", "answer", "answer")
	}
	switch rapid.SampledFrom(actions).Draw(e.T, "action") {
	case "ask":
		t := rapid.SampledFrom(envoy.Types()).Draw(e.T, "type")
		if !e.delta && !e.spoken[envoy.Cluster] {
			t = envoy.Cluster // Envoy's order; what it had before goes with this answer
		}
		e.ask(t)
	case "edit":
		e.edit(false)
	case "wait":
		e.now = e.now.Add(rapid.SampledFrom([]time.Duration{time.Second, testPatience, testSilence}).Draw(e.T, "time"))
	case "take":
		e.take(true)
	case "refuse":
		t := e.inbox[0].typ
		e.take(false)
		e.answer(t)
	case "answer":
		e.answer(rapid.SampledFrom(answers).Draw(e.T, "type"))
	case "reconnect":
		e.connect()
	}
	e.pump()
	e.check()
}

// rest lets the proxy do what it should until nothing moves.
func (e *envoyModel) rest() {
	for range 50 {
		moved := false
		for _, t := range envoy.Types() {
			e.ask(t)
			e.pump()
		}
		for len(e.inbox) > 0 || len(e.verdict) > 0 {
			for len(e.inbox) > 0 {
				e.take(true)
			}
			for _, t := range slices.Sorted(maps.Keys(e.verdict)) {
				e.answer(t)
				e.pump()
			}
			moved = true
		}
		e.check()
		if !moved {
			if _, wake := e.m.next(e.now); wake.IsZero() {
				return
			}
			e.now = e.now.Add(testPatience)
			e.pump()
		}
	}
	e.Fatalf("does not come to rest; in flight: %v", e.flying)
}

func (e *envoyModel) atGoal() {
	for _, t := range envoy.Types() {
		for _, r := range e.goal.list(t) {
			if got := e.has[t][r.Name]; got == nil || got.Hash != r.Hash {
				e.Errorf("type %d: %s is %v, want %s", t, r.Name, got, r.Hash)
			}
		}
		if wild(t) && len(e.has[t]) != len(e.goal.list(t)) {
			e.Errorf("type %d: the proxy has %v beside the goal", t, slices.Sorted(maps.Keys(e.has[t])))
		}
		if !e.m.reached(t) {
			e.Errorf("type %d: the machine does not know that the goal is reached", t)
		}
	}
	for n := range e.thirsty {
		if e.has[envoy.Cluster][n] != nil && find(e.goal.list(envoy.LoadAssignment), n) != nil {
			e.Errorf("cluster %s never got its endpoints", n)
		}
	}
}

func TestClustersSentIncludeEveryClusterNamed(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		rapid.Check(t, func(t *rapid.T) {
			e := newEnvoyModel(t, delta)
			for range rapid.IntRange(1, 60).Draw(t, "steps") {
				e.step()
			}
		})
	})
}

func TestEveryProxyReachesItsGoal(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		rapid.Check(t, func(t *rapid.T) {
			e := newEnvoyModel(t, delta)
			for range rapid.IntRange(0, 40).Draw(t, "steps") {
				e.step()
			}
			e.edit(true)
			e.rest()
			e.atGoal()
			e.m.aim(e.goal)
			if f, _ := e.m.next(e.now); f != nil {
				e.Errorf("at the goal %s was sent", shown(f))
			}
		})
	})
}
