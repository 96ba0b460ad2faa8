package simulate_test

import (
	"encoding/json"
	"fmt"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"

	"github.com/evermesh/evermesh/internal/envoy/envoytest"
	"github.com/evermesh/evermesh/internal/simulate"
)

// The proxies of the table.
const (
	front   = "traffic_routes virtualNode/front"
	ingress = "traffic_gateway virtualGateway/ingress"
	rpcGate = "GR-017_gateway_grpc virtualGateway/ingress"
	unfit   = "RT-003_mismatches virtualNode/front"
	ports   = "GR-005_ports_of_no_listener virtualGateway/ingress"
	named   = "GR-008_GR-023_hosts_with_ports virtualGateway/ingress"
	vain    = "without_effect virtualNode/front"
)

// row is a request and, in the words of brief, what becomes of it.
type row struct {
	request simulate.Request
	want    string
}

// headers are pairs of names and values.
func headers(all ...string) []simulate.Header {
	var out []simulate.Header
	for i := 0; i+1 < len(all); i += 2 {
		out = append(out, simulate.Header{Name: all[i], Value: all[i+1]})
	}
	return out
}

func toPort(port uint16) netip.AddrPort { return netip.AddrPortFrom(netip.Addr{}, port) }

// web is a request of an application to web.local or another host of port 9080.
func web(path, want string, header ...string) row {
	return row{simulate.Request{Destination: toPort(9080), Authority: "web.local", Path: path, Headers: headers(header...)}, want}
}

func at(host, want string, header ...string) row {
	return row{simulate.Request{Destination: toPort(9080), Authority: host, Headers: headers(header...)}, want}
}

func (r row) by(method string) row {
	r.request.Method = method
	return r
}

// rpc is a call of an application.
func rpc(path, want string, header ...string) row {
	return row{simulate.Request{Protocol: simulate.GRPC, Destination: toPort(50051), Authority: "rpc.local", Path: path, Headers: headers(header...)}, want}
}

// enter is a request to a gateway.
func enter(host, path, want string, header ...string) row {
	return row{simulate.Request{Direction: simulate.Inbound, Destination: toPort(8080), Authority: host, Path: path, Headers: headers(header...)}, want}
}

// on is the request at another port.
func (r row) on(port uint16) row {
	r.request.Destination = toPort(port)
	return r
}

// call is a call to a gateway.
func call(host, path, want string, header ...string) row {
	return row{simulate.Request{
		Direction: simulate.Inbound, Protocol: simulate.GRPC, Destination: toPort(50050), Authority: host, Path: path, Headers: headers(header...),
	}, want}
}

// TestRules sends each request through the simulation, which must say what is
// wanted, and through a real Envoy, which must do what the simulation says.
func TestRules(t *testing.T) {
	t.Parallel()
	r := newRig(t, front, ingress, rpcGate, unfit, ports, named, vain, allowAll)
	elsewhere := passedOn(t)
	for _, test := range []struct {
		name string
		of   string
		rows []row
	}{
		{"RT-001 RT-015 RT-044 a prefix is a plain prefix of the path", front, []row{
			web("/", "rest_http_9080 web.local/"), web("/anything?q=/metrics", "rest_http_9080 web.local/anything?q=/metrics"),
			web("/metrics", "metrics_http_9080 web.local/metrics"), web("/metrics/cpu", "metrics_http_9080 web.local/metrics/cpu"),
			web("/metricsX", "metrics_http_9080 web.local/metricsX"), web("/metric", "rest_http_9080 web.local/metric"),
			web("/Metrics", "rest_http_9080 web.local/Metrics"),
		}},
		{"RT-005 RT-006 lower priority first, then the longer path", front, []row{
			web("/first/and/longest", "first_http_9080 web.local/first/and/longest"), web("/firs", "rest_http_9080 web.local/firs"),
		}},
		{"RT-007 a target's port chooses its listener", front, []row{web("/ported", "rest_http_9081 web.local/ported")}},
		{"RT-008 RT-009 weights, those of 0, and nothing but those of 0", front, []row{
			web("/split", "rest_http_9080+other_http_9080 web.local/split"), web("/relative", "rest_http_9080+other_http_9080 web.local/relative"),
			web("/moved", "other_http_9080 web.local/moved"), web("/nothing", "503"),
		}},
		{"RT-013 method and query parameters", front, []row{
			web("/q?debug=1&trace=x", "query_http_9080 web.local/q?debug=1&trace=x").by("POST"), web("/q?debug=1&trace=x", "rest_http_9080 web.local/q?debug=1&trace=x"),
			web("/q?debug=2&trace", "rest_http_9080 web.local/q?debug=2&trace").by("POST"), web("/q?debug=1", "rest_http_9080 web.local/q?debug=1").by("POST"),
			web("/q?trace&debug=1", "query_http_9080 web.local/q?trace&debug=1").by("POST"), web("/q?trace&debug=%31", "rest_http_9080 web.local/q?trace&debug=%31").by("POST"),
			web("/q?tr%61ce&debug=1", "rest_http_9080 web.local/q?tr%61ce&debug=1").by("POST"),
			web("/q?debug=2&debug=1&trace", "rest_http_9080 web.local/q?debug=2&debug=1&trace").by("POST"),
			web("/q?debug=1&debug=2&trace", "query_http_9080 web.local/q?debug=1&debug=2&trace").by("POST"),
			web("/q?Debug=1&trace", "rest_http_9080 web.local/q?Debug=1&trace").by("POST"),
		}},
		{"RT-014 http2 routes match the scheme", front, []row{
			{simulate.Request{Protocol: simulate.HTTP2, Destination: toPort(9443), Authority: "h2.local"}, "h2-plain_http2_9443 h2.local/"},
			{simulate.Request{Destination: toPort(9443), Authority: "h2.local", Headers: headers("x-forwarded-proto", "https")}, "h2-tls_http2_9443 h2.local/"},
			{simulate.Request{Destination: toPort(9443), Authority: "h2.local", Headers: headers("x-forwarded-proto", "ftp")}, "h2-plain_http2_9443 h2.local/"},
		}},
		{"RT-016 host and path stay as they are", front, []row{
			at("web.local:9080", "rest_http_9080 web.local:9080/"), web("/metrics?x=/../y", "metrics_http_9080 web.local/metrics?x=/../y"),
		}},
		{"RT-017 paths are normalised before they are matched", front, []row{
			web("//metrics/./cpu", "metrics_http_9080 web.local/metrics/cpu"), web("/x/../metrics", "metrics_http_9080 web.local/metrics"),
			web("/x/%2e%2E/metrics", "metrics_http_9080 web.local/metrics"), web("/%2Fmetrics", "rest_http_9080 web.local/%2Fmetrics"),
			web("/metrics/..", "rest_http_9080 web.local/"), web("/a//b///c", "rest_http_9080 web.local/a/b/c"), web(`/x\..\metrics`, "metrics_http_9080 web.local/metrics"),
			web("/../../metrics", "metrics_http_9080 web.local/metrics"), web("/...", "rest_http_9080 web.local/..."),
			web("/me%74rics%7e%3f%4a", "metrics_http_9080 web.local/metrics~%3fJ"), web("/a{b}", "rest_http_9080 web.local/a%7Bb%7D"),
		}},
		{"RT-018 exact matches the whole path alone", front, []row{
			web("/exact", "exact_http_9080 web.local/exact"), web("/exact?q=1", "exact_http_9080 web.local/exact?q=1"),
			web("/exact/", "rest_http_9080 web.local/exact/"), web("/exactly", "rest_http_9080 web.local/exactly"), web("/EXACT", "rest_http_9080 web.local/EXACT"),
		}},
		{"RT-019 a pattern matches the whole path", front, []row{
			web("/items/42", "regex_http_9080 web.local/items/42"), web("/items/42?x", "regex_http_9080 web.local/items/42?x"),
			web("/items/42/x", "rest_http_9080 web.local/items/42/x"), web("/pre/items/42", "rest_http_9080 web.local/pre/items/42"),
		}},
		{"RT-022 header exact and prefix", front, []row{
			web("/h/exact", "header_http_9080 web.local/h/exact", "x-a", "abc"), web("/h/exact", "rest_http_9080 web.local/h/exact", "x-a", "abcd"),
			web("/h/exact", "rest_http_9080 web.local/h/exact"), web("/h/exact", "rest_http_9080 web.local/h/exact", "x-a", "ABC"),
			web("/h/prefix", "header_http_9080 web.local/h/prefix", "X-A", "abc"), web("/h/prefix", "rest_http_9080 web.local/h/prefix", "x-a", "cab"),
			web("/h/prefix", "header_http_9080 web.local/h/prefix", "x-a", "ab", "x-a", "abx"), web("/h/prefix", "rest_http_9080 web.local/h/prefix", "x-a", "x", "x-a", "y"), web("/h/prefix", "header_http_9080 web.local/h/prefix", "x-a", "abc", "x-a", "y"),
		}},
		{"RT-022 header suffix and pattern", front, []row{
			web("/h/suffix", "header_http_9080 web.local/h/suffix", "x-a", "cab"), web("/h/suffix", "rest_http_9080 web.local/h/suffix", "x-a", "abc"),
			web("/h/suffix", "header_http_9080 web.local/h/suffix", "x-a", "xab", "x-a", "ab"),
			web("/h/regex", "header_http_9080 web.local/h/regex", "x-a", "aaa"), web("/h/regex", "rest_http_9080 web.local/h/regex", "x-a", "aab"),
		}},
		{"RT-022 header range", front, []row{
			web("/h/range", "header_http_9080 web.local/h/range", "x-a", "9"), web("/h/range", "rest_http_9080 web.local/h/range", "x-a", "10"),
			web("/h/range", "rest_http_9080 web.local/h/range", "x-a", "one"), web("/h/range", "header_http_9080 web.local/h/range", "x-a", "+1"),
			web("/h/range", "rest_http_9080 web.local/h/range", "x-a", "1.5"), web("/h/range", "rest_http_9080 web.local/h/range", "x-a", "0"),
			web("/h/range", "header_http_9080 web.local/h/range", "x-a", "007"), web("/h/range", "rest_http_9080 web.local/h/range", "x-a", "0x1"),
		}},
		{"RT-022 header present and absent", front, []row{
			web("/h/present", "header_http_9080 web.local/h/present", "x-a", "any"), web("/h/present", "rest_http_9080 web.local/h/present"),
			web("/h/absent", "header_http_9080 web.local/h/absent"), web("/h/absent", "rest_http_9080 web.local/h/absent", "x-a", "any"),
		}},
		{"RT-023 RT-024 an inverted prefix", front, []row{
			web("/h/inverted", "header_http_9080 web.local/h/inverted", "clientRequestId", "456"), web("/h/inverted", "rest_http_9080 web.local/h/inverted", "clientRequestId", "1234"),
			web("/h/inverted", "rest_http_9080 web.local/h/inverted"),
		}},
		{"RT-025 gRPC by service and method", front, []row{
			rpc("/color.Color/Set", "rpc-set_grpc_50051 rpc.local/color.Color/Set"), rpc("/color.Color/Get", "rpc-color_grpc_50051 rpc.local/color.Color/Get"),
			rpc("/color.Color/Sets", "rpc-color_grpc_50051 rpc.local/color.Color/Sets"), rpc("/color.ColorX/Set", "rpc-rest_grpc_50051 rpc.local/color.ColorX/Set"),
		}},
		{"RT-027 RT-028 gRPC metadata, all of it", front, []row{
			rpc("/meta.Meta/Call", "rpc-meta_grpc_50051 rpc.local/meta.Meta/Call", "tenant", "a", "number", "124"),
			rpc("/meta.Meta/Call", "rpc-rest_grpc_50051 rpc.local/meta.Meta/Call", "tenant", "b", "number", "124"),
			rpc("/meta.Meta/Call", "rpc-rest_grpc_50051 rpc.local/meta.Meta/Call", "tenant", "a", "number", "123"),
			rpc("/meta.Meta/Call", "rpc-rest_grpc_50051 rpc.local/meta.Meta/Call", "tenant", "a"),
		}},
		{"RT-025 a call to a host that is no backend is UNIMPLEMENTED", front, []row{
			{simulate.Request{Protocol: simulate.GRPC, Destination: toPort(50051), Authority: "nobody.local", Path: "/a.B/C"}, "200 UNIMPLEMENTED"},
		}},
		{"EMS-032 by Host and port, in any case of letters", front, []row{
			at("WEB.local", "rest_http_9080 WEB.local/"), at("other.local", "other_http_9080 other.local/"), at("unknown.local", "404"),
			at("web.local:1", "404"), at("web.local.", "404"), at("xweb.local", "404"), at("", "400"),
		}},
		{"VR-010 MESH-012 what leads nowhere", front, []row{at("routeless.local", "404"), at("empty.local", "404"), at("silent.local", "503")}},
		{"RT-003 RT-020 routes and targets that do not fit are left out", unfit, []row{
			web("/http2", "404"), web("/port", "404"), web("/target", "web_http_9080 web.local/target"), web("/target-port", "503"),
		}},
		{"MESH-003 MESH-004 under ALLOW_ALL, backends and all other hosts", allowAll, []row{
			at("blue.local", "blue_http_9080 blue.local/"),
			{simulate.Request{Destination: elsewhere, Authority: "example.com"}, "mesh-allow-all example.com/"},
			{simulate.Request{Destination: elsewhere, Authority: "blue.local"}, "blue_http_9080 blue.local/"},
		}},
		{"an upgrade that is not allowed", front, []row{web("/", "403", "connection", "upgrade", "upgrade", "other")}},
		{"GR-005 GR-007 a target's port chooses the listener, a match's port the gateway's", ports, []row{
			enter("example.com", "/right/1", "two_http_9081 two.local:9081/1"), enter("example.com", "/two/1", "503"), enter("example.com", "/kept", "503"),
			enter("example.com", "/one/1", "one_http_9080 one.local/1"), enter("example.com", "/match/1", "404"),
		}},
		{"GR-001 GR-014 GR-022 host and prefix are rewritten", ingress, []row{
			enter("example.com", "/chapter/1", "blue_http_9080 colors.local/1"), enter("example.com", "/chapter", "blue_http_9080 colors.local/"),
			enter("example.com", "/chapter/", "blue_http_9080 colors.local/"), enter("example.com", "/chapter?q=1", "blue_http_9080 colors.local/?q=1"),
		}},
		{"GR-027 a prefix is a plain prefix", ingress, []row{enter("example.com", "/chapterX", "blue_http_9080 colors.local/X")}},
		{"GR-009 the longest prefix wins", ingress, []row{
			enter("example.com", "/chapter/long/1", "green_http_9080 green.local/1"), enter("example.com", "/other", "green_http_9080 green.local/other"),
		}},
		{"GR-006 lower priority wins over length", ingress, []row{enter("example.com", "/prio/and/longer", "green_http_9080 green.local/and/longer")}},
		{"GR-012 paths are normalised, again after the rewrite", ingress, []row{
			enter("example.com", "//chapter/./1", "blue_http_9080 colors.local/1"), enter("example.com", "/x/../chapter/1", "blue_http_9080 colors.local/1"),
			enter("example.com", "/chapter/%2E%2e/old/1", "blue_http_9080 colors.local/new/1"), enter("example.com", "/chapter..", "blue_http_9080 colors.local/"),
		}},
		{"GR-013 GR-016 exact and patterns, path as it was or as told", ingress, []row{
			enter("example.com", "/one", "blue_http_9080 colors.local/blue/one"), enter("example.com", "/one?q=1", "blue_http_9080 colors.local/blue/one?q=1"),
			enter("example.com", "/one/", "green_http_9080 green.local/one/"), enter("example.com", "/as-is?q=1", "blue_http_9080 colors.local/as-is?q=1"),
			enter("example.com", "/item/7", "blue_http_9080 colors.local/item/7"), enter("example.com", "/item/x", "green_http_9080 green.local/item/x"),
		}},
		{"GR-015 prefix kept or replaced", ingress, []row{
			enter("example.com", "/keep/1", "blue_http_9080 colors.local/keep/1"), enter("example.com", "/old/1", "blue_http_9080 colors.local/new/1"),
			enter("example.com", "/old", "blue_http_9080 colors.local/new/"),
		}},
		{"GR-014 host kept", ingress, []row{
			enter("example.com", "/kept/1", "green_http_9080 example.com/1"), enter("example.com:8080", "/kept", "green_http_9080 example.com:8080/"),
			enter("colors.local", "/kept/1", "green_http_9080 colors.local/1"), enter("COLORS.local:15001", "/kept/1", "green_http_9080 COLORS.local:15001/1"),
			enter("colors.local", "/partly/only", "green_http_9080 colors.local/only"), enter("example.com", "/partly/other", "404"),
			enter("example.com", "/percent/1", "green_http_9080 example.com/1"),
		}},
		{"GR-014 a client's own header chooses nothing", ingress, []row{
			enter("example.com", "/chapter/1", "blue_http_9080 colors.local/1", "x-app-mesh-virtual-service", "green.local"),
			enter("example.com", "/kept/1", "green_http_9080 example.com/1", "x-app-mesh-virtual-service", "colors.local"),
		}},
		{"GR-018 the router splits what was rewritten", ingress, []row{
			enter("example.com", "/chapter/deep", "green_http_9080 colors.local/deep"), enter("example.com", "/chapter/x", "green_http_9080 colors.local/x", "version", "2"),
		}},
		{"GR-008 hosts, methods, headers, query", ingress, []row{
			enter("shop.example.com", "/", "blue_http_9080 colors.local/"), enter("SHOP.example.com", "/", "blue_http_9080 colors.local/"),
			enter("x.example.org", "/", "blue_http_9080 colors.local/"), enter(".example.org", "/", "green_http_9080 green.local/"),
			enter("example.com", "/beta?beta=1", "blue_http_9080 colors.local/?beta=1", "x-canary", "1"), enter("example.com", "/beta?beta=1", "green_http_9080 green.local/beta?beta=1"),
		}},
		{"GR-023 a port in the host is ignored", ingress, []row{
			enter("shop.example.com:8080", "/", "blue_http_9080 colors.local/"), enter("x.example.org:1", "/", "blue_http_9080 colors.local/"),
			enter("shop.example.com:x", "/", "blue_http_9080 colors.local/"), enter("shop.example.com:", "/", "blue_http_9080 colors.local/"),
			enter("[::1]", "/", "green_http_9080 green.local/"), enter("[::1]:8080", "/", "green_http_9080 green.local/"),
		}},
		{"GR-023 a host name with a port is one of that listener", named, []row{
			enter("p.com", "/", "blue_http_9080 blue.local/").on(8081), enter("P.com:8081", "/", "blue_http_9080 blue.local/").on(8081),
			enter("p.com:443", "/", "blue_http_9080 blue.local/").on(8081), enter("p.com:8081", "/green", "green_http_9080 green.local/").on(8081),
			enter("p.com:8081", "/", "404"), enter("p.com:8081", "/green", "green_http_9080 green.local/"),
			enter("a.s.com", "/", "blue_http_9080 blue.local/"), enter("a.s.com:8080", "/", "blue_http_9080 blue.local/"),
			enter("a.s.com:8080", "/", "green_http_9080 green.local/").on(8081),
			enter("[::1]:8080", "/", "blue_http_9080 blue.local/"), enter("[::1]", "/", "green_http_9080 green.local/").on(8081),
		}},
		{"GR-008 an asterisk before a suffix, and a dot at the end of a host", named, []row{
			enter("a.x.com", "/", "blue_http_9080 blue.local/"), enter("a.b.x.com:1", "/", "blue_http_9080 blue.local/"), enter("x.com", "/", "green_http_9080 green.local/"),
			enter("dot.com.", "/", "blue_http_9080 blue.local/"), enter("dot.com", "/", "green_http_9080 green.local/"),
		}},
		{"GR-008 a host name with the port of no listener matches nothing", named, []row{
			enter("q.com:443", "/", "green_http_9080 green.local/"), enter("q.com", "/", "green_http_9080 green.local/"),
			enter("a.q.com:8082", "/", "green_http_9080 green.local/"),
			enter("r.com:8081", "/", "green_http_9080 green.local/"), enter("r.com:8081", "/", "green_http_9080 green.local/").on(8081),
		}},
		{"RT-017 paths that no request has match nothing", vain, []row{
			web("/a/../b", "rest_http_9080 web.local/b"), web("/a?x=1", "rest_http_9080 web.local/a?x=1"), web("/a//b", "rest_http_9080 web.local/a/b"),
			web("/a%20b", "rest_http_9080 web.local/a%20b"), web("//", "web_http_9080 web.local//"),
			rpc("/a.b/m", "rest_grpc_50051 rpc.local/a.b/m"),
		}},
		{"RT-022 a range without numbers matches nothing", vain, []row{
			web("/range", "rest_http_9080 web.local/range", "x-a", "5", "x-b", "5"), rpc("/a.b/m", "rest_grpc_50051 rpc.local/a.b/m", "x-a", "5"),
		}},
		{"GR-025 a host with routes of its own does not fall back", ingress, []row{
			enter("strict.example.net", "/", "404").by("PUT"), enter("strict.example.net", "/", "blue_http_9080 colors.local/"),
		}},
		{"GR-001 what does not exist answers 503", ingress, []row{enter("example.com", "/absent", "503"), enter("example.com", "/absent/x", "503")}},
		{"GR-017 gRPC by service, metadata and host", rpcGate, []row{
			call("example.com", "/color.Color/Get", "rpc_grpc_50051 rpc.local/color.Color/Get", "tenant", "a"), call("example.com", "/color.Color/Get", "200 UNIMPLEMENTED", "tenant", "b"),
			call("example.com", "/other.Other/Get", "200 UNIMPLEMENTED", "tenant", "a"), call("rpc.example.com", "/any.Any/Call", "rpc_grpc_50051 rpc.example.com/any.Any/Call"),
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := r.proxies[test.of]
			for _, x := range test.rows {
				what := fmt.Sprintf("%s %s%s %v", x.request.Method, x.request.Authority, x.request.Path, x.request.Headers)
				o, err := p.Send(x.request)
				if err != nil {
					t.Errorf("%s: %v", what, err)
					continue
				}
				if got := brief(o); got != x.want {
					t.Errorf("%s: simulated %q, want %q\n%s", what, got, x.want, o)
				}
				if d := disagreement(o, r.send(t, p, x.request)); d != "" {
					t.Errorf("%s: the real Envoy did otherwise: %s\n%s", what, d, o)
				}
			}
		})
	}
}

// passedOn is the address of a server that is no endpoint of the mesh, on the
// port of one that is.
func passedOn(t *testing.T) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp4", envoytest.Loopback()+":9080")
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = json.NewEncoder(w).Encode(envoytest.Arrival{Method: r.Method, Host: r.Host, Path: r.RequestURI, Header: r.Header})
	}))
	_ = server.Listener.Close()
	server.Listener = l
	server.Start()
	t.Cleanup(server.Close)
	return l.Addr().(*net.TCPAddr).AddrPort()
}

// TestShares counts where requests go.
func TestShares(t *testing.T) {
	t.Parallel()
	r := newRig(t, front)
	p := r.proxies[front]
	for _, test := range []struct{ name, path string }{{"RT-009 RT-008 weights 75 and 25", "/split"}, {"RT-008 weights 3 and 1", "/relative"}, {"RT-009 weights 0 and 100", "/moved"}} {
		t.Run(test.name, func(t *testing.T) {
			request := web(test.path, "").request
			o, err := p.Send(request)
			if err != nil {
				t.Fatal(err)
			}
			const n = 1000
			count := map[string]int{}
			for range n {
				reply := r.send(t, p, request)
				if reply.Arrival == nil {
					t.Fatalf("status %d", reply.Status)
				}
				count[reply.Arrival.Cluster]++
			}
			for _, target := range o.Targets {
				share := float64(count[target.Cluster]) / n
				// Five standard deviations of a binomial share.
				if bound := 5 * math.Sqrt(target.Share*(1-target.Share)/n); math.Abs(share-target.Share) > bound {
					t.Errorf("%.3f of the requests went to %s, want %.3f ± %.3f", share, target.Cluster, target.Share, bound)
				}
			}
		})
	}
}
