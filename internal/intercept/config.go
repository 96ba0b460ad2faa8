package intercept

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// OwnerKind says by what a rule recognises traffic of Envoy itself.
type OwnerKind string

// The three ways to recognise Envoy. A mark works where users cannot: in a user namespace with one id.
const (
	OwnerMark OwnerKind = "mark"
	OwnerUID  OwnerKind = "uid"
	OwnerGID  OwnerKind = "gid"
)

// Owner is one exclusion: traffic with this mark, user id or group id is never redirected.
type Owner struct {
	Kind OwnerKind
	ID   uint32
}

// Config is what the route manager's variables ask for. Lists keep the order in which they were given.
type Config struct {
	Enabled      bool        // false: the chains are made and stay empty
	IPv6         bool        // the same rules for IPv6 too
	Ignored      []Owner     // never empty; mark, then uid, then gid
	EgressPort   uint16      // where local processes' traffic goes
	IngressPort  uint16      // where arriving traffic goes; 0 without AppPorts
	AppPorts     []PortRange // empty: no ingress chain
	IgnoredPorts []PortRange // always with 22
	IgnoredIPs   []netip.Prefix
	DNS          []netip.AddrPort // where local processes' queries go instead; one of a family at most, none leaves them alone
}

// guideError is a sentence that the user guide prints and scripts look for.
type guideError string

func (e guideError) Error() string { return string(e) }

// What must be set (ICPT-008, ICPT-009, ICPT-010).
const (
	errNoOwner guideError = "Variables APPMESH_IGNORE_UID and/or APPMESH_IGNORE_GID must be set."
	errNoOut   guideError = "APPMESH_ENVOY_EGRESS_PORT must be defined to forward traffic from the application to the proxy."
	errNoIn    guideError = "APPMESH_ENVOY_INGRESS_PORT must be defined to forward traffic from the APPMESH_APP_PORTS to the proxy."
)

// maxOwnerID is the largest user or group id that the guide allows (ICPT-023).
const maxOwnerID = 1<<31 - 1

// Parse reads the variables of the route manager, EVERMESH_IGNORE_MARK and EVERMESH_DNS_CAPTURE through getenv (os.Getenv in the
// program). The error joins every problem found, each naming its variable and what it takes.
func Parse(getenv func(string) string) (Config, error) {
	p := parser{getenv: getenv}
	cfg := Config{
		Enabled:      p.on("APPMESH_START_ENABLED"),
		IPv6:         p.on("APPMESH_ENABLE_IPV6"),
		Ignored:      p.owners(),
		EgressPort:   p.port("APPMESH_ENVOY_EGRESS_PORT"),
		IngressPort:  p.port("APPMESH_ENVOY_INGRESS_PORT"),
		AppPorts:     p.ports("APPMESH_APP_PORTS"),
		IgnoredPorts: WithSSH(p.ports("APPMESH_EGRESS_IGNORED_PORTS")),
		IgnoredIPs:   p.prefixes("APPMESH_EGRESS_IGNORED_IP"),
	}
	cfg.DNS = p.responders(cfg.IPv6)
	if len(cfg.AppPorts) > 0 && p.value("APPMESH_ENVOY_INGRESS_PORT") == "" {
		p.problems = append(p.problems, errNoIn)
	}
	for _, r := range cfg.AppPorts {
		if r.First == r.Last && (r.First == cfg.IngressPort || r.First == cfg.EgressPort) {
			p.fail("APPMESH_APP_PORTS", strconv.Itoa(int(r.First)), "ports of the application: that one is Envoy's own")
		}
	}
	return cfg, errors.Join(p.problems...)
}

// parser collects problems so that one run names them all.
type parser struct {
	getenv   func(string) string
	problems []error
}

func (p *parser) value(name string) string { return strings.TrimSpace(p.getenv(name)) }

func (p *parser) fail(name, value, want string) {
	p.problems = append(p.problems, fmt.Errorf("%s=%q: want %s", name, value, want))
}

// on reads a switch. The route manager took everything but 1 for 0, and so left out in silence what "true" asked for.
func (p *parser) on(name string) bool {
	switch v := p.value(name); v {
	case "", "0":
	case "1":
		return true
	default:
		p.fail(name, v, "1 or 0")
	}
	return false
}

func (p *parser) owners() []Owner {
	var owners []Owner
	add := func(name string, kind OwnerKind, base int, low, high uint64, want string) {
		v := p.value(name)
		if v == "" {
			return
		}
		id, err := strconv.ParseUint(v, base, 32)
		if err != nil || id < low || id > high {
			p.fail(name, v, want)
			return
		}
		owners = append(owners, Owner{kind, uint32(id)})
	}
	before := len(p.problems)
	add("EVERMESH_IGNORE_MARK", OwnerMark, 0, 1, 1<<32-1, "a mark from 1 to 0xffffffff, such as 0x539")
	add("APPMESH_IGNORE_UID", OwnerUID, 10, 0, maxOwnerID, "a numeric user id from 0 to 2147483647")
	add("APPMESH_IGNORE_GID", OwnerGID, 10, 0, maxOwnerID, "a numeric group id from 0 to 2147483647")
	if len(owners) == 0 && len(p.problems) == before {
		p.problems = append(p.problems, errNoOwner)
	}
	return owners
}

func (p *parser) port(name string) uint16 {
	v := p.value(name)
	if v == "" {
		if name == "APPMESH_ENVOY_EGRESS_PORT" {
			p.problems = append(p.problems, errNoOut)
		}
		return 0
	}
	r, err := parsePortRange(v)
	if err != nil || r.First != r.Last {
		p.fail(name, v, "a port from 1 to 65535")
	}
	return r.First
}

func (p *parser) ports(name string) []PortRange {
	var out []PortRange
	for item := range items(p.getenv(name)) {
		r, err := parsePortRange(item)
		if err != nil {
			p.fail(name, item, "ports from 1 to 65535, or ranges such as 8000:8010, separated by commas")
			continue
		}
		out = append(out, r)
	}
	return out
}

func (p *parser) prefixes(name string) []netip.Prefix {
	var out []netip.Prefix
	for item := range items(p.getenv(name)) {
		prefix, err := netip.ParsePrefix(item)
		if addr, addrErr := netip.ParseAddr(item); addrErr == nil {
			prefix, err = netip.PrefixFrom(addr, addr.BitLen()), nil
		}
		if err != nil || prefix.Addr().Zone() != "" {
			p.fail(name, item, "IPv4 or IPv6 addresses, or CIDR blocks, separated by commas")
			continue
		}
		out = append(out, prefix.Masked())
	}
	return out
}

// responders reads where queries are to go: an address of each family at most, with a port or without one.
func (p *parser) responders(ip6 bool) []netip.AddrPort {
	const name, want = "EVERMESH_DNS_CAPTURE", "an address of the mesh's name server, such as 10.0.0.2:53 or [fd00::2]:53, one of each family at most"
	var out []netip.AddrPort
	for item := range items(p.getenv(name)) {
		at, err := netip.ParseAddrPort(item)
		if addr, addrErr := netip.ParseAddr(item); addrErr == nil {
			at, err = netip.AddrPortFrom(addr, dnsPort), nil
		}
		at = netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
		second := slices.ContainsFunc(out, func(o netip.AddrPort) bool { return o.Addr().Is6() == at.Addr().Is6() })
		switch {
		case err != nil || at.Port() == 0 || at.Addr().IsUnspecified() || at.Addr().Zone() != "" || second:
			p.fail(name, item, want)
		case at.Addr().Is6() && !ip6:
			p.fail(name, item, "APPMESH_ENABLE_IPV6=1 beside it")
		default:
			out = append(out, at)
		}
	}
	return out
}

// Summary says in one line what the rules of back end do, for people.
func (c Config) Summary(backend string) string {
	if !c.Enabled {
		return backend + ": chains are made and empty; nothing is redirected"
	}
	families := "IPv4"
	if c.IPv6 {
		families = "IPv4 and IPv6"
	}
	arriving := "arriving traffic is left alone"
	if len(c.AppPorts) > 0 {
		arriving = fmt.Sprintf("TCP arriving at %s goes to port %d", joined(c.AppPorts, ":", ","), c.IngressPort)
	}
	var owners []string
	for _, o := range c.Ignored {
		form := "%s %d"
		if o.Kind == OwnerMark {
			form = "%s %#x"
		}
		owners = append(owners, fmt.Sprintf(form, o.Kind, o.ID))
	}
	var queries string
	if len(c.DNS) > 0 {
		var to []string
		for _, at := range c.DNS {
			to = append(to, at.String())
		}
		queries = "; DNS queries go to " + strings.Join(to, " and ")
	}
	return fmt.Sprintf("%s, %s: %s; TCP to other hosts goes to port %d%s, but for %s", backend, families, arriving, c.EgressPort, queries, strings.Join(owners, ", "))
}
