package discovery_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/discovery"
	"github.com/evermesh/evermesh/internal/envoy"
	"github.com/evermesh/evermesh/internal/mesh"
	"github.com/evermesh/evermesh/internal/store/storetest"
	"github.com/evermesh/evermesh/internal/testenv"
)

func TestMain(m *testing.M) { testenv.VerifyTestMain(storetest.WithEtcd{M: m}) }

const account = "111122223333"

// phoneBook is a source that knows what a test wrote into it, and answers
// nothing for a service that is not in it.
type phoneBook struct {
	mu      sync.Mutex
	entries map[string][]envoy.Endpoint // by service
	fault   error
	edited  chan struct{} // closed at an edit
	watched map[string]int
	asked   map[string]int
}

func newPhoneBook() *phoneBook {
	return &phoneBook{entries: map[string][]envoy.Endpoint{}, edited: make(chan struct{}), watched: map[string]int{}, asked: map[string]int{}}
}

func (b *phoneBook) edit(fn func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	fn()
	close(b.edited)
	b.edited = make(chan struct{})
}

// write sets a service's endpoints, given by their addresses.
func (b *phoneBook) write(service string, addresses ...string) {
	set := []envoy.Endpoint{}
	for _, a := range addresses {
		set = append(set, envoy.Endpoint{Address: a, Port: 8080})
	}
	b.edit(func() { b.entries[service] = set })
}

// fail makes every watch, present and future, end with the error; nil lets them
// go on.
func (b *phoneBook) fail(err error) { b.edit(func() { b.fault = err }) }

// count returns how many watches of a service run, and how many began.
func (b *phoneBook) count(service string) (watched, asked int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.watched[service], b.asked[service]
}

// Watch tells a service's entry whenever the book was edited.
func (b *phoneBook) Watch(ctx context.Context, q envoy.EndpointQuery, found func([]envoy.Endpoint)) error {
	b.mu.Lock()
	b.watched[q.Service]++
	b.asked[q.Service]++
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.watched[q.Service]--
	}()
	for {
		b.mu.Lock()
		set, in := b.entries[q.Service]
		fault, edited := b.fault, b.edited
		b.mu.Unlock()
		if fault != nil {
			return fault
		}
		if in {
			found(set)
		}
		select {
		case <-edited:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

var errAway = errors.New("the phone book is away")

// run makes a registry, loads what memory has, and works it until the test ends
// or stop is called.
func run(t testing.TB, source discovery.Source, memory discovery.Memory) (r *discovery.Registry, stop func()) {
	t.Helper()
	r = discovery.New(discovery.Config{Source: source, Memory: memory, Log: slog.New(slog.DiscardHandler), Now: time.Now})
	if err := r.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Run ended with %v", err)
		}
	})
	t.Cleanup(stop)
	return r, stop
}

// client is a virtual node of that name.
func client(name string) mesh.Client { return mesh.Client{Key: key(api.KindVirtualNode, name)} }

func key(kind api.Kind, name string) api.Key {
	return api.Key{Owner: account, Mesh: "m", Kind: kind, Name: name}
}

// bundle is that of a node whose backends are found under the names in Cloud
// Map.
func bundle(t testing.TB, services ...string) *envoy.Bundle {
	t.Helper()
	put := func(kind api.Kind, name string, spec any) *api.Resource {
		return &api.Resource{Key: key(kind, name), Owner: account, Spec: spec}
	}
	resources := []*api.Resource{put(api.KindMesh, "m", &api.MeshSpec{})}
	caller := &api.VirtualNodeSpec{}
	for _, s := range services {
		caller.Backends = append(caller.Backends, api.Backend{VirtualService: &api.VirtualServiceBackend{VirtualServiceName: s + ".local"}})
		resources = append(resources,
			put(api.KindVirtualNode, s, &api.VirtualNodeSpec{
				Listeners:        []api.Listener{{PortMapping: api.PortMapping{Port: 8080, Protocol: api.PortProtocolHTTP}}},
				ServiceDiscovery: &api.ServiceDiscovery{AWSCloudMap: &api.AWSCloudMapServiceDiscovery{NamespaceName: "ns", ServiceName: s}},
			}),
			put(api.KindVirtualService, s+".local", &api.VirtualServiceSpec{
				Provider: &api.VirtualServiceProvider{VirtualNode: &api.VirtualNodeServiceProvider{VirtualNodeName: s}},
			}))
	}
	resources = append(resources, put(api.KindVirtualNode, "caller", caller))
	view, _, _ := mesh.NewSnapshot(1, resources).View(client("caller"))
	made, _ := new(envoy.Builder).Build(view, nil)
	n := 0
	for _, c := range made.List(envoy.Cluster).Resources {
		if _, ok := c.Query(); ok {
			n++
		}
	}
	if n != len(services) {
		t.Fatalf("the bundle has %d queries, want %d", n, len(services))
	}
	return made
}

// query finds the query of a service.
func query(t testing.TB, service string) envoy.EndpointQuery {
	t.Helper()
	for _, c := range bundle(t, service).List(envoy.Cluster).Resources {
		if q, ok := c.Query(); ok {
			return q
		}
	}
	return envoy.EndpointQuery{}
}

// addresses are what a registry knows of a service, "?" when that is nothing.
func addresses(t testing.TB, r *discovery.Registry, service string) string {
	t.Helper()
	set, known := r.Known(query(t, service))
	if !known {
		return "?"
	}
	var out string
	for _, e := range set {
		out += e.Address + " "
	}
	return out
}
