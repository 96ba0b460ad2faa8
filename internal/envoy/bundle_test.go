package envoy_test

import (
	"slices"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/envoy"
)

// Each type's URL is that of the message that its resources are.
func TestTypesAndURLs(t *testing.T) {
	for of, message := range map[envoy.Type]proto.Message{
		envoy.Cluster: &clusterv3.Cluster{}, envoy.LoadAssignment: &endpointv3.ClusterLoadAssignment{}, envoy.Listener: &listenerv3.Listener{},
		envoy.Route: &routev3.RouteConfiguration{}, envoy.Secret: &tlsv3.Secret{},
	} {
		if want := "type.googleapis.com/" + string(message.ProtoReflect().Descriptor().FullName()); of.URL() != want {
			t.Errorf("got %s, want %s", of.URL(), want)
		}
	}
}

// TestWithEndpoints gives a cluster's endpoints in any order, again, not at
// all, and as an empty set.
func TestWithEndpoints(t *testing.T) {
	c := newChanging(t, 1)
	node := c.snapshot.Get(keyOf(api.KindVirtualNode, "", "s0-v1")).VirtualNodeSpec()
	c.put(&api.Resource{Key: keyOf(api.KindVirtualNode, "", "s0-v1"), Owner: account, Spec: &api.VirtualNodeSpec{
		Listeners: node.Listeners,
		ServiceDiscovery: &api.ServiceDiscovery{AWSCloudMap: &api.AWSCloudMapServiceDiscovery{
			NamespaceName: "example", ServiceName: "s0", IPPreference: api.IPPreferenceIPv4Only,
			Attributes: []api.AWSCloudMapInstanceAttribute{{Key: "b", Value: "2"}, {Key: "a", Value: "1"}, {Key: "c=%", Value: "=3"}},
		}},
	}})
	const name = "cds_egress_colors_s0-v1_http_80"
	var asked []envoy.EndpointQuery
	with := func(b *envoy.Bundle, known bool, endpoints ...envoy.Endpoint) *envoy.Bundle {
		return b.WithEndpoints(func(q envoy.EndpointQuery) ([]envoy.Endpoint, bool) {
			asked = append(asked, q)
			return endpoints, known
		})
	}
	addresses := func(b *envoy.Bundle) []string {
		r := b.List(envoy.LoadAssignment).Get(name)
		if r == nil {
			return nil
		}
		m := &endpointv3.ClusterLoadAssignment{}
		if err := r.UnmarshalTo(m); err != nil {
			t.Fatal(err)
		}
		out := []string{}
		for _, group := range m.GetEndpoints() {
			for _, e := range group.GetLbEndpoints() {
				out = append(out, e.GetEndpoint().GetAddress().GetSocketAddress().GetAddress())
			}
		}
		return out
	}
	one, two := envoy.Endpoint{Address: "10.0.0.1", Port: 80}, envoy.Endpoint{Address: "10.0.0.2", Port: 81}

	unknown := with(c.bundle, false)
	if unknown != c.bundle || addresses(unknown) != nil {
		t.Error("an unknown set is in the bundle")
	}
	empty := with(c.bundle, true)
	if got := addresses(empty); got == nil || len(got) != 0 {
		t.Errorf("a known empty set is %v", got)
	}
	both := with(c.bundle, true, two, one, two)
	if got := addresses(both); !slices.Equal(got, []string{"10.0.0.1", "10.0.0.2"}) {
		t.Errorf("endpoints %v", got)
	}
	if again := with(both, true, one, two); again != both {
		t.Error("the same set in another order makes another bundle")
	}
	if both.List(envoy.Cluster) != c.bundle.List(envoy.Cluster) || both.View != c.bundle.View {
		t.Error("endpoints change more than the endpoints")
	}
	if gone := with(both, false); addresses(gone) != nil {
		t.Error("a set that is unknown again stays")
	}
	want := envoy.EndpointQuery{Source: "cloudmap", Namespace: "example", Service: "s0", Attributes: "a=1\nb=2\nc%3D%25==3", IPPreference: "IPv4_ONLY", Port: 80}
	if asked[0] != want {
		t.Errorf("asked for %+v, want %+v", asked[0], want)
	}
}
