package envoy

import (
	"cmp"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/evermesh/evermesh/internal/api"
)

// ip is what an IP preference means for a proxy's own addresses.
type ip struct {
	any   string // what listeners bind
	local string // where the application listens
}

// ipFor applies the table of App Mesh's IP preferences. Without one listeners
// are IPv4 only; with any they take both families.
func ipFor(p api.IPPreference) ip {
	out := ip{any: "0.0.0.0", local: "127.0.0.1"}
	if p != "" {
		out.any = "::"
	}
	if p == api.IPPreferenceIPv6Preferred || p == api.IPPreferenceIPv6Only {
		out.local = "0:0:0:0:0:0:0:1"
	}
	return out
}

// preference is a node's own IP preference, or that of the mesh.
func (b *build) preference(node *api.Resource) api.IPPreference {
	return cmp.Or(ownPreference(node), b.meshWide.preference)
}

func ownPreference(node *api.Resource) api.IPPreference {
	d := node.VirtualNodeSpec().ServiceDiscovery
	switch {
	case d == nil:
	case d.DNS != nil:
		return d.DNS.IPPreference
	case d.AWSCloudMap != nil:
		return d.AWSCloudMap.IPPreference
	}
	return ""
}

// lookupFamily is what clients ask DNS for to reach a node. IPv6_PREFERRED is
// Envoy's own default.
func lookupFamily(p api.IPPreference) clusterv3.Cluster_DnsLookupFamily {
	switch p {
	case api.IPPreferenceIPv4Preferred:
		return clusterv3.Cluster_V4_PREFERRED
	case api.IPPreferenceIPv4Only:
		return clusterv3.Cluster_V4_ONLY
	case api.IPPreferenceIPv6Only:
		return clusterv3.Cluster_V6_ONLY
	}
	return clusterv3.Cluster_AUTO
}

func address(host string, port uint32) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: host, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port},
	}}}
}

// bind is the address of a listener.
func (p place) bind() *corev3.Address {
	a := address(p.host, p.port)
	a.GetSocketAddress().Ipv4Compat = p.host == "::"
	return a
}

// everywhere matches every address of the families that listeners take.
func (i ip) everywhere() []*corev3.CidrRange {
	all := []*corev3.CidrRange{{AddressPrefix: "0.0.0.0", PrefixLen: wrapperspb.UInt32(0)}}
	if i.any == "::" {
		all = append(all, &corev3.CidrRange{AddressPrefix: "::", PrefixLen: wrapperspb.UInt32(0)})
	}
	return all
}
