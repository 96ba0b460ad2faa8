package envoy_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/envoy"
	"github.com/evermesh/evermesh/internal/mesh"
)

// market is n callers of the same k services, all found in Cloud Map.
func market(n, k int) (resources []*api.Resource, clients []mesh.Client) {
	listener := api.PortMapping{Port: 80, Protocol: api.PortProtocolHTTP}
	add := func(kind api.Kind, parent, name string, spec any) {
		resources = append(resources, &api.Resource{Key: keyOf(kind, parent, name), Owner: account, Spec: spec})
	}
	add(api.KindMesh, "", "", &api.MeshSpec{})
	var backends []api.Backend
	for i := range k {
		name := fmt.Sprint("s", i)
		backends = append(backends, api.Backend{VirtualService: &api.VirtualServiceBackend{VirtualServiceName: name}})
		add(api.KindVirtualNode, "", name, &api.VirtualNodeSpec{
			Listeners:        []api.Listener{{PortMapping: listener}},
			ServiceDiscovery: &api.ServiceDiscovery{AWSCloudMap: &api.AWSCloudMapServiceDiscovery{NamespaceName: "example", ServiceName: name}},
		})
		add(api.KindVirtualService, "", name, &api.VirtualServiceSpec{Provider: &api.VirtualServiceProvider{VirtualNode: &api.VirtualNodeServiceProvider{VirtualNodeName: name}}})
	}
	for i := range n {
		name := fmt.Sprint("n", i)
		add(api.KindVirtualNode, "", name, &api.VirtualNodeSpec{Listeners: []api.Listener{{PortMapping: listener}}, Backends: backends})
		clients = append(clients, mesh.Client{Key: keyOf(api.KindVirtualNode, "", name)})
	}
	return resources, clients
}

// book is what is known of endpoints.
type book map[string][]envoy.Endpoint

func (b book) known(q envoy.EndpointQuery) ([]envoy.Endpoint, bool) {
	set, ok := b[q.Service]
	return set, ok
}

func queries(b *envoy.Bundle) map[string]envoy.EndpointQuery {
	out := map[string]envoy.EndpointQuery{}
	for _, c := range b.List(envoy.Cluster).Resources {
		if q, ok := c.Query(); ok {
			out[q.Service] = q
		}
	}
	return out
}

// TestWithChangedIsWithEndpoints changes sets at random, also to unknown, and
// compares the bundle that had them replaced one by one with one that gets all
// sets anew.
func TestWithChangedIsWithEndpoints(t *testing.T) {
	resources, clients := market(1, 4)
	view, _, _ := mesh.NewSnapshot(1, resources).View(clients[0])
	rapid.Check(t, func(t *rapid.T) {
		plain, _ := new(envoy.Builder).Build(view, nil)
		all := queries(plain)
		known := book{}
		bundle := plain
		for range rapid.IntRange(1, 8).Draw(t, "rounds") {
			var changed []envoy.EndpointQuery
			for range rapid.IntRange(1, 3).Draw(t, "changed") {
				service := fmt.Sprint("s", rapid.IntRange(0, 3).Draw(t, "service"))
				changed = append(changed, all[service])
				if rapid.IntRange(0, 3).Draw(t, "forget") == 0 {
					delete(known, service)
					continue
				}
				set := []envoy.Endpoint{}
				for range rapid.IntRange(0, 3).Draw(t, "endpoints") {
					set = append(set, envoy.Endpoint{Address: fmt.Sprint("10.0.0.", rapid.IntRange(1, 4).Draw(t, "address")), Port: 80})
				}
				known[service] = set
			}
			before := bundle
			bundle = bundle.WithChanged(changed, known.known)
			fresh, _ := new(envoy.Builder).Build(view, nil)
			if diff := cmp.Diff(content(fresh.WithEndpoints(known.known), nil), content(bundle, nil)); diff != "" {
				t.Fatalf("all anew (-) and changed alone (+) differ:\n%s", diff)
			}
			if same := before.List(envoy.LoadAssignment).Hash == bundle.List(envoy.LoadAssignment).Hash; same != (before == bundle) {
				t.Fatalf("the same endpoints: %v, the same bundle: %v", same, before == bundle)
			}
		}
	})
}

// TestALoadAssignmentIsMadeOnce counts what a set that all clients use is
// encoded as, and what else of their bundles it touches.
func TestALoadAssignmentIsMadeOnce(t *testing.T) {
	resources, clients := market(50, 20)
	snapshot := mesh.NewSnapshot(1, resources)
	builder := &envoy.Builder{}
	known := book{}
	for i := range 20 {
		known[fmt.Sprint("s", i)] = []envoy.Endpoint{{Address: "10.0.0.1", Port: 80}}
	}
	bundles := make([]*envoy.Bundle, len(clients))
	for i, c := range clients {
		view, _, _ := snapshot.View(c)
		bundle, _ := builder.Build(view, nil)
		bundles[i] = bundle.WithEndpoints(known.known)
	}
	q := queries(bundles[0])["s7"]
	known["s7"] = []envoy.Endpoint{{Address: "10.0.0.1", Port: 80}, {Address: "10.0.0.2", Port: 80}}
	made := map[*envoy.Resource]bool{}
	for i, old := range bundles {
		bundles[i] = old.WithChanged([]envoy.EndpointQuery{q}, known.known)
		for j, r := range bundles[i].List(envoy.LoadAssignment).Resources {
			if r != old.List(envoy.LoadAssignment).Resources[j] {
				made[r] = true
			}
		}
		for _, of := range []envoy.Type{envoy.Cluster, envoy.Listener, envoy.Route} {
			if bundles[i].List(of) != old.List(of) {
				t.Errorf("endpoints changed %s of client %d", of.URL(), i)
			}
		}
	}
	if len(made) != 1 {
		t.Errorf("%d load assignments were made for one set that %d clients use", len(made), len(clients))
	}

	// A change that leaves the clusters alone leaves the endpoints alone.
	route := &api.Resource{Key: keyOf(api.KindVirtualService, "", "s3"), Owner: account, Spec: &api.VirtualServiceSpec{}}
	snapshot = snapshot.Apply(2, []api.Change{{Key: keyOf(api.KindVirtualNode, "", "n0"), New: withLog(snapshot.Get(clients[0].Key))}})
	view, _, _ := snapshot.View(clients[0])
	now, _ := builder.Build(view, bundles[0])
	if now.List(envoy.Listener) == bundles[0].List(envoy.Listener) || now.List(envoy.LoadAssignment) != bundles[0].List(envoy.LoadAssignment) {
		t.Error("an access log changed the endpoints, or not the listeners")
	}
	snapshot = snapshot.Apply(3, []api.Change{{Key: route.Key, New: route}})
	view, _, _ = snapshot.View(clients[0])
	now, _ = builder.Build(view, now)
	if got := len(now.WithEndpoints(known.known).List(envoy.LoadAssignment).Resources); got != 19 {
		t.Errorf("%d load assignments, want those of the 19 clusters that are left", got)
	}
}

func withLog(node *api.Resource) *api.Resource {
	spec := *node.VirtualNodeSpec()
	spec.Logging = &api.Logging{AccessLog: &api.AccessLog{File: &api.FileAccessLog{Path: "/dev/stdout"}}}
	return &api.Resource{Key: node.Key, Owner: node.Owner, Spec: &spec}
}

// TestCloudMapThatNobodyLooksUp tells both the node that is found there and its
// callers.
func TestCloudMapThatNobodyLooksUp(t *testing.T) {
	resources, clients := market(1, 1)
	snapshot := mesh.NewSnapshot(1, resources)
	own := mesh.Client{Key: keyOf(api.KindVirtualNode, "", "s0")}
	for _, without := range []bool{false, true} {
		for _, c := range append(clients, own) {
			view, _, _ := snapshot.View(c)
			_, problems := (&envoy.Builder{WithoutCloudMap: without}).Build(view, nil)
			said := slices.ContainsFunc(problems, func(p mesh.Problem) bool {
				return p.Reason == envoy.ReasonNoSource && p.Key == own.Key && strings.Contains(p.Message, "awsCloudMap")
			})
			if said != without {
				t.Errorf("without Cloud Map: %v; problems of %v are %v", without, c.Key, problems)
			}
		}
	}
}

// TestCloudMapOfAccounts asks for the instances of the account that created a node, which in a shared mesh is not
// its owner; two accounts' nodes of one service's names are two queries.
func TestCloudMapOfAccounts(t *testing.T) {
	const guest = "444455556666"
	resources, clients := market(1, 1)
	for i, r := range resources {
		if r.Key.Name == "s0" && r.Key.Kind == api.KindVirtualNode {
			theirs := *r
			theirs.Owner = guest
			resources[i] = &theirs
		}
	}
	view, _, _ := mesh.NewSnapshot(1, resources).View(clients[0])
	for _, c := range []struct {
		name    string
		of      bool
		account string
	}{
		{"DISC-009 where each account has a Cloud Map, the node's owner's is meant", true, guest},
		{"where there is one for all, no account is named", false, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			made, _ := (&envoy.Builder{CloudMapOfAccounts: c.of}).Build(view, nil)
			n := 0
			for _, cluster := range made.List(envoy.Cluster).Resources {
				if q, ok := cluster.Query(); ok {
					n++
					if q.Account != c.account {
						t.Errorf("%s asks for account %q, want %q", cluster.Name, q.Account, c.account)
					}
				}
			}
			if n == 0 {
				t.Error("there is no query")
			}
		})
	}
}

// BenchmarkEndpointChange is one set that 1,000 clients use, of 20 each.
func BenchmarkEndpointChange(b *testing.B) {
	resources, clients := market(1000, 20)
	snapshot := mesh.NewSnapshot(1, resources)
	builder := &envoy.Builder{}
	known := book{}
	for i := range 20 {
		known[fmt.Sprint("s", i)] = []envoy.Endpoint{{Address: "10.0.0.1", Port: 80}}
	}
	bundles := make([]*envoy.Bundle, len(clients))
	for i, c := range clients {
		view, _, _ := snapshot.View(c)
		bundle, _ := builder.Build(view, nil)
		bundles[i] = bundle.WithEndpoints(known.known)
	}
	changed := []envoy.EndpointQuery{queries(bundles[0])["s7"]}
	n := 0
	b.ReportAllocs()
	for b.Loop() {
		n++
		known["s7"] = []envoy.Endpoint{{Address: fmt.Sprintf("10.0.%d.%d", n/250%250, n%250), Port: 80}}
		for i, old := range bundles {
			bundles[i] = old.WithChanged(changed, known.known)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*len(clients)), "µs/client")
}
