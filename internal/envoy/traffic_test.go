package envoy_test

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/evermesh/evermesh/internal/envoy"
	"github.com/evermesh/evermesh/internal/envoy/envoytest"
	"github.com/evermesh/evermesh/internal/testenv"
)

// bundleOf is what a client of a case gets.
func bundleOf(t *testing.T, file, client string) *envoy.Bundle {
	t.Helper()
	return envoytest.BundleOf(t, file, client)
}

// expectation is a request and where it must arrive, or how it is refused.
type expectation struct {
	ask
	// node is the target's name in cluster cds_egress_colors_<node>_...; empty
	// when Envoy answers by itself with status.
	node         string
	status       int
	asHost, asAt string // host and path on arrival; empty when not looked at
}

func (e *realEnvoy) expect(t *testing.T, config string, x expectation) {
	t.Helper()
	status, got, _ := e.do(t, config, x.ask)
	what := fmt.Sprintf("%s %s%s [%s]", cmp.Or(x.method, "GET"), x.host, x.path, x.header)
	switch {
	case x.node == "":
		if status != x.status {
			t.Errorf("%s: status %d, want %d", what, status, x.status)
		}
	case got == nil:
		t.Errorf("%s: status %d, want it to arrive at %s", what, status, x.node)
	case !strings.HasPrefix(got.Cluster, "cds_egress_colors_"+x.node+"_"):
		t.Errorf("%s: arrived at %s, want %s", what, got.Cluster, x.node)
	case x.asHost != "" && got.Host != x.asHost:
		t.Errorf("%s: arrived with host %q, want %q", what, got.Host, x.asHost)
	case x.asAt != "" && got.Path != x.asAt:
		t.Errorf("%s: arrived as %q, want %q", what, got.Path, x.asAt)
	}
}

const (
	webMatches = "traffic_routes"
	webConfig  = "rds_egress_http_9080"
	rpcConfig  = "rds_egress_grpc_50051"
	h2Config   = "rds_egress_http2_9443"
)

// TestRouting sends requests through a real Envoy that has a node's routes.
func TestRouting(t *testing.T) {
	t.Parallel()
	e := run(t, bundleOf(t, webMatches, "virtualNode/front"))
	web := func(path, header, node string) expectation {
		return expectation{ask: ask{host: "web.local", path: path, header: header}, node: node}
	}
	rpc := func(path, header, node string) expectation {
		return expectation{ask: ask{method: "POST", host: "rpc.local", path: path, header: header, http2: true}, node: node}
	}
	for _, test := range []struct {
		name   string
		config string
		want   []expectation
	}{
		{"RT-001 RT-015 RT-044 prefix is a plain prefix of the path", webConfig, []expectation{
			web("/", "", "rest"), web("/anything", "", "rest"), web("/metrics", "", "metrics"),
			web("/metrics/cpu", "", "metrics"), web("/metricsX", "", "metrics"), web("/metric", "", "rest"),
		}},
		{"RT-005 lower priority first, whatever the length", webConfig, []expectation{
			web("/first/and/longest", "", "first"), web("/first", "", "first"),
		}},
		{"RT-016 host and path stay as they are", webConfig, []expectation{
			{ask: ask{host: "web.local:9080", path: "/metrics?x=1"}, node: "metrics", asHost: "web.local:9080", asAt: "/metrics?x=1"},
		}},
		{"RT-017 paths are normalised before they are matched", webConfig, []expectation{
			web("//metrics/./cpu", "", "metrics"), web("/x/../metrics", "", "metrics"), web("/%2Fmetrics", "", "rest"),
		}},
		{"RT-018 exact matches the whole path alone", webConfig, []expectation{
			web("/exact", "", "exact"), web("/exact?q=1", "", "exact"), web("/exact/", "", "rest"), web("/exactly", "", "rest"),
		}},
		{"RT-019 a pattern matches the whole path", webConfig, []expectation{
			web("/items/42", "", "regex"), web("/items/42/x", "", "rest"), web("/pre/items/42", "", "rest"),
		}},
		{"RT-022 every kind of header match", webConfig, []expectation{
			web("/h/exact", "x-a: abc", "header"), web("/h/exact", "x-a: abcd", "rest"), web("/h/exact", "", "rest"),
			web("/h/prefix", "x-a: abc", "header"), web("/h/prefix", "x-a: cab", "rest"),
			web("/h/suffix", "x-a: cab", "header"), web("/h/suffix", "x-a: abc", "rest"),
			web("/h/regex", "x-a: aaa", "header"), web("/h/regex", "x-a: aab", "rest"),
			web("/h/range", "x-a: 9", "header"), web("/h/range", "x-a: 10", "rest"), web("/h/range", "x-a: one", "rest"),
			web("/h/present", "x-a: any", "header"), web("/h/present", "", "rest"),
			web("/h/absent", "", "header"), web("/h/absent", "x-a: any", "rest"),
		}},
		{"RT-023 RT-024 an inverted prefix", webConfig, []expectation{
			web("/h/inverted", "clientRequestId: 456", "header"), web("/h/inverted", "clientRequestId: 1234", "rest"),
			web("/h/inverted", "", "rest"),
		}},
		{"RT-013 method and query parameters", webConfig, []expectation{
			{ask: ask{method: "POST", host: "web.local", path: "/q?debug=1&trace=x"}, node: "query"},
			web("/q?debug=1&trace=x", "", "rest"),
			{ask: ask{method: "POST", host: "web.local", path: "/q?debug=2&trace=x"}, node: "rest"},
			{ask: ask{method: "POST", host: "web.local", path: "/q?debug=1"}, node: "rest"},
		}},
		{"RT-014 http2 routes match the scheme", h2Config, []expectation{
			{ask: ask{host: "h2.local", path: "/", http2: true}, node: "h2-plain"},
			{ask: ask{host: "h2.local", path: "/", header: "x-forwarded-proto: https"}, node: "h2-tls"}, // over HTTP/1.1 the scheme is what this header says
		}},
		{"RT-025 gRPC by service and method", rpcConfig, []expectation{
			rpc("/color.Color/Set", "", "rpc-set"), rpc("/color.Color/Get", "", "rpc-color"), rpc("/other.Other/Set", "", "rpc-rest"),
		}},
		{"RT-027 RT-028 gRPC metadata, all of it", rpcConfig, []expectation{
			rpc("/meta.Meta/Call", "tenant: a; number: 124", "rpc-meta"), rpc("/meta.Meta/Call", "tenant: b; number: 124", "rpc-rest"),
			rpc("/meta.Meta/Call", "tenant: a; number: 123", "rpc-rest"), rpc("/meta.Meta/Call", "tenant: a; number: 1234", "rpc-meta"),
		}},
		{"EMS-032 by Host and port, in any case of letters", webConfig, []expectation{
			{ask: ask{host: "WEB.local", path: "/"}, node: "rest"},
			{ask: ask{host: "other.local", path: "/"}, node: "other"},
			{ask: ask{host: "unknown.local", path: "/"}, status: 404},
			{ask: ask{host: "web.local:1", path: "/"}, status: 404},
		}},
		{"VS-005 VS-010 VN-024 a service leads to its provider, node or router", webConfig, []expectation{
			{ask: ask{host: "other.local", path: "/"}, node: "other"},
			{ask: ask{host: "other.local", path: "/metrics"}, node: "other"},
			web("/metrics", "", "metrics"), web("/", "", "rest"),
		}},
		{"VR-001 one router behind two services", webConfig, []expectation{
			{ask: ask{host: "alias.local", path: "/metrics"}, node: "metrics"}, {ask: ask{host: "alias.local", path: "/"}, node: "rest"},
		}},
		{"MESH-012 a service with no node behind it carries nothing", webConfig, []expectation{
			{ask: ask{host: "empty.local", path: "/"}, status: 404}, {ask: ask{host: "routeless.local", path: "/"}, status: 404},
		}},
		{"a node without endpoints answers 503", webConfig, []expectation{
			{ask: ask{host: "silent.local", path: "/"}, status: 503},
		}},
		{"VR-010 a router without routes answers 404", webConfig, []expectation{
			{ask: ask{host: "routeless.local", path: "/"}, status: 404},
		}},
		{"RT-008 weights of 0 answer 503", webConfig, []expectation{
			{ask: ask{host: "web.local", path: "/nothing"}, status: 503},
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, x := range test.want {
				e.expect(t, test.config, x)
			}
		})
	}
	for name, path := range map[string]string{"RT-009 weights 75 and 25": "/split", "RT-008 weights 3 and 1 are relative": "/relative"} {
		t.Run(name, func(t *testing.T) {
			const n = 4400
			count := map[string]int{}
			for range n {
				_, got, _ := e.do(t, webConfig, ask{host: "web.local", path: path})
				if got == nil {
					t.Fatal("a request failed")
				}
				count[got.Cluster]++
			}
			share := float64(count["cds_egress_colors_rest_http_9080"]) / n
			// Six standard deviations of a binomial share.
			if bound := 6 * math.Sqrt(0.75*0.25/n); math.Abs(share-0.75) > bound || len(count) != 2 {
				t.Errorf("%.3f of the requests went to the first target, want 0.75 ± %.3f: %v", share, bound, count)
			}
		})
	}
	t.Run("RT-007 a target's port chooses its listener", func(t *testing.T) {
		_, got, _ := e.do(t, webConfig, ask{host: "web.local", path: "/ported"})
		if got == nil || got.Cluster != "cds_egress_colors_rest_http_9081" {
			t.Errorf("arrived %+v, want at the listener on 9081", got)
		}
	})
	t.Run("RT-009 weights 0 and 100 move everything", func(t *testing.T) {
		for range 200 {
			e.expect(t, webConfig, web("/moved", "", "other"))
		}
	})
}

// TestRetriesAndTimeouts counts at which endpoints a request is tried.
func TestRetriesAndTimeouts(t *testing.T) {
	t.Parallel()
	e := run(t, bundleOf(t, webMatches, "virtualNode/front"))
	for _, test := range []struct {
		name   string
		config string
		ask    ask
		tries  int
		status int
	}{
		{"EMS-038 503 is tried three times by default", webConfig, ask{path: "/", header: "x-fail: 503 503"}, 3, 200},
		{"EMS-038 and no more", webConfig, ask{path: "/", header: "x-fail: 503 503 503 503"}, 3, 503},
		{"EMS-038 a reset is tried again by default", webConfig, ask{path: "/", header: "x-fail: reset"}, 2, 200},
		{"EMS-038 500 is not tried again by default", webConfig, ask{path: "/", header: "x-fail: 500"}, 1, 500},
		{"EMS-038 gRPC UNAVAILABLE is tried again by default", rpcConfig, ask{method: "POST", path: "/x.X/Y", http2: true, header: "content-type: application/grpc; x-fail: grpc:14"}, 2, 200},
		{"EMS-038 gRPC INTERNAL is not tried again by default", rpcConfig, ask{method: "POST", path: "/x.X/Y", http2: true, header: "content-type: application/grpc; x-fail: grpc:13"}, 1, 200},
		{"VS-011 a node's service has the default too", webConfig, ask{host: "other.local", path: "/", header: "x-fail: 503 503"}, 3, 200},
		{"RT-031 server-error", webConfig, ask{path: "/retry/server", header: "x-fail: 500 511"}, 3, 200},
		{"RT-031 server-error is not 409", webConfig, ask{path: "/retry/server", header: "x-fail: 409"}, 1, 409},
		{"RT-031 gateway-error", webConfig, ask{path: "/retry/gateway", header: "x-fail: 502 504"}, 3, 200},
		{"RT-031 gateway-error is not 500", webConfig, ask{path: "/retry/gateway", header: "x-fail: 500"}, 1, 500},
		{"RT-031 client-error", webConfig, ask{path: "/retry/client", header: "x-fail: 409"}, 2, 200},
		{"RT-031 stream-error", webConfig, ask{path: "/retry/stream", header: "x-fail: reset"}, 2, 200},
		{"RT-031 stream-error is not 503", webConfig, ask{path: "/retry/stream", header: "x-fail: 503"}, 1, 503},
		{"RT-029 RT-034 five retries", webConfig, ask{path: "/retry/five", header: "x-fail: 500 500 500 500 500"}, 6, 200},
		{"RT-029 no retries", webConfig, ask{path: "/retry/none", header: "x-fail: 503"}, 1, 503},
		{"RT-030 each try is bounded, the first one too", webConfig, ask{path: "/retry/slow", header: "x-wait: 10s"}, 2, 504},
		{"RT-032 a gRPC route with gRPC, http and tcp events", rpcConfig, ask{method: "POST", path: "/retry.Retry/Call", http2: true, header: "content-type: application/grpc; x-fail: grpc:4 500"}, 3, 200},
		{"RT-035 perRequest bounds the request", webConfig, ask{path: "/timeout/short", header: "x-wait: 10s"}, 1, 504},
		{"RT-035 perRequest 0 does not", webConfig, ask{path: "/timeout/off", header: "x-wait: 1s"}, 1, 200},
		{"RT-036 idle bounds a silent stream", webConfig, ask{path: "/timeout/idle", header: "x-wait: 10s"}, 1, 504},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.ask.host = cmp.Or(test.ask.host, map[string]string{webConfig: "web.local", rpcConfig: "rpc.local"}[test.config])
			// Who is to be cut off would be answered before the 15 s of Envoy's own.
			status, _, tries := e.do(t, test.config, test.ask)
			if status != test.status || len(tries) != test.tries {
				t.Errorf("status %d after %d tries, want %d after %d", status, len(tries), test.status, test.tries)
			}
		})
	}
	t.Run("EMS-066 a retry goes to another endpoint", func(t *testing.T) {
		for range 20 {
			_, _, tries := e.do(t, webConfig, ask{host: "web.local", path: "/", header: "x-fail: 503"})
			if len(tries) != 2 || tries[0] == tries[1] {
				t.Fatalf("tried at %v, want both endpoints", tries)
			}
		}
	})
	t.Run("RT-035 without a word a request has 15 s", func(t *testing.T) {
		start := time.Now()
		status, _, _ := e.do(t, webConfig, ask{host: "web.local", path: "/", header: "x-wait: 25s"})
		if took := time.Since(start); status != 504 || took < 14*time.Second {
			t.Errorf("status %d after %v, want 504 after 15 s", status, took)
		}
	})
}

// TestGatewayRouting sends requests through both hops of a gateway in a real
// Envoy.
func TestGatewayRouting(t *testing.T) {
	t.Parallel()
	e := run(t, bundleOf(t, "traffic_gateway", "virtualGateway/ingress"))
	const config = "rds_ingress_http_8080"
	to := func(host, path, header, node, asHost, asAt string) expectation {
		return expectation{ask: ask{host: host, path: path, header: header}, node: node, asHost: asHost, asAt: asAt}
	}
	for _, test := range []struct {
		name string
		want []expectation
	}{
		{"GR-001 VG-004 GR-022 host and prefix are rewritten", []expectation{
			to("example.com", "/chapter/1", "", "blue", "colors.local", "/1"), to("example.com", "/chapter", "", "blue", "colors.local", "/"),
			to("example.com", "/chapter/", "", "blue", "colors.local", "/"),
		}},
		{"GR-027 a prefix is a plain prefix", []expectation{to("example.com", "/chapterX", "", "blue", "colors.local", "/X")}},
		{"GR-009 the longest prefix wins", []expectation{
			to("example.com", "/chapter/long/1", "", "green", "green.local", "/1"), to("example.com", "/other", "", "green", "green.local", "/other"),
		}},
		{"GR-006 lower priority wins over length", []expectation{to("example.com", "/prio/and/longer", "", "green", "green.local", "/and/longer")}},
		{"GR-012 paths are normalised", []expectation{to("example.com", "//chapter/./1", "", "blue", "colors.local", "/1")}},
		{"GR-013 GR-016 exact and patterns, path as it was or as told", []expectation{
			to("example.com", "/one", "", "blue", "colors.local", "/blue/one"), to("example.com", "/one/", "", "green", "green.local", "/one/"),
			to("example.com", "/as-is?q=1", "", "blue", "colors.local", "/as-is?q=1"),
			to("example.com", "/item/7", "", "blue", "colors.local", "/item/7"), to("example.com", "/item/x", "", "green", "green.local", "/item/x"),
		}},
		{"GR-015 prefix kept or replaced", []expectation{
			to("example.com", "/keep/1", "", "blue", "colors.local", "/keep/1"), to("example.com", "/old/1", "", "blue", "colors.local", "/new/1"),
		}},
		{"GR-014 host kept", []expectation{
			to("example.com", "/kept/1", "", "green", "example.com", "/1"), to("example.com:8080", "/kept", "", "green", "example.com:8080", "/"),
		}},
		{"GR-014 a kept host that is another service's name does not lead there", []expectation{
			to("colors.local", "/kept/1", "", "green", "colors.local", "/1"), to("COLORS.local:15001", "/kept/1", "", "green", "COLORS.local:15001", "/1"),
			to("colors.local", "/partly/only", "", "green", "colors.local", "/only"),
			{ask: ask{host: "colors.local", path: "/partly/other"}, status: 404},
			{ask: ask{host: "example.com", path: "/partly/other"}, status: 404},
		}},
		{"GR-014 a kept host of a service with percent signs", []expectation{to("example.com", "/percent/1", "x: y", "green", "example.com", "/1")}},
		{"GR-014 a client's own header chooses nothing", []expectation{
			to("example.com", "/chapter/1", "x-app-mesh-virtual-service: green.local", "blue", "colors.local", "/1"),
			to("example.com", "/kept/1", "x-app-mesh-virtual-service: colors.local", "green", "example.com", "/1"),
			{ask: ask{host: "example.com", path: "/partly/other", header: "x-app-mesh-virtual-service: green.local"}, status: 404},
		}},
		{"GR-018 the router splits what was rewritten", []expectation{
			to("example.com", "/chapter/deep", "", "green", "colors.local", "/deep"), to("example.com", "/chapter/x", "version: 2", "green", "colors.local", "/x"),
		}},
		{"GR-008 hosts, methods, headers, query", []expectation{
			to("shop.example.com", "/", "", "blue", "colors.local", "/"), to("SHOP.example.com", "/", "", "blue", "colors.local", "/"),
			to("x.example.org", "/", "", "blue", "colors.local", "/"),
			to("example.com", "/beta?beta=1", "x-canary: 1", "blue", "colors.local", "/?beta=1"), to("example.com", "/beta?beta=1", "", "green", "green.local", "/beta?beta=1"),
			to("example.com", "/beta?beta=2", "x-canary: 1", "green", "green.local", "/beta?beta=2"),
		}},
		{"GR-023 a port in the host is ignored", []expectation{
			to("shop.example.com:8080", "/", "", "blue", "colors.local", "/"), to("x.example.org:8080", "/", "", "blue", "colors.local", "/"),
		}},
		{"GR-025 a host with routes of its own does not fall back", []expectation{
			{ask: ask{method: "PUT", host: "strict.example.net", path: "/"}, status: 404}, to("strict.example.net", "/", "", "blue", "", ""),
		}},
		{"GR-001 what does not exist answers 503", []expectation{{ask: ask{host: "example.com", path: "/absent"}, status: 503}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, x := range test.want {
				e.expect(t, config, x)
			}
		})
	}
	t.Run("GR-017 gRPC by service, metadata and host", func(t *testing.T) {
		t.Parallel()
		e := run(t, bundleOf(t, "GR-017_gateway_grpc", "virtualGateway/ingress"))
		const config = "rds_ingress_grpc_50050"
		call := func(host, path, header, node, asHost string, status int) expectation {
			return expectation{ask: ask{method: "POST", host: host, path: path, header: header, http2: true}, node: node, asHost: asHost, status: status}
		}
		for _, x := range []expectation{
			call("example.com", "/color.Color/Get", "tenant: a", "rpc", "rpc.local", 0),
			call("example.com", "/color.Color/Get", "tenant: b", "", "", 404),
			call("example.com", "/other.Other/Get", "tenant: a", "", "", 404),
			call("rpc.example.com", "/any.Any/Call", "", "rpc", "rpc.example.com", 0),
		} {
			e.expect(t, config, x)
		}
	})
}

// TestGatewayIdleTimeouts shortens what Envoy waits by itself for a silent
// stream, from five minutes: only where a route says otherwise both hops wait.
func TestGatewayIdleTimeouts(t *testing.T) {
	t.Parallel()
	e := run(t, bundleOf(t, "RT-036_gateway_idle_timeouts", "virtualGateway/ingress"), func(m *hcmv3.HttpConnectionManager) {
		m.StreamIdleTimeout = durationpb.New(400 * time.Millisecond)
	})
	for _, test := range []struct {
		name, path, wait string
		status           int
	}{
		{"RT-036 off", "/never/b", "900ms", 200},
		{"RT-036 an hour", "/hour/a", "900ms", 200},
		{"RT-036 a route without, beside one of an hour", "/hour/b", "10s", 504},
		{"RT-036 none", "/plain/a", "10s", 504},
	} {
		t.Run(test.name, func(t *testing.T) {
			if status, _, _ := e.do(t, "rds_ingress_http_8080", ask{host: "any", path: test.path, header: "x-wait: " + test.wait}); status != test.status {
				t.Errorf("status %d, want %d", status, test.status)
			}
		})
	}
}

// TestListenerTimeouts asks the inbound side of a node (EMS-059).
func TestListenerTimeouts(t *testing.T) {
	t.Parallel()
	e := run(t, bundleOf(t, "traffic_routes", "virtualNode/rest"))
	for _, test := range []struct {
		name, config, wait string
		http2              bool
		status             int
	}{
		{"VN-019 perRequest bounds a request", "rds_ingress_http_9080", "10s", false, 504},
		{"VN-019 perRequest 0 does not", "rds_ingress_http_9081", "1s", false, 200},
		{"VN-020 idle bounds a silent stream", "rds_ingress_http2_9082", "10s", true, 504},
		{"EMS-059 the inbound side is tried once", "rds_ingress_http_9081", "", false, 503},
	} {
		t.Run(test.name, func(t *testing.T) {
			header := "x-wait: " + test.wait
			if test.status == 503 {
				header = "x-fail: 503"
			}
			status, _, tries := e.do(t, test.config, ask{host: "any", path: "/", header: header, http2: test.http2})
			if status != test.status || len(tries) != 1 {
				t.Errorf("status %d after %d tries, want %d after one", status, len(tries), test.status)
			}
		})
	}
}

// TestNumbersWithoutMaximum uses numbers that do not fit Envoy's: none may wrap
// around to a small one.
func TestNumbersWithoutMaximum(t *testing.T) {
	t.Parallel()
	e := run(t, bundleOf(t, "traffic_limits", "virtualNode/front"))
	for _, test := range []struct{ name, config, path string }{
		{"RT-035 RT-036 seconds that overflow", webConfig, "/overflow"},
		{"RT-030 RT-035 RT-036 seconds that would be 290 ms", webConfig, "/wrapped"},
		{"VN-019 VN-020 a listener's", "rds_ingress_http_8080", "/"},
	} {
		t.Run(test.name, func(t *testing.T) {
			status, _, tries := e.do(t, test.config, ask{host: "web.local", path: test.path, header: "x-wait: 800ms"})
			if status != 200 || len(tries) != 1 {
				t.Errorf("status %d after %d tries, want 200 after one", status, len(tries))
			}
		})
	}
	t.Run("RT-029 more retries than 32 bits hold", func(t *testing.T) {
		status, _, tries := e.do(t, webConfig, ask{host: "web.local", path: "/retried", header: "x-fail: 500 500 500"})
		if status != 200 || len(tries) != 4 {
			t.Errorf("status %d after %d tries, want 200 after four", status, len(tries))
		}
	})
}

// TestUpgrades opens a WebSocket's byte stream through every kind of chain.
func TestUpgrades(t *testing.T) {
	t.Parallel()
	node := run(t, bundleOf(t, "traffic_routes", "virtualNode/front"))
	server := run(t, bundleOf(t, "traffic_routes", "virtualNode/rest"))
	gateway := run(t, bundleOf(t, "traffic_gateway", "virtualGateway/ingress"))
	t.Run("VR-004 a router's listener", func(t *testing.T) { node.Upgrade(t, webConfig, "web.local") })
	t.Run("VN-007 a node's listener", func(t *testing.T) { server.Upgrade(t, "rds_ingress_http_9080", "any") })
	t.Run("VG-003 a gateway's listener", func(t *testing.T) { gateway.Upgrade(t, "rds_ingress_http_8080", "example.com") })
}

// TestConfigDump looks for the hidden defaults in what Envoy itself shows.
func TestConfigDump(t *testing.T) {
	t.Parallel()
	e := run(t, bundleOf(t, "traffic_routes", "virtualNode/front"))
	dump := e.AdminPage(t, "/config_dump")
	for _, test := range []struct{ name, text string }{
		{"EMS-041 the default retry policy", `"retry_on": "unavailable,reset,connect-failure,refused-stream,retriable-status-codes"`},
		{"EMS-043 the default circuit breakers", `"max_pending_requests": 2147483647`},
	} {
		t.Run(test.name, func(t *testing.T) {
			if !strings.Contains(dump, test.text) {
				t.Errorf("config_dump does not show %s", test.text)
			}
		})
	}
	t.Run("EMS-042 thresholds of every cluster", func(t *testing.T) {
		clusters := e.AdminPage(t, "/clusters")
		for _, r := range bundleOf(t, "traffic_routes", "virtualNode/front").List(envoy.Cluster).Resources {
			for _, limit := range []string{"max_connections", "max_pending_requests", "max_requests", "max_retries"} {
				if line := fmt.Sprintf("%s::default_priority::%s::2147483647", r.Name, limit); !strings.Contains(clusters, line) {
					t.Errorf("Envoy's clusters do not show %s", line)
				}
			}
		}
	})
}

// TestEndpointsAreWatched is about clients that look after their targets.
func TestEndpointsAreWatched(t *testing.T) {
	t.Parallel()
	e := run(t, bundleOf(t, "traffic_routes", "virtualNode/front"))
	const cluster = "cds_egress_colors_checked_http_9080"
	t.Run("EMS-045 the client checks every endpoint", func(t *testing.T) {
		eventually(t, func() bool {
			return slices.Contains(e.Checks(cluster), "one /ping checked.local:9080") && slices.Contains(e.Checks(cluster), "two /ping checked.local:9080")
		}, func() string { return fmt.Sprintf("checks %q", e.Checks(cluster)) })
	})
	t.Run("VN-012 VN-013 an endpoint of errors is ejected by the client", func(t *testing.T) {
		// 500 is not tried again by default, so each one is seen.
		answers := func() (failed int) {
			for range 20 {
				if status, _, _ := e.do(t, webConfig, ask{host: "checked.local", path: "/", header: "x-break: one"}); status == 500 {
					failed++
				}
			}
			return failed
		}
		if answers() == 0 {
			t.Fatal("no request failed before the endpoint was ejected")
		}
		eventually(t, func() bool { return answers() == 0 }, func() string { return "requests still fail" })
	})
}

// eventually waits for a condition.
func eventually(t *testing.T, done func() bool, state func() string) {
	t.Helper()
	for deadline := time.Now().Add(testenv.Patience); !done(); {
		if time.Now().After(deadline) {
			t.Fatal(state())
		}
		<-time.After(50 * time.Millisecond)
	}
}
