package intercept

import (
	"fmt"
	"strings"
)

// IPTables is the configuration as input of `iptables-restore --noflush` (ip6: of ip6tables-restore). saved is
// what iptables-save printed for table nat: jumps found there are taken out first, because appending them again
// would double them, and an ingress chain that is no longer wanted is removed.
func (c Config) IPTables(ip6 bool, saved string) string {
	var b strings.Builder
	b.WriteString("*nat\n")
	ingress := len(c.AppPorts) > 0
	if ingress {
		declare(&b, ingressChain)
	}
	declare(&b, egressChain)
	deleteJumps(&b, saved)
	if !ingress {
		deleteChain(&b, ingressChain, saved)
	}
	if c.Enabled {
		for _, rule := range c.iptablesEgress(ip6) {
			fmt.Fprintf(&b, "-A %s %s\n", egressChain, rule)
		}
		for _, piece := range multiports(c.AppPorts) {
			fmt.Fprintf(&b, "-A %s -p tcp -m multiport --dports %s -j REDIRECT --to-ports %d\n",
				ingressChain, joined(piece, ":", ","), c.IngressPort)
		}
	}
	fmt.Fprintf(&b, "-A OUTPUT -p tcp -m addrtype ! --dst-type LOCAL -j %s\n", egressChain)
	if ingress {
		fmt.Fprintf(&b, "-A PREROUTING -p tcp -m addrtype ! --src-type LOCAL -j %s\n", ingressChain)
	}
	b.WriteString("COMMIT\n")
	return b.String()
}

// removeIPTables undoes IPTables for the rules that iptables-save printed: jumps first, then the chains, which
// must be empty and without jumps to go. The empty string means that there is nothing to remove.
func removeIPTables(saved string) string {
	var b strings.Builder
	deleteJumps(&b, saved)
	deleteChain(&b, egressChain, saved)
	deleteChain(&b, ingressChain, saved)
	if b.Len() == 0 {
		return ""
	}
	return "*nat\n" + b.String() + "COMMIT\n"
}

// declare makes the chain, or empties it if it exists.
func declare(b *strings.Builder, chain string) { fmt.Fprintf(b, ":%s - [0:0]\n", chain) }

func deleteChain(b *strings.Builder, chain, saved string) {
	for line := range strings.Lines(saved) {
		if strings.HasPrefix(line, ":"+chain+" ") {
			fmt.Fprintf(b, "-F %s\n-X %s\n", chain, chain)
		}
	}
}

// deleteJumps repeats each saved jump to our chains, with -D for -A.
func deleteJumps(b *strings.Builder, saved string) {
	for line := range strings.Lines(saved) {
		line = strings.TrimSpace(line)
		rule, appended := strings.CutPrefix(line, "-A ")
		from, _, _ := strings.Cut(rule, " ")
		builtIn := from == "OUTPUT" || from == "PREROUTING"
		ours := strings.HasSuffix(line, " -j "+egressChain) || strings.HasSuffix(line, " -j "+ingressChain)
		if appended && builtIn && ours {
			fmt.Fprintf(b, "-D %s\n", rule)
		}
	}
}

// iptablesEgress is the route manager's rule order; each ignored port has a rule of its own, which is how it
// avoids the limit of multiport (ICPT-013).
func (c Config) iptablesEgress(ip6 bool) []string {
	matches := map[OwnerKind]string{
		OwnerMark: "-m mark --mark 0x%x", OwnerUID: "-m owner --uid-owner %d", OwnerGID: "-m owner --gid-owner %d",
	}
	var rules []string
	for _, owner := range c.Ignored {
		rules = append(rules, fmt.Sprintf(matches[owner.Kind]+" -j RETURN", owner.ID))
	}
	for _, r := range c.IgnoredPorts {
		rules = append(rules, "-p tcp -m multiport --dports "+r.join(":")+" -j RETURN")
	}
	for _, prefix := range c.addresses(ip6) {
		rules = append(rules, "-p tcp -d "+address(prefix)+" -j RETURN")
	}
	return append(rules, fmt.Sprintf("-p tcp -j REDIRECT --to-ports %d", c.EgressPort))
}
