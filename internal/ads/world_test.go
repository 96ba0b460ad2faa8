package ads

import (
	"maps"
	"slices"
	"testing"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/proto"

	"github.com/evermesh/evermesh/internal/envoy"
)

// What the tests of the machine work on: goals made of named resources. The
// content of a resource is its hash.

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

const (
	testSilence  = 30 * time.Second
	testPatience = 5 * time.Second
)

func resource(name, hash string, clusters ...string) *envoy.Resource {
	slices.Sort(clusters)
	return &envoy.Resource{Name: name, Hash: hash, Encoded: []byte(name + "=" + hash), Clusters: clusters}
}

func virtualHost(name, hash string, clusters ...string) *envoy.VirtualHost {
	slices.Sort(clusters)
	return &envoy.VirtualHost{Name: name, Hash: name + "=" + hash, Clusters: clusters}
}

func routeOf(name string, hosts ...*envoy.VirtualHost) *envoy.Resource {
	r := (&envoy.Resource{Name: name}).WithHosts(hosts)
	r.Encoded, _ = proto.Marshal(&routev3.RouteConfiguration{Name: name})
	return r
}

// goalWith sorts resources by type into a goal; the type of each is the key.
func goalWith(lists map[envoy.Type][]*envoy.Resource) *goal {
	g := &goal{revision: 1}
	for _, t := range envoy.Types() {
		l := slices.Clone(lists[t])
		slices.SortFunc(l, func(a, b *envoy.Resource) int { return byName(a, b.Name) })
		g.lists[t] = &envoy.List{Resources: l, Hash: digest(l)}
	}
	for _, t := range []envoy.Type{envoy.Cluster, envoy.Listener} {
		for _, r := range g.lists[t].Resources {
			g.secrets = append(g.secrets, r.Secrets...)
		}
	}
	slices.Sort(g.secrets)
	g.secrets = slices.Compact(g.secrets)
	g.version = g.digest()
	return g
}

// spec is a goal for short tests.
type spec map[envoy.Type][]*envoy.Resource

// line drives a machine by hand.
type line struct {
	t   *testing.T
	m   *machine
	now time.Time
}

func newLine(t *testing.T, delta bool, s spec) *line {
	return &line{t: t, m: &machine{delta: delta, goal: goalWith(s), silence: testSilence, patience: testPatience}, now: start}
}

func (l *line) receive(r request) {
	l.t.Helper()
	if err := l.m.receive(l.now, r); err != nil {
		l.t.Fatalf("receive %+v: %v", r, err)
	}
}

func (l *line) aim(s spec) { l.m.aim(goalWith(s)) }

// sends checks everything that is sent now, as type and resource names with a
// minus before removed ones, and returns it by type.
func (l *line) sends(want ...string) map[envoy.Type]*flight {
	l.t.Helper()
	out := map[envoy.Type]*flight{}
	var got []string
	for {
		f, _ := l.m.next(l.now)
		if f == nil {
			break
		}
		if out[f.typ] != nil {
			l.t.Fatalf("two responses of type %d are in flight", f.typ)
		}
		out[f.typ] = f
		got = append(got, shown(f))
	}
	if !slices.Equal(got, want) {
		l.t.Fatalf("sent %q, want %q", got, want)
	}
	return out
}

func shown(f *flight) string {
	s := map[envoy.Type]string{envoy.Cluster: "cds", envoy.LoadAssignment: "eds", envoy.Listener: "lds", envoy.Route: "rds", envoy.Secret: "sds"}[f.typ]
	for _, r := range f.sent {
		s += " " + r.Name
	}
	for _, n := range slices.Sorted(slices.Values(f.removed)) {
		s += " -" + n
	}
	return s
}

func (l *line) ack(f *flight) {
	l.t.Helper()
	l.receive(l.answer(f))
}

func (l *line) nack(f *flight, reason string) {
	l.t.Helper()
	r := l.answer(f)
	r.refused, r.reason = true, reason
	l.receive(r)
}

// answer is an answer of a proxy that goes on with the same subscription.
func (l *line) answer(f *flight) request {
	r := request{typ: f.typ, nonce: f.nonce}
	if !l.m.delta {
		r.version, r.names = f.version, slices.Clone(l.m.of[f.typ].names)
	}
	return r
}

// ask opens or widens a subscription.
func (l *line) ask(t envoy.Type, names ...string) {
	l.t.Helper()
	if l.m.delta {
		l.receive(request{typ: t, subscribe: names})
		return
	}
	l.receive(request{typ: t, names: names, nonce: l.m.of[t].nonce, version: l.m.of[t].version})
}

// settle acknowledges everything until nothing is sent any more.
func (l *line) settle() {
	l.t.Helper()
	for range 100 {
		f, _ := l.m.next(l.now)
		if f == nil {
			return
		}
		l.ack(f)
	}
	l.t.Fatal("does not come to rest")
}

// has returns what the machine believes the proxy has.
func (l *line) has(t envoy.Type) []string {
	out := map[string]bool{}
	for _, r := range l.m.of[t].held {
		out[r.Name+"="+r.Hash] = true
	}
	return slices.Sorted(maps.Keys(out))
}

// both runs a test in both dialects.
func both(t *testing.T, f func(t *testing.T, delta bool)) {
	t.Run("delta", func(t *testing.T) { f(t, true) })
	t.Run("state of the world", func(t *testing.T) { f(t, false) })
}
