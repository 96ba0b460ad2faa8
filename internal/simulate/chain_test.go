package simulate_test

import (
	"net/netip"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/evermesh/evermesh/internal/simulate"
)

// TestChainsInEachOthersWay gives a listener a second chain for connections that
// another one has: Envoy takes one of them by chance, so nothing is said.
func TestChainsInEachOthersWay(t *testing.T) {
	everywhere := []*corev3.CidrRange{{AddressPrefix: "0.0.0.0", PrefixLen: wrapperspb.UInt32(0)}}
	for _, test := range []struct {
		name  string
		match *listenerv3.FilterChainMatch
		want  string
	}{
		{"the same", &listenerv3.FilterChainMatch{DestinationPort: wrapperspb.UInt32(9080)}, "match the same"},
		{"the same name", &listenerv3.FilterChainMatch{DestinationPort: wrapperspb.UInt32(443), PrefixRanges: everywhere, ServerNames: []string{"a.test", "*.amazonaws.com"}}, "match the same"},
		{"EMS-065 all addresses, said in one chain alone", &listenerv3.FilterChainMatch{DestinationPort: wrapperspb.UInt32(443), ServerNames: []string{"a.test"}}, "match the same"},
		{"another name", &listenerv3.FilterChainMatch{DestinationPort: wrapperspb.UInt32(443), PrefixRanges: everywhere, ServerNames: []string{"a.test"}}, ""},
		{"another transport", &listenerv3.FilterChainMatch{DestinationPort: wrapperspb.UInt32(9080), TransportProtocol: "tls"}, ""},
		{"another address", &listenerv3.FilterChainMatch{DestinationPort: wrapperspb.UInt32(443), PrefixRanges: []*corev3.CidrRange{{AddressPrefix: "10.0.0.0", PrefixLen: wrapperspb.UInt32(8)}}}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := configOf(t, front)
			l := c.Listeners[0]
			more := proto.CloneOf(l.GetFilterChains()[0])
			more.FilterChainMatch = test.match
			l.FilterChains = append(l.FilterChains, more)
			_, err := simulate.Read(c)
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

// TestNothingIsGivenUp is about chains that match in one step and not in the next:
// Envoy does not go back to what is less specific.
func TestNothingIsGivenUp(t *testing.T) {
	c := configOf(t, allowAll)
	l := c.Listeners[0]
	more := proto.CloneOf(l.GetFilterChains()[0])
	more.FilterChainMatch = &listenerv3.FilterChainMatch{
		DestinationPort: wrapperspb.UInt32(443), ServerNames: []string{"only.test"},
		PrefixRanges: []*corev3.CidrRange{{AddressPrefix: "10.0.0.0", PrefixLen: wrapperspb.UInt32(8)}},
	}
	l.FilterChains = append(l.FilterChains, more)
	p := read(t, c)
	for to, want := range map[string]string{"10.1.2.3:443": "no filter chain matches", "11.1.2.3:443": ""} {
		o, err := p.Send(simulate.Request{Protocol: simulate.TCP, TLS: true, ServerName: "other.test", Destination: netip.MustParseAddrPort(to)})
		if err != nil || o.Why != want {
			t.Errorf("%s: got %v, %v, want %q", to, o, err, want)
		}
	}
}

// TestWhereTheInspectorIsOff evaluates what keeps a listener filter from looking.
func TestWhereTheInspectorIsOff(t *testing.T) {
	type predicate = listenerv3.ListenerFilterChainMatchPredicate
	port := func(n int32) *predicate {
		return &predicate{Rule: &listenerv3.ListenerFilterChainMatchPredicate_DestinationPortRange{DestinationPortRange: &typev3.Int32Range{Start: n, End: n + 1}}}
	}
	either := &predicate{Rule: &listenerv3.ListenerFilterChainMatchPredicate_OrMatch{
		OrMatch: &listenerv3.ListenerFilterChainMatchPredicate_MatchSet{Rules: []*predicate{port(442), port(443)}},
	}}
	for _, test := range []struct {
		name string
		off  *predicate
		want string
	}{
		{"nowhere", nil, "amazonaws"},
		{"on another port", port(444), "amazonaws"},
		{"on this port", port(443), "mesh-allow-all"},
		{"on one of several", either, "mesh-allow-all"},
		{"on all but several", &predicate{Rule: &listenerv3.ListenerFilterChainMatchPredicate_NotMatch{NotMatch: either}}, "amazonaws"},
		{"everywhere", &predicate{Rule: &listenerv3.ListenerFilterChainMatchPredicate_AnyMatch{AnyMatch: true}}, "mesh-allow-all"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := configOf(t, allowAll)
			for _, f := range c.Listeners[0].GetListenerFilters() {
				if f.GetName() == "envoy.filters.listener.tls_inspector" {
					f.FilterDisabled = test.off
				}
			}
			o, err := read(t, c).Send(simulate.Request{Protocol: simulate.TCP, TLS: true, ServerName: "sqs.eu-west-1.amazonaws.com", Destination: toPort(443)})
			if err != nil || brief(o) != test.want {
				t.Errorf("got %v, %v, want %s", o, err, test.want)
			}
		})
	}
}

// TestCircles leads a gateway's second hop back to itself.
func TestCircles(t *testing.T) {
	c := configOf(t, ingress)
	for _, r := range c.Routes {
		for _, h := range r.GetVirtualHosts() {
			for _, x := range h.GetRoutes() {
				if a := x.GetRoute(); a != nil && a.GetWeightedClusters() != nil {
					a.GetWeightedClusters().GetClusters()[0].Name = "cds_ingress_colors_ingress_self_redirect_http_15001"
				}
			}
		}
	}
	if o, err := read(t, c).Send(enter("example.com", "/chapter", "").request); err == nil || !strings.Contains(err.Error(), "round in circles") {
		t.Errorf("got %v, %v", o, err)
	}
}
