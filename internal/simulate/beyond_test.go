package simulate_test

import (
	"slices"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/evermesh/evermesh/internal/envoy/envoytest"
	"github.com/evermesh/evermesh/internal/simulate"
)

// beyond are virtual hosts with what the translator does not make, and somebody
// else's configuration may have. clusters is what cluster names begin with.
func beyond(clusters string) []*routev3.VirtualHost {
	to := func(node string) *routev3.RouteAction {
		return &routev3.RouteAction{ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: clusters + "cds_egress_colors_" + node + "_http_9080"}}
	}
	route := func(m *routev3.RouteMatch, a *routev3.RouteAction) *routev3.Route {
		return &routev3.Route{Match: m, Action: &routev3.Route_Route{Route: a}}
	}
	prefix := func(s string, headers ...*routev3.HeaderMatcher) *routev3.RouteMatch {
		return &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: s}, Headers: headers}
	}
	text := func(m *matcherv3.StringMatcher) *routev3.HeaderMatcher {
		return &routev3.HeaderMatcher{Name: "x-a", HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: m}}
	}
	separated := &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_PathSeparatedPrefix{PathSeparatedPrefix: "/sep"}}
	moved := to("exact")
	moved.PrefixRewrite = "/moved"
	regex := to("regex")
	regex.RegexRewrite = &matcherv3.RegexMatchAndSubstitute{Pattern: &matcherv3.RegexMatcher{Regex: "([a-z])([0-9])?"}, Substitution: `\2<\1\\>\0`}
	exact := to("other")
	exact.PrefixRewrite = "/whole"
	adding := route(prefix("/add"), to("first"))
	adding.RequestHeadersToAdd = []*corev3.HeaderValueOption{{Header: &corev3.HeaderValue{Key: "X-A", Value: "50%%"}}}
	adding.RequestHeadersToRemove = []string{"x-b"}
	here := func(name string, domains ...string) *routev3.VirtualHost {
		return &routev3.VirtualHost{Name: name, Domains: domains, Routes: []*routev3.Route{route(prefix("/"), to(name))}}
	}
	all := &routev3.VirtualHost{Name: "kinds", Domains: []string{"kinds.test"}, Routes: []*routev3.Route{
		route(separated, moved),
		route(&routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: "/regex/.*"}}}, regex),
		route(&routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Path{Path: "/exact"}}, exact),
		adding,
		route(prefix("/contains", text(&matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Contains{Contains: "b"}})), to("header")),
		route(prefix("/anycase", text(&matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: "aB"}, IgnoreCase: true})), to("header")),
		route(prefix("/absent", &routev3.HeaderMatcher{Name: "x-a", HeaderMatchSpecifier: &routev3.HeaderMatcher_PresentMatch{}}), to("header")),
		route(prefix("/named", &routev3.HeaderMatcher{Name: "x-a"}), to("header")),
		route(prefix("/unnamed", &routev3.HeaderMatcher{Name: "x-a", InvertMatch: true}), to("header")),
		route(&routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/query"}, QueryParameters: []*routev3.QueryParameterMatcher{{Name: "q"}}}, to("query")),
		route(prefix("/"), to("rest")),
	}}
	return []*routev3.VirtualHost{
		all, here("metrics", "*.wild.test"), here("first", "*-x.wild.test"), here("exact", "exact.wild.test"), here("regex", "www.*"), here("query", "www.long*"), here("other", "*"),
	}
}

// TestBeyondBundles sends requests through what no bundle has.
func TestBeyondBundles(t *testing.T) {
	t.Parallel()
	const config = "rds_egress_http_9080"
	bundle := withEndpoints(envoytest.BundleOf(t, "traffic_routes", "virtualNode/front"))
	c := configOf(t, front)
	for _, r := range c.Routes {
		if r.GetName() == config {
			r.VirtualHosts = append(r.VirtualHosts, beyond("")...)
		}
	}
	p := &proxy{read(t, c), bundle, 0}
	r := &rig{Batch: envoytest.RunChangedBatch(t, func(_ int, l *listenerv3.Listener) {
		for _, chain := range l.GetFilterChains() {
			hcm := &hcmv3.HttpConnectionManager{}
			if chain.GetFilters()[0].GetTypedConfig().UnmarshalTo(hcm) != nil || hcm.GetRouteConfig().GetName() != config {
				continue
			}
			hcm.GetRouteConfig().VirtualHosts = append(hcm.GetRouteConfig().VirtualHosts, beyond("0.")...)
			packed, err := anypb.New(hcm)
			if err != nil {
				t.Fatal(err)
			}
			chain.Filters[0].ConfigType = &listenerv3.Filter_TypedConfig{TypedConfig: packed}
		}
	}, bundle)}
	kinds := func(path, want string, header ...string) row {
		x := web(path, want, header...)
		x.request.Authority = "kinds.test"
		return x
	}
	for _, x := range []row{
		kinds("/sep", "exact_http_9080 kinds.test/moved"), kinds("/sep/x?q", "exact_http_9080 kinds.test/moved/x?q"), kinds("/separate", "rest_http_9080 kinds.test/separate"),
		kinds("/regex/a1b?c2", `regex_http_9080 kinds.test/<r\>r<e\>e<g\>g<e\>e<x\>x/1<a\>a1<b\>b?c2`), kinds("/exact?q", "other_http_9080 kinds.test/whole?q"),
		kinds("/add", "first_http_9080 kinds.test/add", "x-a", "mine", "x-b", "mine"), kinds("/contains", "header_http_9080 kinds.test/contains", "x-a", "abc"),
		kinds("/contains", "rest_http_9080 kinds.test/contains", "x-a", "ac"), kinds("/anycase", "header_http_9080 kinds.test/anycase", "x-a", "AbC"),
		kinds("/absent", "header_http_9080 kinds.test/absent"), kinds("/absent", "rest_http_9080 kinds.test/absent", "x-a", "1"),
		kinds("/named", "header_http_9080 kinds.test/named", "x-a", ""), kinds("/named", "rest_http_9080 kinds.test/named"),
		kinds("/unnamed", "header_http_9080 kinds.test/unnamed"), kinds("/unnamed", "rest_http_9080 kinds.test/unnamed", "x-a", "1"),
		kinds("/query?q", "query_http_9080 kinds.test/query?q"), kinds("/query?p=q", "rest_http_9080 kinds.test/query?p=q"),
		at("a.wild.test", "metrics_http_9080 a.wild.test/"), at("b.a.wild.test", "metrics_http_9080 b.a.wild.test/"), at("a-x.wild.test", "first_http_9080 a-x.wild.test/"),
		at("-x.wild.test", "metrics_http_9080 -x.wild.test/"), at(".wild.test", "other_http_9080 .wild.test/"), at("EXACT.wild.test", "exact_http_9080 EXACT.wild.test/"),
		at("www.test", "regex_http_9080 www.test/"), at("www.longer", "query_http_9080 www.longer/"), at("www.", "other_http_9080 www./"), at("www.wild.test", "metrics_http_9080 www.wild.test/"),
		at("elsewhere", "other_http_9080 elsewhere/"),
	} {
		o, err := p.Send(x.request)
		if err != nil {
			t.Fatal(err)
		}
		if got := brief(o); got != x.want {
			t.Errorf("%s%s: simulated %q, want %q\n%s", x.request.Authority, x.request.Path, got, x.want, o)
		}
		if d := disagreement(o, r.send(t, p, x.request)); d != "" {
			t.Errorf("%s%s: the real Envoy did otherwise: %s\n%s", x.request.Authority, x.request.Path, d, o)
		}
	}
}

// TestDisagreementIsSeen compares what a real Envoy did with outcomes that are
// wrong in one thing.
func TestDisagreementIsSeen(t *testing.T) {
	t.Parallel()
	r := newRig(t, front)
	p := r.proxies[front]
	for _, test := range []struct {
		name  string
		row   row
		wrong func(*simulate.Outcome)
	}{
		{"cluster", web("/metrics", ""), func(o *simulate.Outcome) { o.Targets[0].Cluster = "cds_egress_colors_rest_http_9080" }},
		{"share", web("/metrics", ""), func(o *simulate.Outcome) { o.Targets[0].Share = 0 }},
		{"path", web("/metrics", ""), func(o *simulate.Outcome) { o.Sent.Path += "/" }},
		{"host", web("/metrics", ""), func(o *simulate.Outcome) { o.Sent.Authority = "other.local" }},
		{"method", web("/metrics", ""), func(o *simulate.Outcome) { o.Sent.Method = "POST" }},
		{"a header that is missing", web("/metrics", ""), func(o *simulate.Outcome) { o.Sent.Headers = headers("x-c", "1") }},
		{"a header too many", web("/metrics", "", "x-c", "1"), func(o *simulate.Outcome) { o.Sent.Headers = nil }},
		{"a header's value", web("/metrics", "", "x-c", "1"), func(o *simulate.Outcome) { o.Sent.Headers = headers("x-c", "2") }},
		{"timeout", web("/metrics", ""), func(o *simulate.Outcome) { o.Hops[0].Timeout++; o.Hops[0].Timeout *= 2 }},
		{"no timeout", web("/metrics", ""), func(o *simulate.Outcome) { o.Hops[0].Timeout = 0 }},
		{"timeout of a try", web("/retry/slow", ""), func(o *simulate.Outcome) { o.Hops[0].PerTry = 0 }},
		{"answered", web("/metrics", ""), func(o *simulate.Outcome) { o.End, o.Status = simulate.Answered, 200 }},
		{"status", web("/nothing", ""), func(o *simulate.Outcome) { o.Status = 404 }},
		{"forwarded", web("/nothing", ""), func(o *simulate.Outcome) { o.End = simulate.Forwarded }},
		{"closed", web("/metrics", ""), func(o *simulate.Outcome) { o.End = simulate.Closed }},
		{"not gRPC", rpc("/metrics", "").to("nobody.local"), func(o *simulate.Outcome) { o.GRPCStatus = "" }},
	} {
		t.Run(test.name, func(t *testing.T) {
			o, err := p.Send(test.row.request)
			if err != nil {
				t.Fatal(err)
			}
			got := r.send(t, p, test.row.request)
			if d := disagreement(o, got); d != "" {
				t.Fatalf("the real Envoy did otherwise: %s", d)
			}
			o.Targets, o.Hops = slices.Clone(o.Targets), slices.Clone(o.Hops)
			test.wrong(o)
			if disagreement(o, got) == "" {
				t.Errorf("nobody notices\n%s", o)
			}
		})
	}
}

func (r row) to(host string) row {
	r.request.Authority = host
	return r
}
