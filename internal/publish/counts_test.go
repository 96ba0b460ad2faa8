package publish_test

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/evermesh/evermesh/internal/ads/adstest"
	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/envoy"
	"github.com/evermesh/evermesh/internal/mesh"
	"github.com/evermesh/evermesh/internal/store"
	"github.com/evermesh/evermesh/internal/store/storetest"
	"github.com/evermesh/evermesh/internal/testenv"
)

// The count tests of decision D6.5: work follows the change, and nothing is sent
// in vain. Each ends with a change that everyone needs: what was sent before it
// arrives is what the change in question sent.

const (
	connected = 300
	callers   = 20 // of connected
)

// crowd is a mesh of connected nodes, each with one proxy; every fifteenth calls
// color.local.
func crowd(t *testing.T, s *store.Store, delta bool) (*replica, []*adstest.Proxy) {
	t.Helper()
	changes := append(colors(), service("quiet.local", "quiet")...)
	changes = append(changes, route("quiet", "v1", 1))
	write(t, s, changes...)
	for i := range connected {
		if i%50 == 0 {
			changes = nil
		}
		if i%(connected/callers) == 0 {
			changes = append(changes, node(fmt.Sprint("n", i), "color.local"))
		} else {
			changes = append(changes, node(fmt.Sprint("n", i)))
		}
		if i%50 == 49 {
			write(t, s, changes...)
		}
	}
	r := newReplica(t, s, nil)
	proxies := make([]*adstest.Proxy, connected)
	for i := range proxies {
		proxies[i] = r.proxy(t, fmt.Sprint("n", i), delta)
	}
	testenv.EventuallyAll(t, "proxies are current", connected, r.current)
	for _, p := range proxies {
		ready(t, p)
	}
	r.counts()
	return r, proxies
}

// fence changes something for everyone and returns, for each proxy, what came
// after the mark and before that.
func fence(t *testing.T, s *store.Store, proxies []*adstest.Proxy, marks []int) [][]string {
	t.Helper()
	filter := change{kind: api.KindMesh, name: "m", spec: `{"egressFilter":{"type":"ALLOW_ALL"}}`}
	write(t, s, filter)
	out := make([][]string, len(proxies))
	for i, p := range proxies {
		isFence := func(r string) bool { return strings.HasPrefix(r, "cds ") && strings.Contains(r, "mesh-allow-all") }
		p.Wait(t, "the change for everyone", func() bool {
			return slices.ContainsFunc(p.Responses()[marks[i]:], isFence)
		})
		after := p.Responses()[marks[i]:]
		out[i] = after[:slices.IndexFunc(after, isFence)]
	}
	return out
}

func marked(proxies []*adstest.Proxy) []int {
	out := make([]int, len(proxies))
	for i, p := range proxies {
		out[i] = len(p.Responses())
	}
	return out
}

func TestAWeightChangeReachesExactlyItsCallers(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		s := storetest.New(t)
		r, proxies := crowd(t, s, delta)
		marks := marked(proxies)
		write(t, s, route("color", "v1", 0, "v2", 100))
		for i := 0; i < connected; i += connected / callers {
			proxies[i].Wait(t, "its route", func() bool { return len(proxies[i].Responses()) > marks[i] })
		}
		views, builds, of := r.counts()
		if views != callers || builds != callers {
			t.Errorf("%d views and %d bundles were made, want %d each; of %v", views, builds, callers, of)
		}
		for i, got := range fence(t, s, proxies, marks) {
			var want []string
			if i%(connected/callers) == 0 {
				want = []string{"rds rds_egress_http_8080"}
			}
			if !slices.Equal(got, want) {
				t.Errorf("n%d was sent %q, want %q", i, got, want)
			}
		}
		if got := weights(t, proxies[0]); got["cds_egress_m_v1_http_8080"] != 0 || got["cds_egress_m_v2_http_8080"] == 0 {
			t.Errorf("weights are %v", got)
		}
	})
}

func TestAChangeThatNobodyNeedsCostsNoView(t *testing.T) {
	s := storetest.New(t)
	r, proxies := crowd(t, s, true)
	marks := marked(proxies)
	var revision int64
	for _, c := range []change{
		route("quiet", "v1", 2), // connected, but nobody calls it
		node("unconnected", "color.local"),
		{kind: api.KindVirtualNode, name: "unconnected"},
		{owner: other, kind: api.KindMesh, name: "m", spec: `{}`},
		{owner: other, kind: api.KindVirtualRouter, name: "color", spec: `{"listeners":[{"portMapping":{"port":8080,"protocol":"http"}}]}`},
	} {
		revision = write(t, s, c)
	}
	r.reach(t, revision)
	if views, _, of := r.counts(); views != 0 {
		t.Errorf("%d views were resolved, of %v", views, of)
	}
	for i, got := range fence(t, s, proxies, marks) {
		if len(got) > 0 {
			t.Errorf("n%d was sent %q", i, got)
		}
	}
}

func TestTheSameContentIsNotSentAgain(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		s := storetest.New(t)
		write(t, s, colors()...)
		source := &again{Store: s, signal: make(chan struct{})}
		r := newReplica(t, source, nil)
		proxies := []*adstest.Proxy{r.proxy(t, "front", delta), r.proxy(t, "v1", delta)}
		for _, p := range proxies {
			ready(t, p)
		}
		testenv.Eventually(t, "both are current", func() bool { return r.server.States()["CURRENT"] == 2 })
		r.counts()
		marks := marked(proxies)
		// An update to what is there already; tags and versions are no content.
		r.reach(t, write(t, s, route("color", "v1", 75, "v2", 25)))
		if views, _, of := r.counts(); views != 1 || !slices.Equal(of, []string{"front"}) {
			t.Errorf("%d views were resolved, of %v", views, of)
		}
		// A whole reset, as after a compaction of the store.
		source.signal <- struct{}{}
		views := 0
		testenv.Eventually(t, "everything was looked at again", func() bool {
			v, _, _ := r.counts()
			views += v
			return views == 2
		})
		for i, got := range fence(t, s, proxies, marks) {
			if len(got) > 0 {
				t.Errorf("proxy %d was sent %q", i, got)
			}
		}
	})
}

func TestProxiesOfOneNodeShareItsWork(t *testing.T) {
	s := storetest.New(t)
	write(t, s, colors()...)
	r := newReplica(t, s, nil)
	var proxies []*adstest.Proxy
	for i := range 10 {
		proxies = append(proxies, r.proxy(t, "front", i%2 == 0))
	}
	for _, p := range proxies {
		ready(t, p)
	}
	r.counts()
	write(t, s, route("color", "v1", 1, "v2", 3))
	for _, p := range proxies {
		p.Wait(t, "the new weight", func() bool { return weights(t, p)["cds_egress_m_v2_http_8080"] == 3 })
	}
	if views, builds, _ := r.counts(); views != 1 || builds != 1 {
		t.Errorf("%d views and %d bundles were made for ten proxies of a node", views, builds)
	}
	want := proxies[0].Routes(t)["rds_egress_http_8080"].String()
	for _, p := range proxies[1:] {
		if diff := cmp.Diff(want, p.Routes(t)["rds_egress_http_8080"].String()); diff != "" {
			t.Errorf("two proxies of a node differ:\n%s", diff)
		}
	}
}

// D6.5 at its own size, without the streams: what is looked at is what counts.
func TestTwentyOfThreeThousand(t *testing.T) {
	s := storetest.New(t)
	write(t, s, colors()...)
	const all = 3000
	for batch := range slices.Chunk(slices.Collect(seq(all)), 50) {
		var changes []change
		for _, i := range batch {
			if i%(all/callers) == 0 {
				changes = append(changes, node(fmt.Sprint("n", i), "color.local"))
			} else {
				changes = append(changes, node(fmt.Sprint("n", i)))
			}
		}
		write(t, s, changes...)
	}
	r := newReplica(t, s, nil)
	for i := range all {
		r.Want(mesh.Client{Key: api.Key{Owner: account, Mesh: "m", Kind: api.KindVirtualNode, Name: fmt.Sprint("n", i)}})
	}
	made := 0
	testenv.EventuallyAll(t, "bundles are made", all, func() int {
		_, builds, _ := r.counts()
		made += builds
		return made
	})
	r.reach(t, write(t, s, route("color", "v1", 1, "v2", 99)))
	if views, builds, of := r.counts(); views != callers || builds != callers {
		t.Errorf("a route that %d of %d read cost %d views and %d bundles, want %d each; of %v", callers, all, views, builds, callers, of)
	}
	r.reach(t, write(t, s, node("elsewhere")))
	if views, _, of := r.counts(); views != 0 {
		t.Errorf("a change that nobody reads cost %d views, of %v", views, of)
	}
}

// seq counts from 0 to n-1.
func seq(n int) iter.Seq[int] {
	return func(yield func(int) bool) {
		for i := range n {
			if !yield(i) {
				return
			}
		}
	}
}

// An endpoint of a service that all use: every proxy is sent one EDS resource
// and nothing else, and no view is looked at.
func TestAnEndpointThatAllUseCostsNoView(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		s := storetest.New(t)
		write(t, s, append(colors(), cloudMapNode("v1", ""), cloudMapNode("v2", ""))...)
		const users = 100
		changes := []change{}
		for i := range users {
			changes = append(changes, node(fmt.Sprint("n", i), "color.local"))
		}
		for batch := range slices.Chunk(changes, 50) {
			write(t, s, batch...)
		}
		source := byService{"v1": make(chan []envoy.Endpoint), "v2": make(chan []envoy.Endpoint)}
		r := newReplica(t, s, newRegistry(t, s, source))
		proxies := make([]*adstest.Proxy, users)
		for i := range proxies {
			proxies[i] = r.proxy(t, fmt.Sprint("n", i), delta)
		}
		one, two := envoy.Endpoint{Address: "10.0.0.1", Port: 8080}, envoy.Endpoint{Address: "10.0.0.2", Port: 8080}
		source["v1"] <- []envoy.Endpoint{one}
		source["v2"] <- []envoy.Endpoint{one}
		testenv.EventuallyAll(t, "proxies are current", users, r.current)
		for _, p := range proxies {
			ready(t, p)
		}
		r.counts()
		marks := marked(proxies)
		source["v2"] <- []envoy.Endpoint{one, two}
		for i, p := range proxies {
			p.Wait(t, "the endpoint", func() bool { return len(p.Responses()) > marks[i] })
			set := p.Endpoints(t)["cds_egress_m_v2_http_8080"]
			if got := len(set.GetEndpoints()[0].GetLbEndpoints()); got != 2 {
				t.Errorf("n%d has %d endpoints, want 2", i, got)
			}
		}
		if views, _, of := r.counts(); views != 0 {
			t.Errorf("%d views were resolved for an endpoint, of %v", views, of)
		}
		for i, got := range fence(t, s, proxies, marks) {
			if !slices.Equal(got, []string{"eds cds_egress_m_v2_http_8080"}) {
				t.Errorf("n%d was sent %q", i, got)
			}
		}
	})
}

// byService is a source that tells what its channels bring.
type byService map[string]chan []envoy.Endpoint

func (b byService) Watch(ctx context.Context, q envoy.EndpointQuery, tell func([]envoy.Endpoint)) error {
	for {
		select {
		case set := <-b[q.Service]:
			tell(set)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
