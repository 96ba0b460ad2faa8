package envoy_test

import (
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/envoy"
)

// TestIPPreferences is App Mesh's table of what a mesh's preference means.
func TestIPPreferences(t *testing.T) {
	for _, test := range []struct {
		name       string
		preference api.IPPreference
		bind       string
		compat     bool
		local      string
		lookup     clusterv3.Cluster_DnsLookupFamily
	}{
		{"IPP-007 IPP-010 none, which is not IPv6_PREFERRED", "", "0.0.0.0", false, "127.0.0.1", clusterv3.Cluster_AUTO},
		{"IPP-007 IPv4_PREFERRED", api.IPPreferenceIPv4Preferred, "::", true, "127.0.0.1", clusterv3.Cluster_V4_PREFERRED},
		{"IPP-007 IPv6_PREFERRED", api.IPPreferenceIPv6Preferred, "::", true, "0:0:0:0:0:0:0:1", clusterv3.Cluster_AUTO},
		{"IPP-007 IPv4_ONLY", api.IPPreferenceIPv4Only, "::", true, "127.0.0.1", clusterv3.Cluster_V4_ONLY},
		{"IPP-007 IPv6_ONLY", api.IPPreferenceIPv6Only, "::", true, "0:0:0:0:0:0:0:1", clusterv3.Cluster_V6_ONLY},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := newChanging(t, 1)
			c.put(&api.Resource{Key: keyOf(api.KindMesh, "", ""), Owner: account, Spec: &api.MeshSpec{
				ServiceDiscovery: &api.MeshServiceDiscovery{IPPreference: test.preference},
			}})
			listeners := c.bundle.List(envoy.Listener).Resources
			if len(listeners) != 2 {
				t.Fatalf("%d listeners, want one in and one out", len(listeners))
			}
			for _, r := range listeners {
				l := &listenerv3.Listener{}
				if err := r.UnmarshalTo(l); err != nil {
					t.Fatal(err)
				}
				if a := l.GetAddress().GetSocketAddress(); a.GetAddress() != test.bind || a.GetIpv4Compat() != test.compat {
					t.Errorf("%s binds %v, want %s, both families: %v", r.Name, a, test.bind, test.compat)
				}
			}
			if got := cluster(t, c.bundle, "cds_egress_colors_s0-v1_http_80").GetDnsLookupFamily(); got != test.lookup {
				t.Errorf("names are looked up by %v, want %v", got, test.lookup)
			}
			if got := hostOf(cluster(t, c.bundle, "cds_ingress_colors_front_http_80")); got != test.local {
				t.Errorf("the application is at %s, want %s", got, test.local)
			}
		})
	}
}

func cluster(t *testing.T, b *envoy.Bundle, name string) *clusterv3.Cluster {
	t.Helper()
	r := b.List(envoy.Cluster).Get(name)
	if r == nil {
		t.Fatalf("there is no cluster %s", name)
	}
	m := &clusterv3.Cluster{}
	if err := r.UnmarshalTo(m); err != nil {
		t.Fatal(err)
	}
	return m
}

// hostOf is the address of a cluster's only endpoint.
func hostOf(c *clusterv3.Cluster) string {
	return c.GetLoadAssignment().GetEndpoints()[0].GetLbEndpoints()[0].GetEndpoint().GetAddress().GetSocketAddress().GetAddress()
}
