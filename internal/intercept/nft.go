package intercept

import (
	"fmt"
	"net/netip"
	"strings"
)

// Chain names that troubleshooting guides look for (ICPT-012).
const (
	egressChain  = "APPMESH_EGRESS"
	ingressChain = "APPMESH_INGRESS"
)

// nftTable holds everything of ours in each family, so that undoing is deleting it.
const nftTable = "evermesh"

// NFT is the configuration as one nft transaction. It begins by emptying what an earlier run left: always for
// IPv4, for IPv6 when the rules include it or stale6 says that an earlier run made the table.
func (c Config) NFT(stale6 bool) string {
	var b strings.Builder
	b.WriteString(removeNFT(true, c.IPv6 || stale6))
	c.nftFamily(&b, "ip")
	if c.IPv6 {
		c.nftFamily(&b, "ip6")
	}
	return b.String()
}

// removeNFT deletes our table. Adding it first makes the deletion succeed where it does not exist.
func removeNFT(ip4, ip6 bool) string {
	var b strings.Builder
	for _, f := range []struct {
		family string
		wanted bool
	}{{"ip", ip4}, {"ip6", ip6}} {
		if f.wanted {
			fmt.Fprintf(&b, "add table %[1]s %[2]s\ndelete table %[1]s %[2]s\n", f.family, nftTable)
		}
	}
	return b.String()
}

func (c Config) nftFamily(b *strings.Builder, family string) {
	fmt.Fprintf(b, "table %s %s {\n", family, nftTable)
	if len(c.AppPorts) > 0 {
		nftChain(b, ingressChain, c.nftIngress())
	}
	nftChain(b, egressChain, c.nftEgress(family))
	if len(c.AppPorts) > 0 {
		nftChain(b, "PREROUTING", []string{
			"type nat hook prerouting priority -100; policy accept;",
			"meta l4proto tcp fib saddr type != local jump " + ingressChain,
		})
	}
	nftChain(b, "OUTPUT", []string{
		"type nat hook output priority -100; policy accept;",
		"meta l4proto tcp fib daddr type != local jump " + egressChain,
	})
	b.WriteString("}\n")
}

func nftChain(b *strings.Builder, name string, rules []string) {
	fmt.Fprintf(b, "\tchain %s {\n", name)
	for _, rule := range rules {
		fmt.Fprintf(b, "\t\t%s\n", rule)
	}
	b.WriteString("\t}\n")
}

func (c Config) nftIngress() []string {
	if !c.Enabled {
		return nil
	}
	return []string{fmt.Sprintf("tcp dport { %s } redirect to :%d", joined(merged(c.AppPorts), "-", ", "), c.IngressPort)}
}

// nftEgress is the route manager's rule order: owners, ports, addresses, then everything else (ICPT-013).
func (c Config) nftEgress(family string) []string {
	if !c.Enabled {
		return nil
	}
	selectors := map[OwnerKind]string{OwnerMark: "meta mark 0x%x", OwnerUID: "meta skuid %d", OwnerGID: "meta skgid %d"}
	var rules []string
	for _, owner := range c.Ignored {
		rules = append(rules, fmt.Sprintf(selectors[owner.Kind]+" return", owner.ID))
	}
	for _, r := range c.IgnoredPorts {
		rules = append(rules, "tcp dport "+r.join("-")+" return")
	}
	for _, prefix := range c.addresses(family == "ip6") {
		rules = append(rules, fmt.Sprintf("meta l4proto tcp %s daddr %s return", family, address(prefix)))
	}
	return append(rules, fmt.Sprintf("meta l4proto tcp redirect to :%d", c.EgressPort))
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

// address writes a single host without its prefix length, as people do.
func address(prefix netip.Prefix) string {
	if prefix.IsSingleIP() {
		return prefix.Addr().String()
	}
	return prefix.String()
}
