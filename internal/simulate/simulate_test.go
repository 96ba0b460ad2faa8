package simulate_test

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	faultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/evermesh/evermesh/internal/envoy"
	"github.com/evermesh/evermesh/internal/envoy/envoytest"
	"github.com/evermesh/evermesh/internal/simulate"
)

// withEndpoints gives every query an answer.
func withEndpoints(b *envoy.Bundle) *envoy.Bundle {
	return b.WithEndpoints(func(q envoy.EndpointQuery) ([]envoy.Endpoint, bool) {
		return []envoy.Endpoint{{Address: "10.0.0.1", Port: q.Port}}, true
	})
}

func decode(t testing.TB, b *envoy.Bundle) *simulate.Proxy {
	t.Helper()
	p, err := simulate.New(b)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestEveryGoldenIsUnderstood decodes what every client of every case gets:
// nothing in it is unknown.
func TestEveryGoldenIsUnderstood(t *testing.T) {
	for _, c := range envoytest.Cases(t) {
		for _, client := range c.Clients(t) {
			b, _ := c.Bundle(t, client)
			if _, err := simulate.New(withEndpoints(b)); err != nil {
				t.Errorf("%s, %s: %v", c.Name, client, err)
			}
		}
	}
}

// proxy is a bundle, decoded and in a batch.
type proxy struct {
	*simulate.Proxy
	bundle *envoy.Bundle
	index  int
}

// rig is one Envoy with all the proxies of a test.
type rig struct {
	*envoytest.Batch
	proxies map[string]*proxy
}

// newRig starts the Envoy with "case kind/name" bundles.
func newRig(t testing.TB, of ...string) *rig {
	t.Helper()
	out := &rig{proxies: map[string]*proxy{}}
	var bundles []*envoy.Bundle
	for i, name := range of {
		file, client, _ := strings.Cut(name, " ")
		b := withEndpoints(envoytest.BundleOf(t, file, client))
		out.proxies[name] = &proxy{decode(t, b), b, i}
		bundles = append(bundles, b)
	}
	out.Batch = envoytest.RunBatch(t, bundles...)
	return out
}

// wire is a request as the batch sends it.
func wire(r simulate.Request) envoytest.Wire {
	w := envoytest.Wire{HTTP2: r.Protocol == simulate.HTTP2 || r.Protocol == simulate.GRPC, Method: r.Method, Authority: r.Authority, Path: cmp.Or(r.Path, "/")}
	for _, h := range r.Headers {
		w.Headers = append(w.Headers, [2]string{h.Name, h.Value})
	}
	if r.Protocol == simulate.GRPC {
		w.Method = cmp.Or(w.Method, http.MethodPost)
		w.Headers = append(w.Headers, [2]string{"content-type", "application/grpc"})
	}
	w.Method = cmp.Or(w.Method, http.MethodGet)
	return w
}

// send sends the request to the real Envoy, to the listener that interception or
// the client would have chosen.
func (r *rig) send(t envoytest.Failer, p *proxy, req simulate.Request) envoytest.Reply {
	t.Helper()
	to := req.Destination
	if !to.Addr().IsValid() {
		to = netip.AddrPortFrom(netip.MustParseAddr("198.51.100.1"), to.Port())
	}
	name := ""
	for _, l := range p.bundle.List(envoy.Listener).Resources {
		in := strings.HasPrefix(l.Name, "lds_ingress_")
		if in == (req.Direction == simulate.Inbound) && (strings.HasSuffix(l.Name, "_15000") || strings.HasSuffix(l.Name, "_15001") || strings.HasSuffix(l.Name, "_"+strconv.Itoa(int(to.Port())))) {
			name = l.Name
		}
	}
	if name == "" {
		t.Fatalf("no listener for %+v", req)
	}
	return r.Send(t, envoytest.BatchListener(p.index, name), to, wire(req))
}

// usual are headers that clients of the test and every Envoy add.
var usual = []string{
	"x-id", "x-fail", "x-request-id", "x-forwarded-proto", "x-envoy-expected-rq-timeout-ms", "x-envoy-attempt-count", "content-length",
	"user-agent", "accept-encoding", "transfer-encoding", "te",
}

// disagreement is what the real Envoy did otherwise; empty when nothing.
func disagreement(o *simulate.Outcome, got envoytest.Reply) string {
	switch {
	case got.Closed != (o.End == simulate.Closed):
		return fmt.Sprintf("closed: %v", got.Closed)
	case got.Closed:
		return ""
	case o.End == simulate.Answered:
		switch {
		case got.Arrival != nil:
			return "it arrived at " + got.Arrival.Cluster
		case got.Status != o.Status:
			return fmt.Sprintf("status %d", got.Status)
		case got.Header.Get("grpc-status") != map[string]string{"": "", "UNIMPLEMENTED": "12", "UNAVAILABLE": "14", "INTERNAL": "13"}[o.GRPCStatus]:
			return "gRPC status " + got.Header.Get("grpc-status")
		}
		return ""
	case got.Arrival == nil:
		return fmt.Sprintf("status %d and no arrival", got.Status)
	}
	a := got.Arrival
	if !slices.ContainsFunc(o.Targets, func(t simulate.Target) bool {
		return t.Share > 0 && (t.Cluster == a.Cluster || t.Discovery.Kind == simulate.Original && a.Cluster == "")
	}) {
		return "it arrived at " + a.Cluster
	}
	if o.Sent.Method == "" {
		return "" // by TCP
	}
	if a.Method != o.Sent.Method || a.Host != o.Sent.Authority || a.Path != o.Sent.Path {
		return fmt.Sprintf("it arrived as %s %s %s", a.Method, a.Host, a.Path)
	}
	want := http.Header{}
	for _, h := range o.Sent.Headers {
		want.Add(h.Name, h.Value)
	}
	for name := range a.Header {
		if low := strings.ToLower(name); !slices.Contains(usual, low) && strings.Join(a.Header[name], ",") != strings.Join(want[name], ",") {
			return fmt.Sprintf("it arrived with %s: %s", low, a.Header[name])
		}
	}
	for name := range want {
		if low := strings.ToLower(name); a.Header[name] == nil && !slices.Contains(usual, low) {
			return "it arrived without " + low
		}
	}
	last := o.Hops[len(o.Hops)-1]
	limit := last.Timeout
	if last.PerTry > 0 && (limit == 0 || last.PerTry < limit) {
		limit = last.PerTry
	}
	if said := a.Header.Get("x-envoy-expected-rq-timeout-ms"); limit > 0 && said != strconv.FormatInt(limit.Milliseconds(), 10) || limit == 0 && len(o.Hops) == 1 && said != "" {
		return fmt.Sprintf("a try has %s ms, not %v", said, limit)
	}
	return ""
}

// brief is an outcome in a few words: the clusters with a share, host and path on
// arrival; or the answer.
func brief(o *simulate.Outcome) string {
	switch o.End {
	case simulate.Closed:
		return "closed"
	case simulate.Answered:
		return strings.TrimSpace(fmt.Sprint(o.Status, " ", o.GRPCStatus))
	}
	var to []string
	for _, t := range o.Targets {
		if t.Share > 0 {
			to = append(to, strings.TrimPrefix(strings.TrimPrefix(t.Cluster, "cds_egress_colors_"), "cds_ingress_colors_"))
		}
	}
	return strings.TrimSpace(strings.Join(to, "+") + " " + o.Sent.Authority + o.Sent.Path)
}

// TestUnknownIsAnError changes a configuration in ways that nothing here
// understands.
func TestUnknownIsAnError(t *testing.T) {
	for _, test := range []struct {
		name, want string
		change     func(*simulate.Config)
	}{
		{"a field", "envoy.config.route.v3.RouteAction.cluster_header", func(c *simulate.Config) {
			c.Routes[0].VirtualHosts[0].Routes[0].GetRoute().ClusterSpecifier = &routev3.RouteAction_ClusterHeader{ClusterHeader: "x"}
		}},
		{"a value of an enumeration", "envoy.config.cluster.v3.Cluster.LEAST_REQUEST", func(c *simulate.Config) {
			c.Clusters[0].LbPolicy = clusterv3.Cluster_LEAST_REQUEST
		}},
		{"a message", "envoy.extensions.filters.http.fault.v3.HTTPFault", func(c *simulate.Config) {
			packed, err := anypb.New(&faultv3.HTTPFault{})
			if err != nil {
				t.Fatal(err)
			}
			c.Listeners[0].FilterChains[0].Filters[0].ConfigType = &listenerv3.Filter_TypedConfig{TypedConfig: packed}
		}},
		{"a field that is newer", "envoy.config.route.v3.Route (fields that are newer than this program)", func(c *simulate.Config) {
			c.Routes[0].VirtualHosts[0].Routes[0].ProtoReflect().SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 5000, protowire.VarintType), 1))
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, err := simulate.Decode(envoytest.BundleOf(t, "traffic_routes", "virtualNode/front"))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := simulate.Read(c); err != nil {
				t.Fatal(err)
			}
			test.change(&c)
			_, err = simulate.Read(c)
			var unknown *simulate.UnknownError
			if !errors.As(err, &unknown) || !slices.Contains(unknown.Names, test.want) {
				t.Errorf("got %v, want that %s is unknown", err, test.want)
			}
		})
	}
}
