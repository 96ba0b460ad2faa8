package envoy_test

import (
	"bytes"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"pgregory.net/rapid"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/envoy"
	"github.com/evermesh/evermesh/internal/mesh"
)

// named are the clusters that the resource says it refers to, sorted.
func named(r *envoy.Resource) []string {
	return slices.Compact(slices.Sorted(r.AllClusters()))
}

// content is a bundle as text: names, hashes and what else others see of it.
func content(b *envoy.Bundle, problems []mesh.Problem) []string {
	var out []string
	for _, t := range envoy.Types() {
		out = append(out, fmt.Sprintf("%s %s", t.URL(), b.List(t).Hash))
		for _, r := range b.List(t).Resources {
			q, _ := r.Query()
			out = append(out, fmt.Sprintf("%s %s %d %v %+v", r.Name, r.Hash, r.Size(), named(r), q))
		}
	}
	var texts []string
	for _, p := range problems {
		texts = append(texts, fmt.Sprint(p))
	}
	slices.Sort(texts)
	return append(out, texts...)
}

// TestBuildReusesOnlyWhatIsTheSame builds, over random edits, from the previous
// bundle and from nothing, and wants the same. It also looks at what every
// bundle must keep.
func TestBuildReusesOnlyWhatIsTheSame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld()
		w.fill(t)
		builder := &envoy.Builder{}
		previous := map[mesh.Client]*envoy.Bundle{}
		for range rapid.IntRange(1, 8).Draw(t, "edits") {
			for _, view := range w.views(mesh.EveryTraits()...) {
				bundle, problems := builder.Build(view, previous[view.Client])
				fresh, wanted := new(envoy.Builder).Build(view, nil)
				if diff := cmp.Diff(content(fresh, wanted), content(bundle, problems)); diff != "" {
					t.Fatalf("%v: built from nothing (-) and from the previous bundle (+) differ:\n%s", view.Client.Key, diff)
				}
				complete(t, bundle)
				previous[view.Client] = bundle
			}
			w.edit(t)
		}
	})
}

// complete fails when a bundle refers to something that is not in it, or holds
// a name twice.
func complete(t *rapid.T, b *envoy.Bundle) {
	for _, of := range envoy.Types() {
		list := b.List(of).Resources
		for i, r := range list {
			if i > 0 && list[i-1].Name >= r.Name {
				t.Fatalf("%s and %s are out of order or the same", list[i-1].Name, r.Name)
			}
			if want := clustersNamed(t, of, r); !slices.Equal(want, named(r)) {
				t.Fatalf("%s says that it names clusters %v, and names %v", r.Name, named(r), want)
			}
			for _, name := range r.Secrets {
				// Names are told as they are in the message: what nobody asks for is not delivered.
				if !bytes.Contains(r.Encoded, []byte(name)) {
					t.Fatalf("%s says that it uses secret %s, and does not name it", r.Name, name)
				}
			}
			for c := range r.AllClusters() {
				if b.List(envoy.Cluster).Get(c) == nil {
					t.Fatalf("%s names cluster %s, which the bundle does not have", r.Name, c)
				}
			}
		}
	}
	for _, r := range b.List(envoy.Route).Resources {
		domains := map[string]bool{}
		for _, h := range decoded(t, r).GetVirtualHosts() {
			for _, d := range h.GetDomains() {
				if domains[strings.ToLower(d)] {
					t.Fatalf("%s has domain %s twice", r.Name, d)
				}
				domains[strings.ToLower(d)] = true
			}
		}
	}
}

// clustersNamed reads from the encoded resource which clusters it refers to.
func clustersNamed(t *rapid.T, of envoy.Type, r *envoy.Resource) []string {
	m, err := (&anypb.Any{TypeUrl: of.URL(), Value: r.Append(nil)}).UnmarshalNew()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	switch m := m.(type) {
	case *routev3.RouteConfiguration:
		for _, h := range m.GetVirtualHosts() {
			for _, route := range h.GetRoutes() {
				out = append(out, route.GetRoute().GetCluster())
				for _, c := range route.GetRoute().GetWeightedClusters().GetClusters() {
					out = append(out, c.GetName())
				}
			}
		}
	case *listenerv3.Listener:
		for _, chain := range m.GetFilterChains() {
			proxy := &tcpv3.TcpProxy{}
			for _, f := range chain.GetFilters() {
				if f.GetTypedConfig().UnmarshalTo(proxy) != nil {
					continue
				}
				out = append(out, proxy.GetCluster())
				for _, c := range proxy.GetWeightedClusters().GetClusters() {
					out = append(out, c.GetName())
				}
			}
		}
	}
	out = slices.DeleteFunc(out, func(name string) bool { return name == "" })
	slices.Sort(out)
	return slices.Compact(out)
}

func decoded(t interface{ Fatal(...any) }, r *envoy.Resource) *routev3.RouteConfiguration {
	m := &routev3.RouteConfiguration{}
	if err := r.UnmarshalTo(m); err != nil {
		t.Fatal(err)
	}
	return m
}

// shop is a node with backends s0 to s<n>, each split over two nodes, and the
// route of s0.
func shop(backends int) (resources []*api.Resource, client mesh.Client, route *api.Resource) {
	add := func(kind api.Kind, parent, name string, spec any) *api.Resource {
		r := &api.Resource{Key: keyOf(kind, parent, name), Owner: account, Spec: spec}
		resources = append(resources, r)
		return r
	}
	listener := api.PortMapping{Port: 80, Protocol: api.PortProtocolHTTP}
	add(api.KindMesh, "", "", &api.MeshSpec{})
	node := func(name string) *api.VirtualNodeSpec {
		spec := &api.VirtualNodeSpec{
			Listeners:        []api.Listener{{PortMapping: listener}},
			ServiceDiscovery: &api.ServiceDiscovery{DNS: &api.DNSServiceDiscovery{Hostname: name + ".local"}},
		}
		add(api.KindVirtualNode, "", name, spec)
		return spec
	}
	front := node("front")
	for i := range backends {
		name := fmt.Sprint("s", i)
		front.Backends = append(front.Backends, api.Backend{VirtualService: &api.VirtualServiceBackend{VirtualServiceName: name}})
		node(name + "-v1")
		node(name + "-v2")
		add(api.KindVirtualService, "", name, &api.VirtualServiceSpec{Provider: &api.VirtualServiceProvider{VirtualRouter: &api.VirtualRouterServiceProvider{VirtualRouterName: name}}})
		add(api.KindVirtualRouter, "", name, &api.VirtualRouterSpec{Listeners: []api.VirtualRouterListener{{PortMapping: listener}}})
		r := add(api.KindRoute, name, "split", split(name, 100))
		if i == 0 {
			route = r
		}
	}
	return resources, mesh.Client{Key: keyOf(api.KindVirtualNode, "", "front")}, route
}

func split(name string, v1 int64) *api.RouteSpec {
	prefix := "/"
	return &api.RouteSpec{HTTPRoute: &api.HTTPRoute{
		Match: api.HTTPRouteMatch{Prefix: &prefix},
		Action: api.HTTPRouteAction{WeightedTargets: []api.WeightedTarget{
			{VirtualNode: name + "-v1", Weight: v1}, {VirtualNode: name + "-v2", Weight: 100 - v1},
		}},
	}}
}

// reweighted is the snapshot after the route's weights have changed.
func reweighted(s *mesh.Snapshot, route *api.Resource, v1 int64) *mesh.Snapshot {
	changed := &api.Resource{Key: route.Key, Owner: account, Spec: split(route.Key.Parent, v1)}
	return s.Apply(s.Revision()+1, []api.Change{{Key: route.Key, New: changed}})
}

// TestWorkFollowsTheChange counts what a weight change makes anew: one virtual
// host and the route configuration that holds it. Everything else is the very
// same value as before.
func TestWorkFollowsTheChange(t *testing.T) {
	resources, client, route := shop(20)
	snapshot := mesh.NewSnapshot(1, resources)
	builder := &envoy.Builder{}
	view, _, _ := snapshot.View(client)
	before, problems := builder.Build(view, nil)
	if len(problems) != 0 {
		t.Fatal(problems)
	}
	view, _, _ = reweighted(snapshot, route, 75).View(client)
	after, _ := builder.Build(view, before)
	if before.List(envoy.Cluster) != after.List(envoy.Cluster) || before.List(envoy.Listener) != after.List(envoy.Listener) {
		t.Error("clusters or listeners are others")
	}
	const config = "rds_egress_http_80"
	for _, r := range after.List(envoy.Route).Resources {
		if same := r == before.List(envoy.Route).Get(r.Name); same == (r.Name == config) {
			t.Errorf("route configuration %s is the same: %v", r.Name, same)
		}
	}
	changed := 0
	old := before.List(envoy.Route).Get(config).Hosts
	for i, h := range after.List(envoy.Route).Get(config).Hosts {
		if h != old[i] {
			changed++
			if h.Name != "s0" || h.Hash == old[i].Hash {
				t.Errorf("host %s is another, with hash %s after %s", h.Name, h.Hash, old[i].Hash)
			}
		}
	}
	if changed != 1 {
		t.Errorf("%d virtual hosts were made, want 1", changed)
	}
	view, _, _ = reweighted(reweighted(snapshot, route, 75), route, 100).View(client)
	back, _ := builder.Build(view, after)
	if back.List(envoy.Route).Hash != before.List(envoy.Route).Hash {
		t.Error("the same weights again have another hash")
	}
}

// TestContentIsHeldOnce builds two clients with the same backends: they share
// every encoded resource and host, and nothing is held for bundles that are
// gone.
func TestContentIsHeldOnce(t *testing.T) {
	resources, client, _ := shop(3)
	second := mesh.Client{Key: keyOf(api.KindVirtualNode, "", "second")}
	for _, r := range resources {
		if r.Key == client.Key {
			resources = append(resources, &api.Resource{Key: second.Key, Owner: account, Spec: r.Spec})
			break
		}
	}
	snapshot := mesh.NewSnapshot(1, resources)
	builder := &envoy.Builder{}
	build := func(c mesh.Client) *envoy.Bundle {
		view, _, _ := snapshot.View(c)
		b, _ := builder.Build(view, nil)
		return b
	}
	func() {
		a, b := build(client), build(second)
		for _, r := range a.List(envoy.Cluster).Resources {
			if other := b.List(envoy.Cluster).Get(r.Name); other != nil && other != r {
				t.Errorf("cluster %s is held twice", r.Name)
			}
		}
		x, y := a.List(envoy.Route).Get("rds_egress_http_80"), b.List(envoy.Route).Get("rds_egress_http_80")
		if !slices.Equal(x.Hosts, y.Hosts) || len(x.Hosts) != 3 || x.Hash != y.Hash {
			t.Errorf("the virtual hosts of a route configuration are held twice, or its hash differs")
		}
		runtime.GC()
		if resources, hosts := builder.Held(); resources < len(a.List(envoy.Cluster).Resources) || hosts < 3 {
			t.Errorf("held: %d resources, %d hosts, less than the bundles have", resources, hosts)
		}
		runtime.KeepAlive(a)
		runtime.KeepAlive(b)
	}()
	for range 100 {
		runtime.GC()
		if resources, hosts := builder.Held(); resources+hosts == 0 {
			return
		}
		runtime.Gosched()
	}
	left, hosts := builder.Held()
	t.Errorf("%d resources and %d hosts are held for nobody", left, hosts)
}

// TestWithHosts composes a route configuration from some of its hosts.
func TestWithHosts(t *testing.T) {
	resources, client, _ := shop(3)
	view, _, _ := mesh.NewSnapshot(1, resources).View(client)
	bundle, _ := new(envoy.Builder).Build(view, nil)
	whole := bundle.List(envoy.Route).Get("rds_egress_http_80")
	want := decoded(t, whole)
	want.VirtualHosts = slices.Delete(want.VirtualHosts, 1, 2)
	part := whole.WithHosts([]*envoy.VirtualHost{whole.Hosts[0], whole.Hosts[2]})
	if got := decoded(t, part); !proto.Equal(got, want) {
		t.Errorf("composed:\n%v\nwant:\n%v", got, want)
	}
	if part.Hash == whole.Hash || part.WithHosts(whole.Hosts).Hash != whole.Hash {
		t.Error("the hash does not follow the hosts")
	}
	wanted := []string{"cds_egress_colors_s0-v1_http_80", "cds_egress_colors_s0-v2_http_80", "cds_egress_colors_s2-v1_http_80", "cds_egress_colors_s2-v2_http_80"}
	if diff := cmp.Diff(wanted, named(part)); diff != "" {
		t.Error(diff)
	}
}

// TestHashesStay pins the hashes of a small bundle: one that moved would send
// everything again to every proxy after an upgrade. Change them only together
// with content, and with a line in the changelog.
func TestHashesStay(t *testing.T) {
	resources, client, _ := shop(1)
	view, _, _ := mesh.NewSnapshot(1, resources).View(client)
	bundle, _ := new(envoy.Builder).Build(view, nil)
	got := map[string]string{}
	for _, of := range []envoy.Type{envoy.Cluster, envoy.Listener, envoy.Route} {
		got[of.URL()] = bundle.List(of).Hash
	}
	want := map[string]string{
		envoy.Cluster.URL():  "163e291426f7cc3ea8b25920a14ad8ab",
		envoy.Listener.URL(): "ca29be615d80925aaa1ca2cff0b30552",
		envoy.Route.URL():    "b7ae8598ea09348772e00fcb49b51fe7",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestAccountsNeverMix builds two accounts' meshes of equal names with one
// builder: each gets what it would get alone.
func TestAccountsNeverMix(t *testing.T) {
	builder := &envoy.Builder{}
	bundles := map[string]*envoy.Bundle{}
	node := func(owner, namespace string) *mesh.View {
		discovery := &api.ServiceDiscovery{AWSCloudMap: &api.AWSCloudMapServiceDiscovery{NamespaceName: namespace, ServiceName: "s"}}
		key := api.Key{Owner: owner, Mesh: "colors", Kind: api.KindVirtualNode, Name: "front"}
		s := mesh.NewSnapshot(1, []*api.Resource{
			{Key: key.MeshKey(), Spec: &api.MeshSpec{}},
			{Key: key, Spec: &api.VirtualNodeSpec{Backends: []api.Backend{{VirtualService: &api.VirtualServiceBackend{VirtualServiceName: "s"}}}}},
			{Key: key.In(api.KindVirtualService, "", "s"), Spec: &api.VirtualServiceSpec{Provider: &api.VirtualServiceProvider{VirtualNode: &api.VirtualNodeServiceProvider{VirtualNodeName: "back"}}}},
			{Key: key.In(api.KindVirtualNode, "", "back"), Spec: &api.VirtualNodeSpec{
				Listeners: []api.Listener{{PortMapping: api.PortMapping{Port: 80, Protocol: api.PortProtocolHTTP}}}, ServiceDiscovery: discovery,
			}},
		})
		view, _, _ := s.View(mesh.Client{Key: key})
		return view
	}
	for _, owner := range []string{"111111111111", "222222222222"} {
		view := node(owner, "namespace of "+owner)
		bundle, problems := builder.Build(view, nil)
		fresh, wanted := new(envoy.Builder).Build(view, nil)
		if diff := cmp.Diff(content(fresh, wanted), content(bundle, problems)); diff != "" {
			t.Errorf("account %s gets something else than alone:\n%s", owner, diff)
		}
		bundles[owner] = bundle
	}
	const name = "cds_egress_colors_back_http_80"
	for owner, bundle := range bundles {
		if q, ok := bundle.List(envoy.Cluster).Get(name).Query(); !ok || q.Namespace != "namespace of "+owner {
			t.Errorf("account %s asks for %+v", owner, q)
		}
	}
}

// TestBuilderInParallel lets goroutines build all clients of a mesh with one
// builder, and again after each of some changes: each gets what it would get
// alone.
func TestBuilderInParallel(t *testing.T) {
	resources, clients := town(20, 5)
	snapshot := mesh.NewSnapshot(1, resources)
	builder := &envoy.Builder{}
	route := &api.Resource{Key: keyOf(api.KindRoute, "s3", "split"), Owner: account}
	bundles := make([]*envoy.Bundle, len(clients))
	for weight := range int64(4) {
		snapshot = reweighted(snapshot, route, 25*weight)
		var all sync.WaitGroup
		got := make([][]string, len(clients))
		for i, c := range clients {
			all.Go(func() {
				view, _, _ := snapshot.View(c)
				bundle, problems := builder.Build(view, bundles[i])
				bundles[i], got[i] = bundle, content(bundle, problems)
			})
		}
		all.Wait()
		for i, c := range clients {
			view, _, _ := snapshot.View(c)
			if diff := cmp.Diff(content(new(envoy.Builder).Build(view, nil)), got[i]); diff != "" {
				t.Errorf("%v: %s", c.Key, diff)
			}
		}
	}
}
