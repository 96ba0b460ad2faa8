package intercept

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// iptablesUnit is table nat of one family.
type iptablesUnit struct {
	tool   string // "iptables", "ip6tables-legacy", …
	ip6    bool
	legacy bool
}

func (u iptablesUnit) name() string { return u.tool }

// look leaves out -t for the older form, which would give the namespace an empty table nat.
func (u iptablesUnit) look(ctx context.Context) (holding, error) {
	args := []string{"-t", "nat"}
	if u.legacy {
		args = nil
	}
	saved, err := run(ctx, "", u.tool+"-save", args...)
	if err != nil {
		return holding{}, err
	}
	o := readSaved(saved)
	return holding{saved, o.lines(), o.foreign}, nil
}

func (u iptablesUnit) put(ctx context.Context, cfg *Config, now holding) error {
	text := removeIPTables(now.saved)
	if cfg != nil {
		text = cfg.IPTables(u.ip6, now.saved)
	}
	return u.commit(ctx, text)
}

func (u iptablesUnit) restore(ctx context.Context, before, now holding) error {
	return u.commit(ctx, restoreIPTables(readSaved(before.saved), readSaved(now.saved)))
}

func (u iptablesUnit) commit(ctx context.Context, text string) error {
	_, err := run(ctx, text, u.tool+"-restore", "--noflush", "--wait")
	return err
}

// canonical is what is there without the places of jumps, which others' rules move.
func (u iptablesUnit) canonical(h holding) []string { return readSaved(h.saved).canonical() }

func (b iptables) wanted(cfg Config) [][]string {
	out := [][]string{readSaved(cfg.IPTables(false, "")).canonical(), nil}
	if cfg.IPv6 {
		out[1] = readSaved(cfg.IPTables(true, "")).canonical()
	}
	return out
}

// IPTables is the configuration as input of `iptables-restore --noflush` (ip6: of ip6tables-restore). saved is
// what iptables-save printed for table nat: jumps found there are taken out first, because appending them again
// would double them, and chains that are no longer wanted are removed.
func (c Config) IPTables(ip6 bool, saved string) string {
	now := readSaved(saved)
	var b strings.Builder
	b.WriteString("*nat\n")
	chains := c.chains(ip6)
	for _, chain := range chains {
		declare(&b, chain)
	}
	now.deleteJumps(&b)
	for _, chain := range now.chains {
		if !slices.Contains(chains, chain) {
			fmt.Fprintf(&b, "-F %s\n-X %s\n", chain, chain)
		}
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
	c.iptablesDNS(&b, ip6)
	fmt.Fprintf(&b, "-A OUTPUT -p tcp -m addrtype ! --dst-type LOCAL -j %s\n", egressChain)
	if slices.Contains(chains, ingressChain) {
		fmt.Fprintf(&b, "-A PREROUTING -p tcp -m addrtype ! --src-type LOCAL -j %s\n", ingressChain)
	}
	b.WriteString("COMMIT\n")
	return b.String()
}

// removeIPTables undoes IPTables for the rules that iptables-save printed: jumps first, then the chains, which
// must be empty and without jumps to go. The empty string means that there is nothing to remove.
func removeIPTables(saved string) string {
	now := readSaved(saved)
	var b strings.Builder
	now.deleteJumps(&b)
	for _, chain := range now.chains {
		fmt.Fprintf(&b, "-F %s\n-X %s\n", chain, chain)
	}
	if b.Len() == 0 {
		return ""
	}
	return "*nat\n" + b.String() + "COMMIT\n"
}

// restoreIPTables turns what is there now into what was there before, jumps in the places that they had among the
// rules of others, which it does not touch.
func restoreIPTables(before, now owned) string {
	var b strings.Builder
	b.WriteString("*nat\n")
	for _, chain := range before.chains {
		declare(&b, chain)
	}
	now.deleteJumps(&b)
	for _, chain := range now.chains {
		if !slices.Contains(before.chains, chain) {
			fmt.Fprintf(&b, "-F %s\n-X %s\n", chain, chain)
		}
	}
	for _, rule := range before.rules {
		b.WriteString("-A " + rule + "\n")
	}
	length := now.others
	for _, j := range before.jumps {
		length[j.from]++ // a rule may be inserted one behind the last at most
		fmt.Fprintf(&b, "-I %s %d %s\n", j.from, min(j.at, length[j.from]), j.rule)
	}
	b.WriteString("COMMIT\n")
	return b.String()
}

// declare makes the chain, or empties it if it exists.
func declare(b *strings.Builder, chain string) { fmt.Fprintf(b, ":%s - [0:0]\n", chain) }

// iptablesEgress is the route manager's rule order; each ignored port has a rule of its own, which is how it
// avoids the limit of multiport (ICPT-013).
func (c Config) iptablesEgress(ip6 bool) []string {
	rules := c.iptablesOwners()
	for _, r := range c.IgnoredPorts {
		rules = append(rules, "-p tcp -m multiport --dports "+r.join(":")+" -j RETURN")
	}
	for _, prefix := range c.addresses(ip6) {
		rules = append(rules, "-p tcp -d "+address(prefix)+" -j RETURN")
	}
	return append(rules, fmt.Sprintf("-p tcp -j REDIRECT --to-ports %d", c.EgressPort))
}

func (c Config) iptablesOwners() []string {
	matches := map[OwnerKind]string{
		OwnerMark: "-m mark --mark 0x%x", OwnerUID: "-m owner --uid-owner %d", OwnerGID: "-m owner --gid-owner %d",
	}
	var rules []string
	for _, owner := range c.Ignored {
		rules = append(rules, fmt.Sprintf(matches[owner.Kind]+" -j RETURN", owner.ID))
	}
	return rules
}

// iptablesDNS captures queries before the egress chain sees those over TCP. Queries to a loopback address cannot
// leave the machine, so they are captured only if the responder has such an address too.
func (c Config) iptablesDNS(b *strings.Builder, ip6 bool) {
	responder, ok := c.responder(ip6)
	if !ok {
		return
	}
	if c.Enabled {
		for _, rule := range c.iptablesOwners() {
			fmt.Fprintf(b, "-A %s %s\n", dnsChain, rule)
		}
		for _, protocol := range dnsProtocols {
			fmt.Fprintf(b, "-A %s -p %[2]s -m %[2]s --dport %[3]d -j DNAT --to-destination %[4]s\n", dnsChain, protocol, dnsPort, responder)
		}
	}
	but := ""
	if !responder.Addr().IsLoopback() {
		but = "! -d " + loopback(ip6).String() + " "
	}
	for _, protocol := range dnsProtocols {
		fmt.Fprintf(b, "-A OUTPUT %s-p %[2]s -m %[2]s --dport %[3]d -j %[4]s\n", but, protocol, dnsPort, dnsChain)
	}
}

// canonicalRule is the rule as iptables-save prints it: addresses first, and with the length of their prefix.
func canonicalRule(rule string) string {
	before, after, ok := strings.Cut(rule, " -p tcp -d ")
	if !ok {
		return rule
	}
	addr, rest, _ := strings.Cut(after, " ")
	if a, err := netip.ParseAddr(addr); err == nil {
		addr = netip.PrefixFrom(a, a.BitLen()).String()
	}
	return before + " -d " + addr + " -p tcp " + rest
}
