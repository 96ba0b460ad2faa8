package main

import (
	"encoding/json"
	"net/http/httptest"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/evermesh/evermesh/internal/ads/adstest"
	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/client"
	"github.com/evermesh/evermesh/internal/discovery/cloudmap/cloudmaptest"
	"github.com/evermesh/evermesh/internal/store"
)

// cloudMapMesh makes a mesh in which front calls a node for each of the services,
// whose instances are in Cloud Map.
func cloudMapMesh(t *testing.T, p *plane, services ...string) {
	t.Helper()
	call := func(operation string, in any) {
		t.Helper()
		if err := p.call(t.Context(), operation, in, nil); err != nil {
			t.Fatal(err)
		}
	}
	call("CreateMesh", api.CreateMeshInput{MeshName: "shop"})
	var backends []any
	for _, s := range services {
		call("CreateVirtualNode", map[string]any{"meshName": "shop", "virtualNodeName": s, "spec": map[string]any{
			"listeners":        []any{map[string]any{"portMapping": map[string]any{"port": 8080, "protocol": "http"}}},
			"serviceDiscovery": map[string]any{"awsCloudMap": map[string]any{"namespaceName": "apps", "serviceName": s}},
		}})
		call("CreateVirtualService", map[string]any{"meshName": "shop", "virtualServiceName": s + ".local", "spec": map[string]any{
			"provider": map[string]any{"virtualNode": map[string]any{"virtualNodeName": s}},
		}})
		backends = append(backends, map[string]any{"virtualService": map[string]any{"virtualServiceName": s + ".local"}})
	}
	call("CreateVirtualNode", map[string]any{"meshName": "shop", "virtualNodeName": "front", "spec": map[string]any{"backends": backends}})
}

// front connects a proxy of the node front.
func front(t *testing.T, p *plane) *adstest.Proxy {
	t.Helper()
	facts, err := client.ReadFacts(p.dir)
	if err != nil {
		t.Fatal(err)
	}
	conn := adstest.Dial(t, strings.TrimPrefix(facts.XDSEndpoint, "http://"))
	return adstest.Connect(t, conn, adstest.Options{Node: "mesh/shop/virtualNode/front", Delta: true, Instance: t.Name()})
}

// instancesOf are the endpoints that a proxy has of a node: "?" when it was told
// nothing.
func instancesOf(t *testing.T, proxy *adstest.Proxy, node string) string {
	t.Helper()
	set := proxy.Endpoints(t)["cds_egress_shop_"+node+"_http_8080"]
	if set == nil {
		return "?"
	}
	var out []string
	for _, l := range set.Endpoints {
		for _, e := range l.LbEndpoints {
			at := e.GetEndpoint().GetAddress().GetSocketAddress()
			out = append(out, at.GetAddress()+":"+strconv.Itoa(int(at.GetPortValue())))
		}
	}
	return strings.Join(out, " ")
}

// remembers waits until the control plane has stored a set of endpoints with the address,
// which it tries again where its store is slow.
func remembers(t *testing.T, p *plane, address string) {
	t.Helper()
	s, err := store.Open(t.Context(), store.Options{DataDir: p.dir, Prefix: "/evermesh", Attach: true, Timeout: within})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the endpoints are remembered", func() bool {
		sets, err := s.Read(t.Context(), "endpoints/")
		if err != nil {
			t.Fatal(err)
		}
		for _, set := range sets {
			if strings.Contains(string(set), address) {
				return true
			}
		}
		return false
	})
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// The source's settings reach it, and what it finds reaches proxies; a control
// plane that starts while Cloud Map is silent goes on with what was known, and
// what is known nowhere is an empty set after a while (D6.4).
func TestCloudMap(t *testing.T) {
	t.Parallel()
	registry := cloudmaptest.New()
	server := httptest.NewServer(registry)
	defer server.Close()
	dir, env := t.TempDir(), []string{"AWS_ACCESS_KEY_ID=key", "AWS_SECRET_ACCESS_KEY=secret"}
	arguments := []string{"--auth", "off", "--cloudmap-endpoint", server.URL, "--cloudmap-poll", "100ms"}
	p := startWith(t, dir, env, arguments...)
	cloudMapMesh(t, p, "red", "late")
	registry.Set("apps", "red", cloudmaptest.At("10.0.0.1", "9080"))

	t.Run("DISC-010 DISC-001 DISC-006 instances reach a proxy, and no role is needed", func(t *testing.T) {
		proxy := front(t, p)
		proxy.Wait(t, "the first instance", func() bool { return instancesOf(t, proxy, "red") == "10.0.0.1:9080" })
		registry.Set("apps", "red", cloudmaptest.At("10.0.0.1", "9080"), cloudmaptest.At("10.0.0.2", "9080"))
		proxy.Wait(t, "the second instance", func() bool { return instancesOf(t, proxy, "red") == "10.0.0.1:9080 10.0.0.2:9080" })

		remembers(t, p, "10.0.0.2")

		// Errors take nothing back, are said, and show as age.
		registry.Fail(cloudmaptest.Refusal(500, "InternalFailure"))
		eventually(t, "the age grows", func() bool {
			_, text := p.get(t, "/metrics")
			found := regexp.MustCompile(`(?m)^evermesh_endpoints_age_seconds (\S+)`).FindStringSubmatch(text)
			if found == nil {
				t.Fatalf("no such metric:\n%s", text)
			}
			age, err := strconv.ParseFloat(found[1], 64)
			return err == nil && age > 1
		})
		if got := instancesOf(t, proxy, "red"); got != "10.0.0.1:9080 10.0.0.2:9080" {
			t.Errorf("while Cloud Map fails the proxy has %q", got)
		}
		if said := p.said(t); !strings.Contains(said, "endpoints cannot be looked up: those that are known stay") || strings.Count(said, "\n") > 40 {
			t.Errorf("the log:\n%s", said)
		}
	})
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-p.ended

	registry.Fail(cloudmaptest.Silence)
	again := startWith(t, dir, env, arguments...)
	eventually(t, "it is ready although Cloud Map is silent", func() bool {
		status, _ := again.get(t, "/readyz")
		return status == 200
	})
	proxy := front(t, again)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("red has %q, late has %q\n%s", instancesOf(t, proxy, "red"), instancesOf(t, proxy, "late"), again.said(t))
		}
	})
	proxy.Wait(t, "what was known before", func() bool { return instancesOf(t, proxy, "red") == "10.0.0.1:9080 10.0.0.2:9080" })
	proxy.Wait(t, "an empty set for what is known nowhere", func() bool { return instancesOf(t, proxy, "late") == "" })
	// What was known did not wait for that, and that did not come at once.
	var sets []string
	for _, r := range proxy.Responses() {
		if strings.HasPrefix(r, "eds ") {
			sets = append(sets, r)
		}
	}
	if want := []string{"eds cds_egress_shop_red_http_8080", "eds cds_egress_shop_late_http_8080"}; !slices.Equal(sets, want) {
		t.Errorf("endpoint sets came as %q, want %q", sets, want)
	}
	eventually(t, "the ledger names it", func() bool {
		var out api.ListProxiesOutput
		if err := again.call(t.Context(), "ListProxies", map[string]any{}, &out); err != nil {
			t.Fatal(err)
		}
		text, err := json.Marshal(out)
		return err == nil && strings.Contains(string(text), "Endpoints of cds_egress_shop_late_http_8080 are not known")
	})
	registry.Set("apps", "late", cloudmaptest.At("10.0.0.9", "80"))
	registry.Fail(nil)
	proxy.Wait(t, "the instance, when Cloud Map answers again", func() bool { return instancesOf(t, proxy, "late") == "10.0.0.9:80" })
}
