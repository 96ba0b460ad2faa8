package discovery

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/envoy"
)

// Attributes by which instances of Cloud Map say where they are (DISC-011).
const (
	AttributeIPv4 = "AWS_INSTANCE_IPV4"
	AttributeIPv6 = "AWS_INSTANCE_IPV6"
	AttributePort = "AWS_INSTANCE_PORT"
)

// Instance is an instance as a Cloud Map tells it.
type Instance struct {
	Attributes map[string]string
	Unhealthy  bool
}

// Endpoints are the query's endpoints among the instances, in one order whatever
// the answer's is, each once; they are never nil. Unfit counts the instances
// without an address or with one that is none; an instance that has an address
// only of the family that the query leaves out (IPP-005, IPP-006) is not unfit.
// Instances that are unhealthy are left out (DISC-013); which instances have the
// query's attributes is Matches's.
func Endpoints(q envoy.EndpointQuery, instances []Instance) (set []envoy.Endpoint, unfit int) {
	set = []envoy.Endpoint{}
	for _, i := range instances {
		if i.Unhealthy {
			continue
		}
		v4, v6 := Address(i.Attributes[AttributeIPv4]), Address(i.Attributes[AttributeIPv6])
		if !v4.Is4() {
			v4 = netip.Addr{}
		}
		if !v6.Is6() {
			v6 = netip.Addr{}
		}
		port, ok := port(i.Attributes[AttributePort], q.Port)
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

// attributeKey undoes what an EndpointQuery does to keys.
var attributeKey = strings.NewReplacer("%3D", "=", "%25", "%")

// Attributes are the pairs that an instance must have for the query; nil when it
// asks for none (DISC-005).
func Attributes(q envoy.EndpointQuery) map[string]string {
	var out map[string]string
	for pair := range strings.SplitSeq(q.Attributes, "\n") {
		if key, value, ok := strings.Cut(pair, "="); ok {
			if out == nil {
				out = map[string]string{}
			}
			out[attributeKey.Replace(key)] = value
		}
	}
	return out
}

// Matches says whether an instance's attributes have all of the pairs.
func Matches(attributes, pairs map[string]string) bool {
	for key, value := range pairs {
		if has, ok := attributes[key]; !ok || has != value {
			return false
		}
	}
	return true
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

// Address parses an address without a zone: an interface of another host means
// nothing here. It is the zero Addr for what is no address.
func Address(text string) netip.Addr {
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
