package main

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/ads/adstest"
	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/client"
)

// xds is where a control plane's streams are, in plaintext.
func (p *plane) xds(t *testing.T) string {
	t.Helper()
	facts, err := client.ReadFacts(p.dir)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimPrefix(facts.XDSEndpoint, "http://")
}

// proxyOf connects a proxy that says where it is.
func (p *plane) proxyOf(t *testing.T, node, instance string, delta bool, addresses ...string) *adstest.Proxy {
	t.Helper()
	return adstest.Connect(t, adstest.Dial(t, p.xds(t)), adstest.Options{Node: "mesh/shop/virtualNode/" + node, Instance: instance, Delta: delta, Addresses: addresses})
}

// drain asks on the port of the streams.
func (p *plane) drain(t *testing.T, method, instance string) (status int, out api.Drain, body string) {
	t.Helper()
	return p.drainOf(t, method, instance, "")
}

// drainOf also says of which node, in a query's words, as an agent does.
func (p *plane) drainOf(t *testing.T, method, instance, arn string) (status int, out api.Drain, body string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, "http://"+p.xds(t)+"/evermesh/v1/proxies/"+instance+"/drain?resourceArn="+arn, nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &out); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return answer.StatusCode, out, string(text)
}

// known waits until a replica lists the proxy.
func (p *plane) known(t *testing.T, instance string) (found api.Proxy) {
	t.Helper()
	eventually(t, "proxy "+instance+" is listed", func() bool {
		var out api.ListProxiesOutput
		if err := p.call(t.Context(), "ListProxies", map[string]any{}, &out); err != nil {
			t.Fatal(err)
		}
		for _, x := range out.Proxies {
			if x.Instance == instance {
				found = x
				return true
			}
		}
		return false
	})
	return found
}

// silence makes a proxy not answer endpoint sets until the test ends.
func silence(t *testing.T, p *adstest.Proxy) {
	t.Helper()
	open := make(chan struct{})
	t.Cleanup(sync.OnceFunc(func() { close(open) }))
	p.SetRefuse(func(r adstest.Response) string {
		if r.Type == adstest.EDS {
			<-open
		}
		return ""
	})
}

// A proxy that drains leaves the endpoints of all clients, at whichever replica it and
// they are; the answer comes when they have followed, or says who has not.
func TestDrain(t *testing.T) {
	t.Parallel()
	e, key := newEtcd(t).start(t), masterKey(t)
	replica := func() *plane {
		return start(t, t.TempDir(), "--auth", "off", "--etcd-endpoints", e.endpoint, "--master-key-file", key)
	}
	first, second := replica(), replica()
	cloudMapMesh(t, first, "red", "other")
	r := newRegistrar(t, first)
	red, other := r.service("red"), r.service("other")
	for id, address := range map[string]string{"one": "10.0.0.1", "two": "10.0.0.2", "three": "10.0.0.3"} {
		r.register(red, id, address)
	}
	r.register(other, "one", "10.0.0.1") // another network's
	clients := map[string]*adstest.Proxy{"delta": first.proxyOf(t, "front", "f-1", true), "state of the world": second.proxyOf(t, "front", "f-2", false)}
	expect := func(want string) {
		t.Helper()
		for name, p := range clients {
			p.Wait(t, name+" has "+want, func() bool { return instancesOf(t, p, "red") == want && instancesOf(t, p, "other") == "10.0.0.1:9080" })
		}
	}
	const all = "10.0.0.1:9080 10.0.0.2:9080 10.0.0.3:9080"
	expect(all)
	second.proxyOf(t, "red", "r-2", true, "10.0.0.2/24", "169.254.172.2/22")
	if got := strings.Join(second.known(t, "r-2").Addresses, " "); got != "10.0.0.2" {
		t.Errorf("the proxy's addresses are %s", got)
	}

	whole := t
	t.Run("AGENT-046 BP-001 TRBL-020 the answer comes when no client has the endpoint any more", func(t *testing.T) {
		second.proxyOf(t, "red", "r-1", true, "10.0.0.1/24") // it ends with this test
		first.known(t, "r-1")
		began := time.Now()
		status, out, body := first.drain(t, http.MethodPut, "r-1")
		t.Logf("drained, over two replicas, after %v", time.Since(began))
		if status != http.StatusOK || out.Status != api.DrainStatusDrained || out.Clients != 3 || out.ClientsWaiting != 0 {
			t.Fatalf("%d %s", status, body) // its sibling reads the node, too
		}
		for name, p := range clients {
			if got := instancesOf(t, p, "red"); got != "10.0.0.2:9080 10.0.0.3:9080" {
				t.Errorf("%s has %s when the answer comes", name, got)
			}
		}
		if first.known(t, "r-1").DrainingSince == nil || second.known(t, "r-1").DrainingSince == nil || second.known(t, "r-2").DrainingSince != nil {
			t.Error("the list of proxies does not tell who drains")
		}
		if status, again, body := second.drain(t, http.MethodPut, "r-1"); status != http.StatusOK || again.Status != api.DrainStatusDrained {
			t.Errorf("once more: %d %s", status, body)
		}
	})
	t.Run("a person drains and resumes through the API", func(t *testing.T) {
		var drained api.DrainProxyOutput
		if err := first.call(t.Context(), "DrainProxy", map[string]any{"instance": "r-2"}, &drained); err != nil || drained.Drain.Status != api.DrainStatusDrained {
			t.Fatalf("%+v, %v", drained, err)
		}
		expect("10.0.0.3:9080")
		var resumed api.ResumeProxyOutput
		if err := second.call(t.Context(), "ResumeProxy", map[string]any{"instance": "r-2"}, &resumed); err != nil || resumed.Drain.Status != api.DrainStatusResumed {
			t.Fatalf("%+v, %v", resumed, err)
		}
		expect("10.0.0.2:9080 10.0.0.3:9080")
		if _, out, body := second.drain(t, http.MethodDelete, "r-2"); out.Status != api.DrainStatusNothingToDo {
			t.Errorf("resumed twice: %s", body)
		}
	})
	t.Run("BP-004 a restart at the same address is served again at once", func(t *testing.T) {
		first.proxyOf(whole, "red", "r-1-again", true, "10.0.0.1/24")
		expect(all)
	})
	t.Run("what drained stays out when the rest drains, and the last one stays in", func(t *testing.T) {
		second.proxyOf(t, "red", "r-3", true, "10.0.0.3/24")
		second.known(t, "r-3")
		for _, instance := range []string{"r-1-again", "r-3"} {
			if _, out, body := first.drain(t, http.MethodPut, instance); out.Status != api.DrainStatusDrained {
				t.Fatalf("%s: %s", instance, body)
			}
		}
		expect("10.0.0.2:9080")
		answered := make(chan api.Drain, 1)
		var asking sync.WaitGroup
		t.Cleanup(asking.Wait)
		asking.Go(func() {
			var out api.DrainProxyOutput
			if err := second.call(t.Context(), "DrainProxy", map[string]any{"instance": "r-2"}, &out); err != nil {
				t.Error(err)
			}
			answered <- out.Drain
		})
		eventually(t, "the last one drains", func() bool { return first.known(t, "r-2").DrainingSince != nil })
		expect("10.0.0.2:9080")
		r.register(red, "four", "10.0.0.4")
		expect("10.0.0.4:9080")
		if out := <-answered; out.Status != api.DrainStatusDrained {
			t.Errorf("with another one there: %+v", out)
		}
	})
	t.Run("a silent client is waited for 10 s", func(t *testing.T) {
		second.proxyOf(t, "red", "r-4", true, "10.0.0.4/24")
		second.known(t, "r-4")
		silent := first.proxyOf(t, "front", "f-silent", true)
		silent.Wait(t, "its endpoints", func() bool { return instancesOf(t, silent, "red") == "10.0.0.4:9080" })
		first.known(t, "f-silent")
		r.register(red, "five", "10.0.0.5")
		expect("10.0.0.4:9080 10.0.0.5:9080")
		silence(t, silent)
		began := time.Now()
		_, out, body := second.drain(t, http.MethodPut, "r-4")
		if took := time.Since(began); took < 10*time.Second || out.Status != api.DrainStatusTimedOut || out.ClientsWaiting != 1 ||
			!strings.Contains(out.Message, "1 of 5 clients have not acknowledged") {
			t.Errorf("after %v: %s", took, body)
		}
		expect("10.0.0.5:9080")
	})
	t.Run("what nobody is sent is told", func(t *testing.T) {
		if err := first.call(t.Context(), "CreateVirtualNode", map[string]any{"meshName": "shop", "virtualNodeName": "named", "spec": map[string]any{
			"listeners":        []any{map[string]any{"portMapping": map[string]any{"port": 8080, "protocol": "http"}}},
			"serviceDiscovery": map[string]any{"dns": map[string]any{"hostname": "named.apps"}},
		}}, nil); err != nil {
			t.Fatal(err)
		}
		first.proxyOf(t, "named", "n-1", true, "10.0.0.7/24")
		first.proxyOf(t, "red", "r-nowhere", true)
		first.known(t, "n-1")
		first.known(t, "r-nowhere")
		for instance, want := range map[string]string{"n-1": "by DNS, as named.apps", "r-nowhere": "told no address"} {
			if status, out, body := second.drain(t, http.MethodPut, instance); status != http.StatusOK || out.Status != api.DrainStatusNothingToDo || !strings.Contains(out.Message, want) {
				t.Errorf("%s: %d %s", instance, status, body)
			}
		}
		if status, _, body := second.drain(t, http.MethodPut, "nobody"); status != http.StatusNotFound || !strings.Contains(body, `No proxy \"nobody\" of yours is connected.`) {
			t.Errorf("nobody: %d %s", status, body)
		}
	})
}
