package envoy_test

import (
	"runtime"
	"slices"
	"testing"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/envoy"
	"github.com/evermesh/evermesh/internal/mesh"
)

// TestHostsWhateverThePolicy builds two clients with the same backends and
// certificates of their own: their clusters are others, what leads there is made
// once, and nothing of it is kept for bundles that are gone.
func TestHostsWhateverThePolicy(t *testing.T) {
	resources, client, _ := shop(3)
	second := mesh.Client{Key: keyOf(api.KindVirtualNode, "", "second")}
	for _, r := range resources {
		if r.Key == client.Key {
			spec := *r.VirtualNodeSpec()
			spec.Listeners = slices.Clone(spec.Listeners)
			resources = append(resources, &api.Resource{Key: second.Key, Owner: account, Spec: &spec})
			break
		}
	}
	for _, r := range resources {
		if r.VirtualNodeSpec() != nil {
			ownCertificate(r)
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
		if callees, served := builder.Callees(); callees != 6 || served != 3 {
			t.Errorf("%d callees of %d services, want 6 of 3", callees, served)
		}
		const cluster, config = "cds_egress_colors_s0-v1_http_80", "rds_egress_http_80"
		if x, y := a.List(envoy.Cluster).Get(cluster), b.List(envoy.Cluster).Get(cluster); x == nil || y == nil || x.Hash == y.Hash {
			t.Errorf("cluster %s: %v and %v, want two", cluster, x, y)
		}
		if x, y := a.List(envoy.Route).Get(config), b.List(envoy.Route).Get(config); len(x.Hosts) != 3 || !slices.Equal(x.Hosts, y.Hosts) {
			t.Errorf("hosts: %v and %v, want the same three", x.Hosts, y.Hosts)
		}
		runtime.KeepAlive(a)
		runtime.KeepAlive(b)
	}()
	for range 100 {
		runtime.GC()
		if callees, served := builder.Callees(); callees+served == 0 {
			return
		}
		runtime.Gosched()
	}
	callees, served := builder.Callees()
	t.Errorf("%d callees of %d services are held for nobody", callees, served)
}
