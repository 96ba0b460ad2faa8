package intercept

import (
	"context"
	"fmt"
	"strings"
)

// nftTable holds everything of ours in each family, so that undoing is deleting it.
const nftTable = "evermesh"

// nftUnit is our table in both families.
type nftUnit struct{}

func (nftUnit) name() string { return "nft" }

func (nftUnit) look(ctx context.Context) (holding, error) {
	tables, err := run(ctx, "", "nft", "list", "tables")
	if err != nil {
		return holding{}, err
	}
	var h holding
	for line := range strings.Lines(tables) {
		for _, family := range []string{"ip", "ip6"} {
			if strings.TrimSpace(line) != "table "+family+" "+nftTable {
				continue
			}
			text, err := run(ctx, "", "nft", "list", "table", family, nftTable)
			if err != nil {
				return holding{}, err
			}
			h.saved += text
		}
	}
	h.own, h.foreign = readTables(h.saved)
	return h, nil
}

func (nftUnit) put(ctx context.Context, cfg *Config, now holding) error {
	text := removeNFT(hasTable(now.saved, "ip"), hasTable(now.saved, "ip6"))
	if cfg != nil {
		text = cfg.NFT(hasTable(now.saved, "ip6"))
	}
	_, err := run(ctx, text, "nft", "-f", "-")
	return err
}

func (nftUnit) restore(ctx context.Context, before, now holding) error {
	text := removeNFT(hasTable(now.saved, "ip"), hasTable(now.saved, "ip6")) + before.saved
	_, err := run(ctx, text, "nft", "-f", "-")
	return err
}

func (nftUnit) canonical(h holding) []string { return canonicalNFT(h.saved) }

func (nft) wanted(cfg Config) [][]string { return [][]string{canonicalNFT(cfg.NFT(false))} }

func hasTable(saved, family string) bool {
	return strings.Contains(saved, "table "+family+" "+nftTable+" {")
}

// readTables gives the lines of our tables, and what is in them that is not ours: chains of other names, sets.
func readTables(saved string) (own, foreign []string) {
	for line := range strings.Lines(saved) {
		line = strings.TrimSpace(line)
		if line == "" || line == "}" {
			continue
		}
		own = append(own, line)
		block, opens := strings.CutSuffix(line, " {")
		kind, name, _ := strings.Cut(block, " ")
		switch {
		case !opens || kind == "table":
		case kind != "chain" || !isOurs(name) && name != "OUTPUT" && name != "PREROUTING":
			foreign = append(foreign, line)
		}
	}
	return own, foreign
}

// canonicalNFT is text of nft in one spelling, whether it was printed by some version of nft or made here.
func canonicalNFT(text string) []string {
	var out []string
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) == 0 || words[0] == "}" || words[0] == "add" || words[0] == "delete" {
			continue
		}
		if words[0] == "type" { // the name of a priority depends on nft's version
			words = words[:4]
		}
		for i, word := range words {
			if i > 0 && words[i-1] == "l4proto" { // a number where the machine has no /etc/protocols, as images do not
				words[i] = map[string]string{"6": "tcp", "17": "udp"}[word]
				if words[i] == "" {
					words[i] = word
				}
			}
			if i > 0 && words[i-1] == "mark" {
				var mark uint32
				if _, err := fmt.Sscanf(word, "0x%x", &mark); err == nil {
					words[i] = fmt.Sprintf("0x%x", mark)
				}
			}
		}
		line = strings.Join(words, " ")
		if before, after, ok := strings.Cut(line, " { "); ok { // a set of one is printed without braces
			if one, rest, _ := strings.Cut(after, " } "); !strings.Contains(one, ",") {
				line = before + " " + one + " " + rest
			}
		}
		out = append(out, line)
	}
	return out
}

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
	ip6 := family == "ip6"
	output := []string{"type nat hook output priority -100; policy accept;"}
	fmt.Fprintf(b, "table %s %s {\n", family, nftTable)
	if len(c.AppPorts) > 0 {
		nftChain(b, ingressChain, c.nftIngress())
	}
	nftChain(b, egressChain, c.nftEgress(family))
	if responder, ok := c.responder(ip6); ok {
		nftChain(b, dnsChain, c.nftDNS(responder.String()))
		but := ""
		if !responder.Addr().IsLoopback() { // queries to a loopback address cannot leave the machine
			but = fmt.Sprintf("%s daddr != %s ", family, address(loopback(ip6)))
		}
		for _, protocol := range dnsProtocols {
			output = append(output, fmt.Sprintf("%s%s dport %d jump %s", but, protocol, dnsPort, dnsChain))
		}
	}
	if len(c.AppPorts) > 0 {
		nftChain(b, "PREROUTING", []string{
			"type nat hook prerouting priority -100; policy accept;",
			"meta l4proto tcp fib saddr type != local jump " + ingressChain,
		})
	}
	nftChain(b, "OUTPUT", append(output, "meta l4proto tcp fib daddr type != local jump "+egressChain))
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
	rules := c.nftOwners()
	for _, r := range c.IgnoredPorts {
		rules = append(rules, "tcp dport "+r.join("-")+" return")
	}
	for _, prefix := range c.addresses(family == "ip6") {
		rules = append(rules, fmt.Sprintf("meta l4proto tcp %s daddr %s return", family, address(prefix)))
	}
	return append(rules, fmt.Sprintf("meta l4proto tcp redirect to :%d", c.EgressPort))
}

func (c Config) nftOwners() []string {
	selectors := map[OwnerKind]string{OwnerMark: "meta mark 0x%x", OwnerUID: "meta skuid %d", OwnerGID: "meta skgid %d"}
	var rules []string
	for _, owner := range c.Ignored {
		rules = append(rules, fmt.Sprintf(selectors[owner.Kind]+" return", owner.ID))
	}
	return rules
}

func (c Config) nftDNS(responder string) []string {
	if !c.Enabled {
		return nil
	}
	rules := c.nftOwners()
	for _, protocol := range dnsProtocols {
		rules = append(rules, fmt.Sprintf("%s dport %d dnat to %s", protocol, dnsPort, responder))
	}
	return rules
}
