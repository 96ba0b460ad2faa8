package cloudmap

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"

	"github.com/aws/aws-sdk-go-v2/service/servicediscovery/types"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/envoy"
)

// Attributes by which instances say where they are (DISC-011).
const (
	attributeIPv4 = "AWS_INSTANCE_IPV4"
	attributeIPv6 = "AWS_INSTANCE_IPV6"
	attributePort = "AWS_INSTANCE_PORT"
)

// endpoints are the query's endpoints among the instances, in one order whatever
// the answer's is, each once. Unfit counts the instances without an address or
// with one that is none; an instance that has an address only of the family that
// the query leaves out (IPP-005, IPP-006) is not unfit.
func endpoints(q envoy.EndpointQuery, instances []types.HttpInstanceSummary) (set []envoy.Endpoint, unfit int) {
	set = []envoy.Endpoint{}
	for _, i := range instances {
		if i.HealthStatus == types.HealthStatusUnhealthy {
			continue // of a registry that does not know the filter
		}
		v4, v6 := address(i.Attributes[attributeIPv4]), address(i.Attributes[attributeIPv6])
		if !v4.Is4() {
			v4 = netip.Addr{}
		}
		if !v6.Is6() {
			v6 = netip.Addr{}
		}
		port, ok := port(i.Attributes[attributePort], q.Port)
		if !ok || (!v4.IsValid() && !v6.IsValid()) {
			unfit++
			continue
		}
		if addr := preferred(q.IPPreference, v4, v6); addr.IsValid() {
			set = append(set, envoy.Endpoint{Address: addr.String(), Port: port})
		}
	}
	slices.SortFunc(set, func(a, b envoy.Endpoint) int {
		return cmp.Or(cmp.Compare(a.Address, b.Address), cmp.Compare(a.Port, b.Port))
	})
	return slices.Compact(set), unfit
}

// preferred chooses between an instance's addresses; both may be missing. Without
// a preference it is IPv4 first (IPP-002).
func preferred(preference string, v4, v6 netip.Addr) netip.Addr {
	order := [2]netip.Addr{v4, v6}
	switch api.IPPreference(preference) {
	case api.IPPreferenceIPv4Only:
		order[1] = netip.Addr{}
	case api.IPPreferenceIPv6Only:
		order[0] = netip.Addr{}
		fallthrough
	case api.IPPreferenceIPv6Preferred:
		order[0], order[1] = order[1], order[0]
	}
	if order[0].IsValid() {
		return order[0]
	}
	return order[1]
}

// address parses an address without a zone: an interface of another host means
// nothing here.
func address(text string) netip.Addr {
	addr, err := netip.ParseAddr(text)
	if err != nil || addr.Zone() != "" {
		return netip.Addr{}
	}
	return addr
}

func port(text string, otherwise uint32) (uint32, bool) {
	if text == "" {
		return otherwise, true
	}
	n, err := strconv.ParseUint(text, 10, 16)
	return uint32(n), err == nil && n > 0
}
