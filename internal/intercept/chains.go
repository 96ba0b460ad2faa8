package intercept

import "net/netip"

// Chain names that troubleshooting guides look for (ICPT-012), and one of our own.
const (
	egressChain  = "APPMESH_EGRESS"
	ingressChain = "APPMESH_INGRESS"
	dnsChain     = "EVERMESH_DNS"
)

// ourChains are all chains that this package makes in table nat, whoever made them: App Mesh's route manager and its
// CNI plugin had the first two.
var ourChains = []string{ingressChain, egressChain, dnsChain}

// dnsPort is where queries go, by either protocol.
const dnsPort = 53

var dnsProtocols = []string{"udp", "tcp"}

// chains are those that the configuration has in one family.
func (c Config) chains(ip6 bool) []string {
	var out []string
	if len(c.AppPorts) > 0 {
		out = append(out, ingressChain)
	}
	out = append(out, egressChain)
	if _, ok := c.responder(ip6); ok {
		out = append(out, dnsChain)
	}
	return out
}

// addresses picks the ignored addresses of one family: a list may mix both (ICPT-015).
func (c Config) addresses(ip6 bool) []netip.Prefix {
	var out []netip.Prefix
	for _, prefix := range c.IgnoredIPs {
		if prefix.Addr().Is6() == ip6 {
			out = append(out, prefix)
		}
	}
	return out
}

// responder is where queries of one family are sent, if they are captured.
func (c Config) responder(ip6 bool) (netip.AddrPort, bool) {
	for _, addr := range c.DNS {
		if addr.Addr().Is6() == ip6 {
			return addr, true
		}
	}
	return netip.AddrPort{}, false
}

// loopback is what never leaves the machine.
func loopback(ip6 bool) netip.Prefix {
	if ip6 {
		return netip.PrefixFrom(netip.IPv6Loopback(), 128)
	}
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{127}), 8)
}

// address writes a single host without its prefix length, as people do.
func address(prefix netip.Prefix) string {
	if prefix.IsSingleIP() {
		return prefix.Addr().String()
	}
	return prefix.String()
}
