package simulate_test

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/evermesh/evermesh/internal/envoy/envoytest"
	"github.com/evermesh/evermesh/internal/simulate"
)

func configOf(t *testing.T, of string) simulate.Config {
	t.Helper()
	file, client, _ := strings.Cut(of, " ")
	c, err := simulate.Decode(withEndpoints(envoytest.BundleOf(t, file, client)))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func read(t *testing.T, c simulate.Config) *simulate.Proxy {
	t.Helper()
	p, err := simulate.Read(c)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func meaning(t *testing.T, p *simulate.Proxy, r simulate.Request) simulate.Meaning {
	t.Helper()
	o, err := p.Send(r)
	if err != nil {
		t.Fatal(err)
	}
	return o.Meaning()
}

// renamed calls all listeners, route configurations and clusters otherwise.
func renamed[M any, P interface {
	*M
	proto.Message
}](t *testing.T, all []P,
) []P {
	t.Helper()
	var out []P
	for _, m := range all {
		text, err := protojson.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		for _, prefix := range []string{"lds_", "rds_", "cds_"} {
			text = bytes.ReplaceAll(text, []byte(`"`+prefix), []byte(`"our_`+prefix))
		}
		other := P(new(M))
		if err := protojson.Unmarshal(text, other); err != nil {
			t.Fatal(err)
		}
		out = append(out, other)
	}
	return out
}

// TestMeaningHasNoNames compares a configuration with the same one under other
// names: outcomes differ, meanings do not.
func TestMeaningHasNoNames(t *testing.T) {
	for of, rows := range map[string][]row{
		front: {
			web("/split", ""), web("/metrics", ""), web("/h/regex", "", "x-a", "aa"), web("/retry/slow", ""), web("/nothing", ""),
			at("nobody.local", ""), rpc("/color.Color/Set", ""), rpc("/retry.Retry/Call", ""),
		},
		ingress: {enter("example.com", "/chapter/1", ""), enter("example.com", "/kept/1", ""), enter("example.com", "/absent", ""), enter("x.example.org", "/", "")},
	} {
		c := configOf(t, of)
		one := read(t, c)
		other := read(t, simulate.Config{
			Listeners: renamed(t, c.Listeners), Routes: renamed(t, c.Routes), Clusters: renamed(t, c.Clusters), Endpoints: renamed(t, c.Endpoints),
		})
		for _, x := range rows {
			if d := meaning(t, one, x.request).Differences(meaning(t, other, x.request)); d != nil {
				t.Errorf("%s%s: %q", x.request.Authority, x.request.Path, d)
			}
			a, _ := one.Send(x.request)
			if b, _ := other.Send(x.request); a.String() == b.String() {
				t.Errorf("%s%s: nothing was renamed", x.request.Authority, x.request.Path)
			}
		}
	}
}

// TestMeaningTellsWhatDiffers changes one thing at a time.
func TestMeaningTellsWhatDiffers(t *testing.T) {
	request := web("/split", "").request
	change := func(f func(*routev3.RouteAction)) func(*simulate.Config) {
		return func(c *simulate.Config) {
			for _, routes := range c.Routes {
				for _, h := range routes.GetVirtualHosts() {
					for _, r := range h.GetRoutes() {
						if h.GetName() == "web.local" && r.GetMatch().GetPrefix() == "/split" {
							f(r.GetRoute())
						}
					}
				}
			}
		}
	}
	for _, test := range []struct {
		what  string
		apply func(*simulate.Config)
	}{
		{"", func(*simulate.Config) {}},
		{"", change(func(a *routev3.RouteAction) { // the same shares in other numbers and order
			all := a.GetWeightedClusters().GetClusters()
			for _, w := range all {
				w.Weight.Value *= 2
			}
			slices.Reverse(all)
		})},
		{"", change(func(a *routev3.RouteAction) { // one of them in two parts, and one of nothing
			all := a.GetWeightedClusters().GetClusters()
			half, none := proto.CloneOf(all[0]), proto.CloneOf(all[0])
			all[0].Weight.Value, half.Weight.Value, none.Name, none.Weight.Value = 40, 35, "cds_egress_colors_metrics_http_9080", 0
			a.GetWeightedClusters().Clusters = append(all, half, none)
		})},
		{"", change(func(a *routev3.RouteAction) { slices.Reverse(a.RetryPolicy.RetriableStatusCodes) })},
		{"places", change(func(a *routev3.RouteAction) { a.GetWeightedClusters().GetClusters()[0].Weight.Value++ })},
		{"timeout", change(func(a *routev3.RouteAction) { a.Timeout = durationpb.New(16 * time.Second) })},
		{"timeout of a try", change(func(a *routev3.RouteAction) { a.RetryPolicy.PerTryTimeout = durationpb.New(time.Second) })},
		{"idle timeout", change(func(a *routev3.RouteAction) { a.IdleTimeout = durationpb.New(0) })},
		{"retries", change(func(a *routev3.RouteAction) { a.RetryPolicy.NumRetries = wrapperspb.UInt32(3) })},
		{"retries", change(func(a *routev3.RouteAction) { a.RetryPolicy = nil })},
		{"path", change(func(a *routev3.RouteAction) { a.PrefixRewrite = "/other" })},
		{"host", change(func(a *routev3.RouteAction) {
			a.HostRewriteSpecifier = &routev3.RouteAction_HostRewriteLiteral{HostRewriteLiteral: "other"}
		})},
		{"places", func(c *simulate.Config) {
			for _, m := range c.Clusters {
				if m.GetName() == "cds_egress_colors_other_http_9080" {
					m.GetLoadAssignment().GetEndpoints()[0].GetLbEndpoints()[0].GetEndpoint().GetAddress().GetSocketAddress().Address = "elsewhere.local"
				}
			}
		}},
	} {
		changed := configOf(t, front)
		test.apply(&changed)
		d := meaning(t, read(t, configOf(t, front)), request).Differences(meaning(t, read(t, changed), request))
		if test.what == "" && d != nil || test.what != "" && (len(d) != 1 || !strings.HasPrefix(d[0], test.what+": ")) {
			t.Errorf("differences %q, want %q", d, test.what)
		}
	}
}

// TestOutcomeReads shows what a person gets to see.
func TestOutcomeReads(t *testing.T) {
	for _, test := range []struct {
		of, line string
		inbound  bool
		want     string
	}{
		{front, "GET http://web.local:9080/split?x=1", false, `at listener lds_egress_0.0.0.0_15001, chain 1 (port 9080)
  routes rds_egress_http_9080, virtual host web.local, route 26 (path /split…)
  within 15s; silent for at most 5m; tried again up to 2 times on unavailable, reset, connect-failure, refused-stream, retriable-status-codes 503
goes to cds_egress_colors_rest_http_9080 (75 %): rest.local:9080 by DNS (IPv6, else IPv4), every address, connected within 1s
goes to cds_egress_colors_other_http_9080 (25 %): other.local:9080 by DNS (IPv6, else IPv4), every address, connected within 1s
as GET http://web.local:9080/split?x=1
`},
		{ingress, "http://example.com:8080/kept/1", true, `at listener lds_ingress_0.0.0.0_8080, chain 0 (port 8080, no TLS)
  routes rds_ingress_http_8080, virtual host self_redirect, route 18 (path /kept/…)
  within 15s; silent for at most 5m
then, as a second hop of the same proxy,
at listener lds_egress_0.0.0.0_15001, chain 0 (port 15001)
  routes rds_egress_http_15001, virtual host default_backend, route 1 (path /…, header x-app-mesh-virtual-service green.local)
  within 15s; silent for at most 5m; tried again up to 2 times on unavailable, reset, connect-failure, refused-stream, retriable-status-codes 503
goes to cds_egress_colors_green_http_9080: green.local:9080 by DNS (IPv6, else IPv4), every address, connected within 1s
as GET http://example.com:8080/1
  x-app-mesh-virtual-service: green.local
  x-envoy-original-path: /kept/1
`},
		{front, "grpc://nobody.local:50051/a.B/C", false, `at listener lds_egress_0.0.0.0_15001, chain 3 (port 50051)
  routes rds_egress_grpc_50051
is answered 200, gRPC status UNIMPLEMENTED: no virtual host matches
`},
		{front, "https://example.com/", false, `at listener lds_egress_0.0.0.0_15001, no filter chain
is closed: no filter chain matches
`},
	} {
		r, err := simulate.Parse(test.line)
		if err != nil {
			t.Fatal(err)
		}
		if test.inbound {
			r.Direction = simulate.Inbound
		}
		o, err := read(t, configOf(t, test.of)).Send(r)
		if err != nil {
			t.Fatal(err)
		}
		if got := o.String(); got != test.want {
			t.Errorf("%s:\n%s\nwant:\n%s", test.line, got, test.want)
		}
	}
}

// TestRefusedRequests are requests about which nothing true can be said.
func TestRefusedRequests(t *testing.T) {
	p := read(t, configOf(t, front))
	for _, test := range []struct{ name, want string }{
		{"retry-on", "what clients tell Envoy"},
		{"path", "only requests for a path"},
		{"ascii", "ASCII"},
		{"dots", "of different age"},
		{"lines", "of different age"},
		{"name without tls", "without TLS"},
		{"pseudo", "field of its own"},
		{"space", "no client can send"},
	} {
		r := simulate.Request{Destination: toPort(9080), Authority: "web.local"}
		switch test.name {
		case "retry-on":
			r.Headers = headers("X-Envoy-Retry-On", "5xx")
		case "path":
			r.Path = "*"
		case "ascii":
			r.Path = "/é"
		case "dots":
			r.Path = "/a/%2e.;x/b"
		case "lines":
			r.Path, r.Headers = "/h/exact", headers("x-a", "abc", "x-a", "abc")
		case "name without tls":
			r.ServerName = "web.local"
		case "pseudo":
			r.Headers = headers(":path", "/")
		case "space":
			r.Path = "/a b"
		}
		if o, err := p.Send(r); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, %v; want an error with %q", test.name, o, err, test.want)
		}
	}
	for _, line := range []string{
		"GET web.local/", "ftp://web.local/", "GET http:///x", "http://:80/", "tcp://db.local", "http://web.local:0/", "http://web.local:x/", "http://web.local:/",
	} {
		if r, err := simulate.Parse(line); err == nil {
			t.Errorf("%q became %+v", line, r)
		}
	}
}
