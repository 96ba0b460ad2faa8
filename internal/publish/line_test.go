package publish_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/evermesh/evermesh/internal/ads"
	"github.com/evermesh/evermesh/internal/ads/adstest"
	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/discovery"
	"github.com/evermesh/evermesh/internal/envoy"
	"github.com/evermesh/evermesh/internal/mesh"
	"github.com/evermesh/evermesh/internal/publish"
	"github.com/evermesh/evermesh/internal/store"
	"github.com/evermesh/evermesh/internal/store/storetest"
	"github.com/evermesh/evermesh/internal/testenv"
)

// again is a store whose watch begins anew when told, with a reset, as it does
// when the store has compacted away what a replica missed.
type again struct {
	*store.Store
	signal chan struct{}
}

func (a *again) Watch(ctx context.Context, fn func(store.Batch) error) error {
	for {
		once, cancel := context.WithCancel(ctx)
		done := make(chan error, 1)
		go func() { done <- a.Store.Watch(once, fn) }()
		select {
		case <-a.signal:
			cancel()
			<-done
		case err := <-done:
			cancel()
			return err
		}
	}
}

// cut is a store whose head cannot be read while it is cut off.
type cut struct {
	*store.Store
	mu  sync.Mutex
	off bool
}

func (c *cut) set(off bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.off = off
}

func (c *cut) Head(ctx context.Context) (int64, error) {
	c.mu.Lock()
	off := c.off
	c.mu.Unlock()
	if off {
		return 0, errors.New("no route to host")
	}
	return c.Store.Head(ctx)
}

var _ publish.Store = (*cut)(nil)

func TestChangesReachTheProxy(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		s := storetest.New(t)
		write(t, s, colors()...)
		r := newReplica(t, s, nil)
		p := r.proxy(t, "front", delta)
		ready(t, p)
		for _, step := range []struct {
			name   string
			change change
			want   map[string]uint32
		}{
			{"shift", route("color", "v1", 0, "v2", 100), map[string]uint32{"v2": 100}},
			{"a third target", route("color", "v2", 1, "v3", 1), map[string]uint32{"v2": 1}},
			{"which comes into being", node("v3"), map[string]uint32{"v2": 1, "v3": 1}},
			{"and goes", route("color", "v3", 5), map[string]uint32{"v3": 5}},
		} {
			write(t, s, step.change)
			p.Wait(t, step.name, func() bool {
				got := weights(t, p)
				for n, w := range step.want {
					// A target alone may stand without a weight.
					if x := got["cds_egress_m_"+n+"_http_8080"]; x != w && (len(step.want) > 1 || x == 0) {
						return false
					}
				}
				return true
			})
		}
		p.Wait(t, "the old targets' end", func() bool {
			return !slices.Contains(p.Has(adstest.CDS), "cds_egress_m_v1_http_8080") && !slices.Contains(p.Has(adstest.CDS), "cds_egress_m_v2_http_8080")
		})
	})
}

func TestAccountsWithEqualNamesDoNotMeet(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		s := storetest.New(t)
		write(t, s, colors()...)
		theirs := colors()
		for i := range theirs {
			theirs[i].owner = other
			theirs[i].spec = strings.ReplaceAll(theirs[i].spec, "v1.local", "v1.theirs")
		}
		write(t, s, theirs...)
		r := newReplica(t, s, nil)
		connect := func(id, as string) *adstest.Proxy {
			return adstest.Connect(t, r.conn, adstest.Options{Node: id, Delta: delta, Headers: map[string]string{"account": as}})
		}
		mine, yours := connect("mesh/m/virtualNode/front", account), connect("mesh/m/virtualNode/front", other)
		ready(t, mine)
		ready(t, yours)
		r.counts()
		change := route("color", "v1", 10, "v2", 20)
		change.owner = other
		write(t, s, change)
		yours.Wait(t, "their change", func() bool { return weights(t, yours)["cds_egress_m_v2_http_8080"] == 20 })
		if got := weights(t, mine)["cds_egress_m_v2_http_8080"]; got != 25 {
			t.Errorf("our weight is %d", got)
		}
		if views, _, _ := r.counts(); views != 1 {
			t.Errorf("%d views were resolved, want theirs alone", views)
		}
		if !strings.Contains(fmt.Sprint(yours.Clusters(t)), "v1.theirs") || strings.Contains(fmt.Sprint(mine.Clusters(t)), "theirs") {
			t.Error("the clusters of the accounts are mixed up")
		}
		// Asking by name for what is the other's.
		spy := adstest.Open(t, r.conn, adstest.Options{Node: "mesh/m@" + account + "/virtualNode/front", Delta: delta, Headers: map[string]string{"account": other}})
		adstest.Must(t, spy.Send(adstest.Request{Type: adstest.CDS}))
		if code, text := spy.End(t); code != codes.PermissionDenied || !strings.HasPrefix(text, "Unauthorized to perform appmesh:StreamAggregatedResources for arn:aws:appmesh:") {
			t.Errorf("ended with %v, %q", code, text)
		}
	})
}

func TestNodeIDs(t *testing.T) {
	s := storetest.New(t)
	write(t, s, colors()...)
	r := newReplica(t, s, nil)
	for _, c := range []struct {
		id   string
		code codes.Code
		text string
	}{
		{"mesh/m/virtualNode/front", codes.OK, ""},
		{"mesh/m@" + account + "/virtualNode/front", codes.OK, ""},
		{"arn:aws:appmesh:us-east-1:" + account + ":mesh/m/virtualNode/front", codes.OK, ""},
		{"arn:aws:appmesh:us-east-1:" + account + ":mesh/m@" + account + "/virtualNode/front", codes.OK, ""},
		{"arn:aws:appmesh:us-east-1:" + other + ":mesh/m@" + account + "/virtualNode/front", codes.InvalidArgument, "does not exist"},
		{"arn:aws:iam::" + account + ":mesh/m/virtualNode/front", codes.InvalidArgument, `service "iam"`},
		{"mesh/m/virtualNode/nobody", codes.InvalidArgument, "does not exist"},
		{"mesh/m/virtualRouter/color", codes.InvalidArgument, "does not exist"},
		{"mesh/m", codes.InvalidArgument, "does not exist"},
		{"front", codes.InvalidArgument, "does not name an App Mesh resource"},
	} {
		t.Run(c.id, func(t *testing.T) {
			x := adstest.Open(t, r.conn, adstest.Options{Node: c.id, Delta: true})
			adstest.Must(t, x.Send(adstest.Request{Type: adstest.CDS}))
			if c.code == codes.OK {
				if got, err := x.Recv(); err != nil || got.Type != adstest.CDS {
					t.Errorf("got %v, %v", got, err)
				}
				return
			}
			if code, text := x.End(t); code != c.code || !strings.Contains(text, c.text) {
				t.Errorf("ended with %v, %q", code, text)
			}
		})
	}
}

func TestARefusingProxyDisturbsNobody(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		s := storetest.New(t)
		write(t, s, colors()...)
		r := newReplica(t, s, nil)
		bad, good := r.proxy(t, "front", delta), r.proxy(t, "front", delta)
		ready(t, bad)
		ready(t, good)
		testenv.Eventually(t, "both are current", func() bool { return r.server.States()["CURRENT"] == 2 })
		bad.SetRefuse(func(x adstest.Response) string {
			if x.Type == adstest.RDS {
				return "no"
			}
			return ""
		})
		mark := len(bad.Responses())
		write(t, s, route("color", "v1", 1, "v2", 9))
		good.Wait(t, "the change", func() bool { return weights(t, good)["cds_egress_m_v2_http_8080"] == 9 })
		testenv.Eventually(t, "one has refused", func() bool { return r.server.States()["REFUSED"] == 1 })
		if got := bad.Responses()[mark:]; len(got) != 1 {
			t.Errorf("the refusing proxy was sent %q", got)
		}
		bad.SetRefuse(nil)
		write(t, s, route("color", "v1", 2, "v2", 8))
		bad.Wait(t, "the next change", func() bool { return weights(t, bad)["cds_egress_m_v2_http_8080"] == 8 })
		testenv.Eventually(t, "both are current", func() bool { return r.server.States()["CURRENT"] == 2 })
	})
}

func TestANodeThatIsDeletedAndComesBack(t *testing.T) {
	s := storetest.New(t)
	write(t, s, colors()...)
	r := newReplica(t, s, nil)
	p := r.proxy(t, "front", true)
	ready(t, p)
	write(t, s, change{kind: api.KindVirtualNode, name: "front"})
	p.Wait(t, "its stream's end", func() bool { return len(p.Ends()) > 1 }) // once cut off, then turned away
	for _, err := range p.Ends() {
		if code, text := adstest.Status(err); code != codes.InvalidArgument || !strings.Contains(text, "does not exist") {
			t.Errorf("ended with %v, %q", code, text)
		}
	}
	if len(p.Has(adstest.LDS)) == 0 {
		t.Error("the proxy lost its configuration")
	}
	write(t, s, node("front", "color.local"))
	testenv.Eventually(t, "it is current again", func() bool { return r.server.States()["CURRENT"] == 1 })
}

func TestAReplicaThatIsCutOffTurnsNewProxiesAway(t *testing.T) {
	s := storetest.New(t)
	write(t, s, colors()...)
	source := &cut{Store: s}
	r := newReplica(t, source, nil)
	p := r.proxy(t, "front", true)
	ready(t, p)
	source.set(true)
	x := adstest.Open(t, r.conn, adstest.Options{Node: "mesh/m/virtualNode/front"})
	adstest.Must(t, x.Send(adstest.Request{Type: adstest.CDS}))
	if code, _ := x.End(t); code != codes.Unavailable {
		t.Errorf("ended with %v", code)
	}
	if len(p.Ends()) > 0 {
		t.Errorf("the open stream ended with %v", p.Ends())
	}
	source.set(false)
	ready(t, r.proxy(t, "v1", false))
}

func TestAFreshStreamIsNotAnsweredFromThePast(t *testing.T) {
	s := storetest.New(t)
	write(t, s, colors()...)
	r := newReplica(t, s, nil)
	for i := range 20 {
		name := fmt.Sprint("new", i)
		write(t, s, node(name, "color.local"))
		// The write was acknowledged, so its proxy must be known at once.
		x := adstest.Open(t, r.conn, adstest.Options{Node: "mesh/m/virtualNode/" + name, Delta: true})
		adstest.Must(t, x.Send(adstest.Request{Type: adstest.CDS}))
		if got, err := x.Recv(); err != nil || !slices.Contains(got.Names, "cds_egress_m_v1_http_8080") {
			t.Fatalf("%s got %v, %v", name, got, err)
		}
		x.Close()
	}
}

func TestReplicasServeWhatOthersWrote(t *testing.T) {
	stores := storetest.Replicas(t, 2)
	write(t, stores[0], colors()...)
	a, b := newReplica(t, stores[0], nil), newReplica(t, stores[1], nil)
	p, q := a.proxy(t, "front", true), b.proxy(t, "front", false)
	ready(t, p)
	ready(t, q)
	for i := range uint32(5) {
		write(t, stores[i%2], route("color", "v1", 1, "v2", 50+i))
		for _, x := range []*adstest.Proxy{p, q} {
			x.Wait(t, "the change", func() bool { return weights(t, x)["cds_egress_m_v2_http_8080"] == 50+i })
		}
	}
	t.Run("and agree on versions, so that a proxy may change over", func(t *testing.T) {
		one := versionsOf(t, a)
		if two := versionsOf(t, b); !slices.Equal(one, two) {
			t.Errorf("versions are %q and %q", one, two)
		}
	})
}

// versionsOf are the versions that a replica gives a fresh proxy.
func versionsOf(t *testing.T, r *replica) []string {
	t.Helper()
	x := adstest.Open(t, r.conn, adstest.Options{Node: "mesh/m/virtualNode/front", Delta: true})
	defer x.Close()
	adstest.Must(t, x.Send(adstest.Request{Type: adstest.CDS}))
	got, err := x.Recv()
	adstest.Must(t, err)
	out := []string{got.Version}
	for n, v := range got.Versions {
		out = append(out, n+"="+v)
	}
	slices.Sort(out)
	return out
}

func TestAProxyThatLeavesAndComesAgainIsServed(t *testing.T) {
	s := storetest.New(t)
	write(t, s, colors()...)
	r := newReplica(t, s, nil)
	for range 50 {
		x := adstest.Open(t, r.conn, adstest.Options{Node: "mesh/m/virtualNode/front", Delta: true})
		adstest.Must(t, x.Send(adstest.Request{Type: adstest.CDS}))
		if _, err := x.Recv(); err != nil {
			t.Fatal(err)
		}
		x.Close()
	}
}

// found is a source of endpoints that says what a test gives it.
type found struct {
	sets chan []envoy.Endpoint
	fail chan error
}

func (f *found) Watch(ctx context.Context, _ envoy.EndpointQuery, tell func([]envoy.Endpoint)) error {
	for {
		select {
		case set := <-f.sets:
			tell(set)
		case err := <-f.fail:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func TestEndpointsReachTheProxy(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		s := storetest.New(t)
		write(t, s, colors()...)
		write(t, s, cloudMapNode("v2", ""))
		source := &found{sets: make(chan []envoy.Endpoint), fail: make(chan error)}
		registry := newRegistry(t, s, source)
		r := newReplica(t, s, registry)
		p := r.proxy(t, "front", delta)
		addresses := func() string {
			var out []string
			for _, set := range p.Endpoints(t) {
				for _, l := range set.GetEndpoints() {
					for _, e := range l.GetLbEndpoints() {
						out = append(out, e.GetEndpoint().GetAddress().GetSocketAddress().GetAddress())
					}
				}
			}
			slices.Sort(out)
			return strings.Join(out, " ")
		}
		source.sets <- []envoy.Endpoint{{Address: "10.0.0.1", Port: 8080}}
		p.Wait(t, "its first endpoint", func() bool { return addresses() == "10.0.0.1" })
		ready(t, p)
		r.counts()
		source.sets <- []envoy.Endpoint{{Address: "10.0.0.2", Port: 8080}, {Address: "10.0.0.1", Port: 8080}}
		p.Wait(t, "its second endpoint", func() bool { return addresses() == "10.0.0.1 10.0.0.2" })
		if views, _, _ := r.counts(); views != 0 {
			t.Errorf("%d views were resolved for endpoints", views)
		}
		mark := len(p.Responses())
		source.fail <- errors.New("throttled")
		source.sets <- []envoy.Endpoint{{Address: "10.0.0.3", Port: 8080}} // after a back-off
		p.Wait(t, "its third endpoint", func() bool { return addresses() == "10.0.0.3" })
		if got := p.Responses()[mark:]; len(got) != 1 {
			t.Errorf("a failure and a change sent %q, want the change alone", got)
		}
	})
}

// A set that is found while a bundle is built reaches the client, though it did
// not need the set before.
func TestASetFoundWhileBuildingIsNotLost(t *testing.T) {
	s := storetest.New(t)
	write(t, s, append(colors(), node("late", "color.local"), cloudMapNode("v2", ""))...)
	source := &found{sets: make(chan []envoy.Endpoint), fail: make(chan error)}
	set := []envoy.Endpoint{{Address: "10.0.0.9", Port: 8080}}
	r := newReplica(t, s, newRegistry(t, s, source), func(_ *replica, _ *ads.Config, p *publish.Config) {
		visited := p.Visited
		p.Visited = func(c mesh.Client, built bool) {
			visited(c, built)
			if c.Key.Name == "late" && built {
				source.sets <- set
				source.sets <- set // taken when the first has been told
			}
		}
	})
	endpoints := func(p *adstest.Proxy) int {
		n := 0
		for _, set := range p.Endpoints(t) {
			for _, l := range set.GetEndpoints() {
				n += len(l.GetLbEndpoints())
			}
		}
		return n
	}
	first := r.proxy(t, "front", true)
	source.sets <- []envoy.Endpoint{{Address: "10.0.0.1", Port: 8080}, {Address: "10.0.0.2", Port: 8080}}
	first.Wait(t, "its endpoints", func() bool { return endpoints(first) == 2 })
	late := r.proxy(t, "late", true)
	first.Wait(t, "the new set", func() bool { return endpoints(first) == 1 })
	late.Wait(t, "the new set", func() bool { return endpoints(late) == 1 })
}

func TestAffectedClients(t *testing.T) {
	s := storetest.New(t)
	revision := write(t, s, colors()...)
	r := newReplica(t, s, nil)
	of := func(name string) mesh.Client {
		return mesh.Client{Key: api.Key{Owner: account, Mesh: "m", Kind: api.KindVirtualNode, Name: name}}
	}
	key := api.Key{Owner: account, Mesh: "m", Kind: api.KindRoute, Parent: "color", Name: "all"}
	got, err := r.Affected(t.Context(), revision, key, []mesh.Client{of("front"), of("v1"), of("nobody")})
	adstest.Must(t, err)
	if len(got) != 1 || !got[of("front")] {
		t.Errorf("affected are %v", got)
	}
	if views, _, _ := r.counts(); views != 3 {
		t.Errorf("%d views were resolved for 3 clients", views)
	}

	// Rollouts are asked for again and again.
	got, err = r.Affected(t.Context(), revision, key, []mesh.Client{of("v1"), of("front")})
	adstest.Must(t, err)
	if views, _, _ := r.counts(); views != 0 || len(got) != 1 || !got[of("front")] {
		t.Errorf("asked again: affected are %v, %d views were resolved", got, views)
	}
	got, err = r.Affected(t.Context(), revision, key, []mesh.Client{of("v1")})
	adstest.Must(t, err)
	if len(got) != 0 {
		t.Errorf("affected are %v, which were not asked for", got)
	}
	revision = write(t, s, node("v1", "color.local"))
	got, err = r.Affected(t.Context(), revision, key, []mesh.Client{of("v1"), of("front")})
	adstest.Must(t, err)
	if len(got) != 2 {
		t.Errorf("after a change affected are %v", got)
	}
}

func newRegistry(t *testing.T, s *store.Store, source discovery.Source) *discovery.Registry {
	t.Helper()
	registry := discovery.New(discovery.Config{Source: source, Memory: s, Log: quiet(), Now: clock})
	adstest.Must(t, registry.Load(t.Context()))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = registry.Run(ctx)
	}()
	t.Cleanup(func() { cancel(); <-done })
	return registry
}
