package main

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/evermesh/evermesh/internal/ads/adstest"
	"github.com/evermesh/evermesh/internal/api"
)

// makeNode makes a node of a mesh that is found as red, by instances with the attributes.
func makeNode(t *testing.T, p *plane, mesh, name string, port int, attributes ...any) {
	t.Helper()
	found := map[string]any{"namespaceName": "apps", "serviceName": "red"}
	if len(attributes) > 0 {
		found["attributes"] = attributes
	}
	if err := p.call(t.Context(), "CreateVirtualNode", map[string]any{"meshName": mesh, "virtualNodeName": name, "spec": map[string]any{
		"listeners":        []any{map[string]any{"portMapping": map[string]any{"port": port, "protocol": "http"}}},
		"serviceDiscovery": map[string]any{"awsCloudMap": found},
	}}, nil); err != nil {
		t.Fatal(err)
	}
}

func attribute(key, value string) any { return map[string]any{"key": key, "value": value} }

// A proxy that lies about its addresses reaches what its own node is found by, and of that
// nothing that another proxy says is its; the answer says so, and is not that it drained.
func TestWhatADrainReaches(t *testing.T) {
	t.Parallel()
	e, key := newEtcd(t).start(t), masterKey(t)
	p := start(t, t.TempDir(), "--auth", "off", "--etcd-endpoints", e.endpoint, "--master-key-file", key)
	cloudMapMesh(t, p, "red", "other")
	r := newRegistrar(t, p)
	red := r.service("red")
	for id, address := range map[string]string{"one": "10.0.0.1", "two": "10.0.0.2", "three": "10.0.0.3"} {
		r.register(red, id, address)
	}
	front := p.proxyOf(t, "front", "f-1", true)
	const all = "10.0.0.1:9080 10.0.0.2:9080 10.0.0.3:9080"
	front.Wait(t, all, func() bool { return instancesOf(t, front, "red") == all })
	if err := p.call(t.Context(), "CreateMesh", map[string]any{"meshName": "evil"}, nil); err != nil {
		t.Fatal(err)
	}
	makeNode(t, p, "evil", "e", 8080, attribute("x", "y"))
	makeNode(t, p, "evil", "same", 8080)
	connect := func(t *testing.T, node, instance string, addresses ...string) {
		t.Helper()
		adstest.Connect(t, adstest.Dial(t, p.xds(t)), adstest.Options{Node: node, Instance: instance, Delta: true, Addresses: addresses})
		p.known(t, instance)
	}
	connect(t, "mesh/shop/virtualNode/red", "r-1", "10.0.0.1/24")
	for name, test := range map[string]struct {
		node, address, says string
	}{
		"of a node that is found by other instances":   {"mesh/evil/virtualNode/e", "10.0.0.1/24", "it tells 10.0.0.1, and the node's endpoints are none."},
		"of another node's proxy":                      {"mesh/evil/virtualNode/same", "10.0.0.1/24", "proxy r-1 tells 10.0.0.1, too"},
		"of its sibling":                               {"mesh/shop/virtualNode/red", "10.0.0.1/24", "proxy r-1 tells 10.0.0.1, too"},
		"that clients do not have, as behind a bridge": {"mesh/shop/virtualNode/red", "172.17.0.3/16", "it tells 172.17.0.3, and the node's endpoints are 10.0.0.1:9080, 10.0.0.2:9080, 10.0.0.3:9080."},
	} {
		t.Run("an address "+name, func(t *testing.T) {
			liar := "liar, " + name // those of the other cases are listed for a while
			connect(t, test.node, liar, test.address)
			status, out, body := p.drain(t, http.MethodPut, url.PathEscape(liar))
			if status != http.StatusOK || out.Status != api.DrainStatusNothingToDo || len(out.Addresses) > 0 || !strings.Contains(out.Message, test.says) {
				t.Errorf("%d %s", status, body)
			}
			if got := instancesOf(t, front, "red"); got != all || p.known(t, liar).DrainingSince != nil {
				t.Errorf("clients have %s", got)
			}
		})
	}
	t.Run("replicas of two nodes on one host have a port each", func(t *testing.T) {
		makeNode(t, p, "shop", "red-too", 9080)
		r.register(red, "host", "10.0.0.7")
		r.registerAt(red, "host-too", "10.0.0.7", "8080")
		const both = "10.0.0.1:9080 10.0.0.2:9080 10.0.0.3:9080 10.0.0.7:8080 10.0.0.7:9080"
		front.Wait(t, both, func() bool { return instancesOf(t, front, "red") == both })
		connect(t, "mesh/shop/virtualNode/red", "h-1", "10.0.0.7/24")
		connect(t, "mesh/shop/virtualNode/red-too", "h-2", "10.0.0.7/24")
		if status, out, body := p.drain(t, http.MethodPut, "h-2"); status != http.StatusOK || out.Status != api.DrainStatusDrained {
			t.Fatalf("%d %s", status, body)
		}
		if got, want := instancesOf(t, front, "red"), strings.Replace(both, " 10.0.0.7:9080", "", 1); got != want {
			t.Errorf("clients have %s, want %s", got, want)
		}
	})
}

// Clients of another node that is found by the same instances are waited for, too: they
// have the endpoint as those of the proxy's node have it. Where no instance can be of
// both they are not.
func TestClientsOfAllNodesOfAService(t *testing.T) {
	t.Parallel()
	e, key := newEtcd(t).start(t), masterKey(t)
	p := start(t, t.TempDir(), "--auth", "off", "--etcd-endpoints", e.endpoint, "--master-key-file", key)
	cloudMapMesh(t, p, "red")
	r := newRegistrar(t, p)
	red := r.service("red")
	r.register(red, "one", "10.0.0.1")
	r.register(red, "two", "10.0.0.2")
	makeNode(t, p, "shop", "v1", 8080, attribute("AWS_INSTANCE_PORT", "9080"))
	makeNode(t, p, "shop", "v2", 8080, attribute("AWS_INSTANCE_PORT", "9081"))
	for _, node := range []string{"v1", "v2"} {
		if err := p.call(t.Context(), "CreateVirtualService", map[string]any{"meshName": "shop", "virtualServiceName": node + ".local", "spec": map[string]any{
			"provider": map[string]any{"virtualNode": map[string]any{"virtualNodeName": node}},
		}}, nil); err != nil {
			t.Fatal(err)
		}
		if err := p.call(t.Context(), "CreateVirtualNode", map[string]any{"meshName": "shop", "virtualNodeName": "front-" + node, "spec": map[string]any{
			"backends": []any{map[string]any{"virtualService": map[string]any{"virtualServiceName": node + ".local"}}},
		}}, nil); err != nil {
			t.Fatal(err)
		}
	}
	other := p.proxyOf(t, "front-v1", "f-v1", true)
	none := p.proxyOf(t, "front-v2", "f-v2", true)
	const all = "10.0.0.1:9080 10.0.0.2:9080"
	other.Wait(t, all, func() bool { return instancesOf(t, other, "v1") == all })
	none.Wait(t, "no instance", func() bool { return instancesOf(t, none, "v2") == "" })
	p.proxyOf(t, "red", "r-1", true, "10.0.0.1/24")
	p.known(t, "r-1")
	p.known(t, "f-v1")
	p.known(t, "f-v2")
	silence(t, other)
	_, out, body := p.drain(t, http.MethodPut, "r-1")
	if out.Status != api.DrainStatusTimedOut || out.Clients != 1 || out.ClientsWaiting != 1 {
		t.Errorf("with a silent client of another node: %s", body)
	}
	if got := instancesOf(t, other, "v1"); got != "10.0.0.2:9080" && got != all {
		t.Errorf("the client of v1 has %s", got)
	}
}

// Two proxies may be called the same: each is drained by who may have its configuration.
func TestAnInstanceThatAnotherClaims(t *testing.T) {
	t.Parallel()
	e, key := newEtcd(t).start(t), masterKey(t)
	p := start(t, t.TempDir(), "--auth", "off", "--etcd-endpoints", e.endpoint, "--master-key-file", key)
	cloudMapMesh(t, p, "red", "other")
	r := newRegistrar(t, p)
	red := r.service("red")
	r.register(red, "one", "10.0.0.1")
	r.register(red, "two", "10.0.0.2")
	p.proxyOf(t, "red", "twin", true, "10.0.0.1/24")
	p.known(t, "twin")
	p.proxyOf(t, "other", "twin", true, "10.9.0.1/24")
	eventually(t, "both are listed", func() bool {
		var out api.ListProxiesOutput
		if err := p.call(t.Context(), "ListProxies", map[string]any{}, &out); err != nil {
			t.Fatal(err)
		}
		return len(out.Proxies) == 2
	})
	if status, _, body := p.drain(t, http.MethodPut, "twin"); status != http.StatusBadRequest || !strings.Contains(body, "say with resourceArn") {
		t.Errorf("without a word of which: %d %s", status, body)
	}
	for _, of := range []string{"mesh%2Fshop%2FvirtualNode%2Fred", "arn:aws:appmesh:us-east-1:000000000000:mesh%2Fshop%2FvirtualNode%2Fred"} {
		if status, out, body := p.drainOf(t, http.MethodPut, "twin", of); status != http.StatusOK || out.Status != api.DrainStatusDrained {
			t.Errorf("%s: %d %s", of, status, body)
		}
	}
}
