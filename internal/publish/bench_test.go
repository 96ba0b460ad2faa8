package publish_test

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"testing"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/envoy"
	"github.com/evermesh/evermesh/internal/mesh"
	"github.com/evermesh/evermesh/internal/publish"
	"github.com/evermesh/evermesh/internal/store"
)

// feed is a store that tells what a benchmark puts into it.
type feed chan store.Batch

func (f feed) Watch(ctx context.Context, fn func(store.Batch) error) error {
	for {
		select {
		case b := <-f:
			if err := fn(b); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (f feed) Head(context.Context) (int64, error) { return 0, nil }

// shelf keeps the bundles.
type shelf struct {
	mu      sync.Mutex
	bundles map[mesh.Client]*envoy.Bundle
	sets    int
}

func (s *shelf) Set(c mesh.Client, _ int64, b *envoy.Bundle) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bundles[c] = b
	s.sets++
}

// city is n nodes with a routed service each; every node calls k of them, and
// all call the first.
func city(n, k int) (changes []api.Change, clients []mesh.Client, route api.Key) {
	key := func(kind api.Kind, parent, name string) api.Key {
		return api.Key{Owner: account, Mesh: "m", Kind: kind, Parent: parent, Name: name}
	}
	listener := api.PortMapping{Port: 8080, Protocol: api.PortProtocolHTTP}
	add := func(k api.Key, spec any) {
		changes = append(changes, api.Change{Key: k, New: &api.Resource{Key: k, Owner: account, Spec: spec}})
	}
	add(key(api.KindMesh, "", "m"), &api.MeshSpec{})
	for i := range n {
		name := fmt.Sprint("s", i)
		spec := &api.VirtualNodeSpec{
			Listeners:        []api.Listener{{PortMapping: listener}},
			ServiceDiscovery: &api.ServiceDiscovery{DNS: &api.DNSServiceDiscovery{Hostname: name + ".local"}},
		}
		for j := range k {
			to := "s0"
			if j > 0 {
				to = fmt.Sprint("s", (i+7*j)%n)
			}
			spec.Backends = append(spec.Backends, api.Backend{VirtualService: &api.VirtualServiceBackend{VirtualServiceName: to}})
		}
		add(key(api.KindVirtualNode, "", name), spec)
		add(key(api.KindVirtualService, "", name), &api.VirtualServiceSpec{Provider: &api.VirtualServiceProvider{VirtualRouter: &api.VirtualRouterServiceProvider{VirtualRouterName: name}}})
		add(key(api.KindVirtualRouter, "", name), &api.VirtualRouterSpec{Listeners: []api.VirtualRouterListener{{PortMapping: listener}}})
		add(key(api.KindRoute, name, "main"), split(name, fmt.Sprint("s", (i+1)%n), 50))
		clients = append(clients, mesh.Client{Key: key(api.KindVirtualNode, "", name)})
	}
	return changes, clients, key(api.KindRoute, "s0", "main")
}

func split(first, second string, weight int64) *api.RouteSpec {
	prefix := "/"
	return &api.RouteSpec{HTTPRoute: &api.HTTPRoute{
		Match: api.HTTPRouteMatch{Prefix: &prefix},
		Action: api.HTTPRouteAction{WeightedTargets: []api.WeightedTarget{
			{VirtualNode: first, Weight: weight}, {VirtualNode: second, Weight: 100 - weight},
		}},
	}}
}

// BenchmarkWideChange publishes a weight change to 1,000 clients of 20 backends
// each, without a store and without streams: from the batch to the last bundle.
// It also prints what a client costs in memory.
func BenchmarkWideChange(b *testing.B) {
	changes, clients, route := city(1000, 20)
	source, bundles := make(feed), &shelf{bundles: map[mesh.Client]*envoy.Bundle{}}
	applied := make(chan int64)
	ctx, cancel := context.WithCancel(b.Context())
	loop := publish.New(publish.Config{
		Store: source, Proxies: bundles, Log: quiet(), Workers: 2, Now: clock,
		Applied: func(revision int64) {
			select {
			case applied <- revision:
			case <-ctx.Done():
			}
		},
	})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = loop.Run(ctx)
	}()
	defer func() { cancel(); <-ended }()
	reach := func(revision int64) {
		for r := range applied {
			if r >= revision {
				return
			}
		}
	}
	source <- store.Batch{Revision: 1, Reset: true, Changes: changes}
	reach(1)
	before := heap()
	for _, c := range clients {
		loop.Want(c)
	}
	for done := false; !done; {
		<-applied
		bundles.mu.Lock()
		done = bundles.sets == len(clients)
		bundles.mu.Unlock()
	}
	perClient := float64(heap()-before) / float64(len(clients)) / 1024
	b.ReportAllocs()
	revision, sets := int64(1), bundles.sets
	for b.Loop() {
		revision++
		r := &api.Resource{Key: route, Owner: account, Spec: split("s0", "s1", revision%100)}
		source <- store.Batch{Revision: revision, Changes: []api.Change{{Key: route, New: r}}}
		reach(revision)
	}
	if got := bundles.sets - sets; got != b.N*len(clients) {
		b.Errorf("%d bundles were set, want %d", got, b.N*len(clients))
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*len(clients)), "µs/client")
	b.ReportMetric(perClient, "KiB/client")
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
