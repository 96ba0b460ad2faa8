package simulate_test

import (
	"flag"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/envoy"
	"github.com/evermesh/evermesh/internal/envoy/envoytest"
	"github.com/evermesh/evermesh/internal/mesh"
	"github.com/evermesh/evermesh/internal/simulate"
)

var (
	tables    = flag.Int("tables", 12, "how many random meshes the property is tried on")
	tableSeed = flag.Int64("tables-seed", 0, "seed of the random meshes; 0: another one each time")
)

// TestAgreesWithEnvoy draws meshes, gives a node's and a gateway's configuration
// of each to one Envoy, and draws requests: simulation and Envoy agree where each
// one goes, as what it arrives, how often it is tried, or how it is answered.
func TestAgreesWithEnvoy(t *testing.T) {
	t.Parallel()
	seed := *tableSeed
	if seed == 0 {
		seed = time.Now().UnixNano() % 1_000_000
	}
	t.Logf("meshes of seed %d", seed)
	r := &rig{proxies: map[string]*proxy{}}
	var bundles []*envoy.Bundle
	var proxies []*proxy
	drawn := rapid.Custom(drawMesh)
	for i := range *tables {
		snapshot := mesh.NewSnapshot(1, drawn.Example(int(seed)+i))
		for _, key := range []api.Key{keyOf(api.KindVirtualNode, "", "front"), keyOf(api.KindVirtualGateway, "", "gate")} {
			view, _, _ := snapshot.View(mesh.Client{Key: key})
			b, _ := new(envoy.Builder).Build(view, nil)
			proxies = append(proxies, &proxy{decode(t, b), b, len(bundles)})
			bundles = append(bundles, b)
		}
	}
	r.Batch = envoytest.RunBatch(t, bundles...)
	count := map[string]int{}
	few := func() bool { return count["forwarded"] < 200 || count["answered"] < 100 || count["failing"] < 20 }
	for draws := 0; draws == 0 || few() && draws < 10; draws++ { // how much of each chance brings is the meshes', too
		rapid.Check(t, func(t *rapid.T) {
			p := proxies[rapid.IntRange(0, len(proxies)-1).Draw(t, "proxy")]
			for range 20 {
				req := drawRequest(t, p.bundle.View.Gateway != nil)
				o, err := p.Send(req)
				if err != nil && strings.Contains(err.Error(), "of different age") {
					count["unclear"]++
					continue
				}
				if err != nil {
					t.Fatalf("%+v: %v", req, err)
				}
				count[o.End.String()]++
				reply := r.send(t, p, req)
				d := disagreement(o, reply)
				if fails := failures(req); fails > 0 && o.End == simulate.Forwarded {
					count["failing"]++
					d = triesDisagreement(o, reply, fails)
				}
				if d != "" {
					t.Fatalf("%+v: the real Envoy did otherwise: %s\n%s", req, d, o)
				}
			}
		})
	}
	t.Logf("%v", count)
	if few() {
		t.Errorf("chance brought too little: %v", count)
	}
}

// failures is how often an endpoint answers 503 before it does not.
func failures(r simulate.Request) int {
	for _, h := range r.Headers {
		if h.Name == "x-fail" {
			return len(strings.Fields(h.Value))
		}
	}
	return 0
}

// triesDisagreement compares how often a request was tried that failed so often.
func triesDisagreement(o *simulate.Outcome, got envoytest.Reply, fails int) string {
	retry, want := o.Hops[len(o.Hops)-1].Retry, 1
	if retry.Repeats(503) {
		want = min(fails, int(retry.Retries)) + 1
	}
	if len(got.Tries) != want || (got.Status == 503) != (want <= fails) {
		return fmt.Sprintf("status %d after %d tries, not %d", got.Status, len(got.Tries), want)
	}
	return ""
}

func keyOf(kind api.Kind, parent, name string) api.Key {
	k := api.Key{Owner: envoytest.Account, Mesh: "colors", Kind: kind, Parent: parent, Name: name}
	if kind == api.KindMesh {
		k.Name = k.Mesh
	}
	return k
}

func pick[T any](t *rapid.T, of ...T) T { return rapid.SampledFrom(of).Draw(t, "pick") }

// maybe is a pointer to one of the values, or nil.
func maybe[T any](t *rapid.T, of ...T) *T {
	if i := rapid.IntRange(0, len(of)).Draw(t, "maybe"); i > 0 {
		return &of[i-1]
	}
	return nil
}

// oneIn is true one time in n.
func oneIn(t *rapid.T, n int) bool { return rapid.IntRange(1, n).Draw(t, "one in") == 1 }

// drawMesh draws the resources: services a.local and b.local with routers, c.local
// with a node, rpc.local for gRPC, and a node and a gateway that call them.
func drawMesh(t *rapid.T) []*api.Resource {
	var out []*api.Resource
	add := func(kind api.Kind, parent, name string, spec any) {
		out = append(out, &api.Resource{
			Key: keyOf(kind, parent, name), Owner: envoytest.Account, Spec: spec, Version: 1, Created: time.Unix(int64(len(out)), 0),
		})
	}
	add(api.KindMesh, "", "", &api.MeshSpec{})
	listener := func(port int64, protocol api.PortProtocol) api.Listener {
		return api.Listener{PortMapping: api.PortMapping{Port: port, Protocol: protocol}}
	}
	for i := range 4 {
		name := fmt.Sprint("n", i)
		add(api.KindVirtualNode, "", name, &api.VirtualNodeSpec{
			Listeners:        []api.Listener{listener(9080, api.PortProtocolHTTP), listener(50051, api.PortProtocolGRPC)},
			ServiceDiscovery: &api.ServiceDiscovery{DNS: &api.DNSServiceDiscovery{Hostname: name + ".local", ResponseType: api.DNSResponseTypeEndpoints}},
		})
	}
	front := &api.VirtualNodeSpec{Listeners: []api.Listener{listener(8080, api.PortProtocolHTTP)}}
	routers := []struct {
		name, service string
		port          int64
		protocol      api.PortProtocol
	}{{"ra", "a.local", 9080, api.PortProtocolHTTP}, {"rb", "b.local", 9080, api.PortProtocolHTTP}, {"rpc", "rpc.local", 50051, api.PortProtocolGRPC}}
	for _, r := range routers {
		add(api.KindVirtualRouter, "", r.name, &api.VirtualRouterSpec{Listeners: []api.VirtualRouterListener{{PortMapping: api.PortMapping{Port: r.port, Protocol: r.protocol}}}})
		add(api.KindVirtualService, "", r.service, &api.VirtualServiceSpec{Provider: &api.VirtualServiceProvider{VirtualRouter: &api.VirtualRouterServiceProvider{VirtualRouterName: r.name}}})
		for i := range rapid.IntRange(1, 7).Draw(t, "routes") {
			spec := &api.RouteSpec{Priority: maybe[int64](t, 0, 1, 5)}
			if r.protocol == api.PortProtocolGRPC {
				spec.GRPCRoute = drawGRPC(t, r.port)
			} else {
				spec.HTTPRoute = drawHTTP(t, r.port)
			}
			add(api.KindRoute, r.name, fmt.Sprint("x", i), spec)
		}
	}
	for _, r := range routers[:2] { // mostly something takes what nothing else does
		if all := "/"; !oneIn(t, 4) {
			route := drawHTTP(t, r.port)
			route.Match = api.HTTPRouteMatch{Prefix: &all}
			add(api.KindRoute, r.name, "rest", &api.RouteSpec{HTTPRoute: route})
		}
	}
	add(api.KindVirtualService, "", "c.local", &api.VirtualServiceSpec{Provider: &api.VirtualServiceProvider{VirtualNode: &api.VirtualNodeServiceProvider{VirtualNodeName: "n0"}}})
	for _, s := range []string{"a.local", "b.local", "c.local", "rpc.local"} {
		front.Backends = append(front.Backends, api.Backend{VirtualService: &api.VirtualServiceBackend{VirtualServiceName: s}})
	}
	add(api.KindVirtualNode, "", "front", front)
	add(api.KindVirtualGateway, "", "gate", &api.VirtualGatewaySpec{Listeners: []api.VirtualGatewayListener{
		{PortMapping: api.VirtualGatewayPortMapping{Port: 8080, Protocol: api.VirtualGatewayPortProtocolHTTP}},
	}})
	for i := range rapid.IntRange(1, 8).Draw(t, "gateway routes") {
		add(api.KindGatewayRoute, "gate", fmt.Sprint("x", i), &api.GatewayRouteSpec{Priority: maybe[int64](t, 0, 1, 5), HTTPRoute: drawGatewayRoute(t)})
	}
	if all := "/"; !oneIn(t, 4) {
		route := drawGatewayRoute(t)
		route.Match = api.HTTPGatewayRouteMatch{Prefix: &all}
		if route.Action.Rewrite != nil {
			route.Action.Rewrite.Path = nil
		}
		add(api.KindGatewayRoute, "gate", "rest", &api.GatewayRouteSpec{HTTPRoute: route})
	}
	return out
}

func drawHeaderMatch(t *rapid.T) *api.HeaderMatchMethod {
	return maybe(t,
		api.HeaderMatchMethod{Exact: "a"}, api.HeaderMatchMethod{Prefix: "a"}, api.HeaderMatchMethod{Suffix: "a"},
		api.HeaderMatchMethod{Regex: "a+|[0-9]"}, api.HeaderMatchMethod{Regex: "a.*"}, api.HeaderMatchMethod{Range: &api.MatchRange{Start: 1, End: 9}},
		api.HeaderMatchMethod{Range: &api.MatchRange{Start: -5, End: 100}},
	)
}

func drawTargets(t *rapid.T, port int64) []api.WeightedTarget {
	var out []api.WeightedTarget
	for range rapid.IntRange(1, 3).Draw(t, "targets") {
		out = append(out, api.WeightedTarget{VirtualNode: pick(t, "n0", "n1", "n2", "n3"), Weight: pick[int64](t, 0, 1, 100), Port: &port})
	}
	return out
}

func drawPath(t *rapid.T) (prefix *string, path *api.HTTPPathMatch) {
	switch rapid.IntRange(0, 3).Draw(t, "path") {
	case 0:
		path = &api.HTTPPathMatch{Exact: pick(t, "/", "/a", "/a/", "/a/b", "/a%2Fb", "/%7Bab", "/a b", "/A")}
	case 1:
		path = &api.HTTPPathMatch{Regex: pick(t, "/a.*", "/[ab]+", "/(a|b)/b?", "/.*/b", ".*", "/a?$", "(?i)/A/?", `/\w+`, "/a|/b", "/[^/]*")}
	default:
		prefix = maybe(t, "/", "/", "/a", "/a/", "/a/b", "/ab", "/A", "/a%2F", "/%7B")
	}
	return prefix, path
}

func drawQuery(t *rapid.T) []api.HTTPQueryParameter {
	if !oneIn(t, 4) {
		return nil
	}
	return []api.HTTPQueryParameter{{Name: pick(t, "q", "r"), Match: maybe(t, api.QueryParameterMatch{Exact: maybe(t, "1", "", "a%20b")})}}
}

func seconds(n int64) *api.Duration { return &api.Duration{Unit: api.DurationUnitS, Value: &n} }

func drawHTTP(t *rapid.T, port int64) *api.HTTPRoute {
	out := &api.HTTPRoute{Action: api.HTTPRouteAction{WeightedTargets: drawTargets(t, port)}}
	out.Match.Prefix, out.Match.Path = drawPath(t)
	out.Match.Method, out.Match.QueryParameters = pick(t, "", "", "", api.HTTPMethodGet, api.HTTPMethodPost), drawQuery(t)
	if oneIn(t, 2) {
		for range rapid.IntRange(1, 2).Draw(t, "headers") {
			out.Match.Headers = append(out.Match.Headers, api.HTTPRouteHeader{Name: pick(t, "X-A", "x-b", "host"), Invert: maybe(t, true, false), Match: drawHeaderMatch(t)})
		}
	}
	out.Timeout = maybe(t, api.HTTPTimeout{PerRequest: seconds(0)}, api.HTTPTimeout{PerRequest: seconds(40), Idle: seconds(30)})
	out.RetryPolicy = maybe(t, api.HTTPRetryPolicy{
		MaxRetries: pick[int64](t, 0, 1, 2), PerRetryTimeout: *seconds(pick[int64](t, 10, 60)),
		HTTPRetryEvents: pick(t, nil, []string{"server-error"}, []string{"gateway-error", "stream-error"}, []string{"client-error"}),
	})
	return out
}

func drawGRPC(t *rapid.T, port int64) *api.GRPCRoute {
	out := &api.GRPCRoute{Action: api.GRPCRouteAction{WeightedTargets: drawTargets(t, port)}}
	if out.Match.ServiceName = maybe(t, "s.S", "s.SS"); out.Match.ServiceName != nil {
		out.Match.MethodName = pick(t, "", "", "M", "N")
	}
	if oneIn(t, 2) {
		out.Match.Metadata = []api.GRPCRouteMetadata{{Name: "x-a", Invert: maybe(t, true, false), Match: (*api.GRPCRouteMetadataMatchMethod)(drawHeaderMatch(t))}}
	}
	return out
}

func drawGatewayRoute(t *rapid.T) *api.HTTPGatewayRoute {
	out := &api.HTTPGatewayRoute{Action: api.HTTPGatewayRouteAction{Target: api.GatewayRouteTarget{
		VirtualService: api.GatewayRouteVirtualService{VirtualServiceName: pick(t, "a.local", "b.local", "c.local", "absent.local")},
	}}}
	out.Match.Prefix, out.Match.Path = drawPath(t)
	out.Match.Method, out.Match.QueryParameters = pick(t, "", "", "", api.HTTPMethodGet), drawQuery(t)
	out.Match.Hostname = maybe(t, api.GatewayRouteHostnameMatch{Exact: "Shop.example.com"}, api.GatewayRouteHostnameMatch{Suffix: ".example.com"}, api.GatewayRouteHostnameMatch{Suffix: "p.example.com"})
	if oneIn(t, 3) {
		out.Match.Headers = []api.HTTPGatewayRouteHeader{{Name: "x-a", Invert: maybe(t, true, false), Match: drawHeaderMatch(t)}}
	}
	if oneIn(t, 2) {
		out.Action.Rewrite = &api.HTTPGatewayRouteRewrite{
			Hostname: maybe(t, api.GatewayRouteHostnameRewrite{DefaultTargetHostname: api.DefaultGatewayRouteRewriteDisabled}, api.GatewayRouteHostnameRewrite{DefaultTargetHostname: api.DefaultGatewayRouteRewriteEnabled}),
		}
		if out.Match.Path != nil {
			out.Action.Rewrite.Path = maybe(t, api.HTTPGatewayRoutePathRewrite{Exact: "/a"}, api.HTTPGatewayRoutePathRewrite{Exact: `/a/\1`}, api.HTTPGatewayRoutePathRewrite{Exact: "/a//../b"})
		} else {
			out.Action.Rewrite.Prefix = maybe(t, api.HTTPGatewayRoutePrefixRewrite{Value: "/a/"}, api.HTTPGatewayRoutePrefixRewrite{DefaultPrefix: api.DefaultGatewayRouteRewriteDisabled}, api.HTTPGatewayRoutePrefixRewrite{Value: "/"})
		}
	}
	return out
}

// drawRequest draws what may be near to something that a route matches.
func drawRequest(t *rapid.T, gateway bool) simulate.Request {
	r := simulate.Request{Method: pick(t, "GET", "GET", "POST")}
	r.Path = "/" + strings.Join(rapid.SliceOfN(rapid.SampledFrom([]string{
		"/", "/", "a", "a", "b", "ab", "A", "%2F", "%61", "%2e", ".", "..", `\`, "%7B", "{", "}", "\"", "<", "|", "^", "`", "[", "~", "%7e", "%20", ";x", "$", "'", "%5c", "%E9",
	}), 0, 6).Draw(t, "path"), "")
	if oneIn(t, 3) {
		r.Path += "?" + strings.Join(rapid.SliceOfN(rapid.SampledFrom([]string{"q=1", "q", "r=", "q=a%20b", "&", "&", "r", "=", "?", "/../", "%71=1"}), 0, 4).Draw(t, "query"), "")
	}
	for _, name := range []string{"x-a", "x-b"} {
		for range pick(t, 0, 1, 1, 1, 2) {
			r.Headers = append(r.Headers, simulate.Header{Name: name, Value: pick(t, "a", "a", "ab", "ba", "b", "1", "9", "10", "-3", "+4", "0x1", "1e1", "99999999999999999999", "A")})
		}
	}
	if oneIn(t, 12) {
		r.Headers = append(r.Headers, simulate.Header{Name: "x-fail", Value: strings.TrimSpace(strings.Repeat("503 ", rapid.IntRange(1, 4).Draw(t, "failures")))})
	}
	if oneIn(t, 4) && !strings.HasPrefix(r.Path, "//") { // Go's client takes that for a host
		r.Protocol = simulate.HTTP2
	}
	switch kind := rapid.IntRange(0, 9).Draw(t, "kind"); {
	case gateway:
		r.Direction, r.Destination = simulate.Inbound, netip.AddrPortFrom(netip.Addr{}, 8080)
		r.Authority = pick(t, "example.com", "shop.example.com", "SHOP.example.com:8080", "x.example.com", "shop.example.com:", "p.example.com", "xp.example.com", "a.local", "b.local:15001")
		if oneIn(t, 8) {
			r.Headers = append(r.Headers, simulate.Header{Name: "x-app-mesh-virtual-service", Value: pick(t, "a.local", "b.local", "c.local")})
		}
	case kind == 0:
		r.Direction, r.Destination, r.Authority = simulate.Inbound, netip.AddrPortFrom(netip.Addr{}, 8080), "any"
	case kind < 3:
		r.Protocol, r.Destination, r.Method = simulate.GRPC, netip.AddrPortFrom(netip.Addr{}, 50051), "POST"
		r.Authority, r.Path = pick(t, "rpc.local", "rpc.local", "rpc.local:50051", "a.local"), pick(t, "/s.S/M", "/s.S/N", "/s.SS/M", "/s.S/", "/s.S", "/s.SSS/M", "/s.S/MM")
		r.Headers = r.Headers[:min(len(r.Headers), 1)]
	default:
		r.Destination, r.Authority = netip.AddrPortFrom(netip.Addr{}, 9080), pick(t, "a.local", "a.local", "A.Local", "b.local", "b.local", "b.local:9080", "c.local", "nobody.local", "a.local:9081", "a.local.")
	}
	return r
}
