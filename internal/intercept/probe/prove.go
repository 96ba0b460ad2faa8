package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/evermesh/evermesh/internal/intercept"
)

// Outcome of a proof.
type Outcome string

// A proof that nothing could be said about is no failure by itself.
const (
	OK      Outcome = "ok"
	Failed  Outcome = "FAILED"
	Unknown Outcome = "unknown"
	Note    Outcome = "note" // no proof, but what the configuration leaves out
)

// Proof is one line of the answer.
type Proof struct {
	What    string // "egress IPv4"
	Outcome Outcome
	How     string // what was tried and what came of it
}

func (p Proof) String() string { return fmt.Sprintf("%-7s  %s: %s", p.Outcome, p.What, p.How) }

// Options say what is to be proven beside the rules.
type Options struct {
	Backends     []intercept.Backend // that may hold the rules; none where no tool is here to read them
	ControlPlane []string            // host:port of each endpoint of the control plane
}

// How long a connection may take that must come about, and one that should not.
const (
	connectWait = 2 * time.Second
	silentWait  = 500 * time.Millisecond
)

// Addresses that documentation reserves: nobody is there.
var (
	nowhere4 = netip.MustParseAddr("192.0.2.1")
	nowhere6 = netip.MustParseAddr("2001:db8::1")
)

// check is one run.
type check struct {
	cfg      intercept.Config
	options  Options
	workload identity
	rules    error // how the rules differ from the configuration
	unread   error // why they were not read
	proofs   []Proof
}

// Prove makes all proofs that cfg, taken as enabled, asks for, in the network namespace of the calling thread. It needs root or
// NET_ADMIN, and SYS_ADMIN for arriving traffic; what it cannot prove by traffic it reads from the rules, and says so.
func Prove(ctx context.Context, cfg intercept.Config, options Options) []Proof {
	cfg.Enabled = true
	c := &check{cfg: cfg, options: options}
	c.read(ctx)
	for _, port := range []uint16{cfg.EgressPort, cfg.IngressPort} {
		if port == 0 {
			continue
		}
		closed, err := standIn(ctx, port)
		if err != nil {
			c.say("ports", Failed, "%v", err)
			return c.proofs
		}
		defer closed()
	}
	var err error
	if c.workload, err = workload(cfg.Ignored); err != nil {
		c.say("egress", Failed, "%v", err)
		return c.proofs
	}
	families := []bool{false}
	if cfg.IPv6 {
		families = append(families, true)
	}
	for _, ip6 := range families {
		c.egress(ctx, ip6)
	}
	c.ingress(ctx, families)
	for _, ip6 := range families {
		for _, owner := range cfg.Ignored {
			c.own(ctx, of(owner), ip6)
		}
	}
	c.controlPlane(ctx)
	c.dns(ctx)
	if !cfg.IPv6 {
		c.without6()
	}
	return c.proofs
}

// without6 says that IPv6 goes past Envoy where there is an address by which it goes anywhere.
func (c *check) without6() {
	all, err := net.InterfaceAddrs()
	if err != nil {
		c.say("IPv6", Unknown, "is not redirected, and addresses are not to be had: %v", err)
		return
	}
	for _, a := range all {
		prefix, err := netip.ParsePrefix(a.String())
		if err == nil && prefix.Addr().Is6() && !prefix.Addr().Is4In6() && prefix.Addr().IsGlobalUnicast() {
			c.say("IPv6", Note, "is not redirected, though there is the address %s: APPMESH_ENABLE_IPV6=1 redirects it", prefix.Addr())
			return
		}
	}
}

func (c *check) say(what string, outcome Outcome, format string, args ...any) {
	c.proofs = append(c.proofs, Proof{what, outcome, fmt.Sprintf(format, args...)})
}

// read compares the rules with the configuration.
func (c *check) read(ctx context.Context) {
	if len(c.options.Backends) == 0 {
		c.unread = intercept.ErrNoTool
		c.say("rules", Unknown, "not read: %v", c.unread)
		return
	}
	used, err := intercept.Verify(ctx, c.options.Backends, c.cfg)
	if err != nil {
		c.rules = err
		c.say("rules", Failed, "%s", strings.ReplaceAll(err.Error(), "\n", "; "))
		return
	}
	c.say("rules", OK, "those of %s are what the variables ask for", used.Name())
}

// byReading falls back to the rules where traffic cannot show it.
func (c *check) byReading(what string, why error) {
	switch {
	case c.unread != nil:
		c.say(what, Failed, "not proven by traffic (%v), and the rules were not read", why)
	case c.rules != nil:
		c.say(what, Failed, "not proven by traffic (%v), and the rules are not as they should be", why)
	default:
		c.say(what, OK, "not proven by traffic (%v); read from the rules, which are as they should be", why)
	}
}

func family(ip6 bool) string {
	if ip6 {
		return "IPv6"
	}
	return "IPv4"
}

// target is an address where nobody is, and a port, neither of which is left alone.
func (c *check) target(ip6 bool) netip.AddrPort {
	addr := nowhere4
	if ip6 {
		addr = nowhere6
	}
	for _, prefix := range c.cfg.IgnoredIPs {
		for prefix.Contains(addr) && prefix.Bits() > 0 && addr.IsValid() {
			addr = addr.Next()
		}
	}
	port := uint16(80)
	for slices.ContainsFunc(c.cfg.IgnoredPorts, func(r intercept.PortRange) bool { return r.First <= port && port <= r.Last }) && port < 65535 {
		port++
	}
	return netip.AddrPortFrom(addr, port)
}

// connect tries a connection as id, and says whether it came about and arrived at port, where it is looked for as long as look says.
func connect(ctx context.Context, id identity, to string, within time.Duration, port uint16, look time.Duration) (came, there bool, err error) {
	doErr := id.do(func() error {
		dialer := id.dialer(within)
		conn, dialErr := dialer.DialContext(ctx, "tcp", to)
		if err = dialErr; err != nil {
			return nil
		}
		defer conn.Close()
		came = true
		there, err = arrived(ctx, conn.LocalAddr(), port, look)
		return nil
	})
	return came, there, errors.Join(doErr, err)
}

// noRoute is why a connection to the address would fail before any rule could see it; nil if it would not. It sends nothing.
func noRoute(ctx context.Context, to netip.AddrPort) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "udp", to.String())
	if err != nil {
		return err
	}
	return conn.Close()
}

func (c *check) egress(ctx context.Context, ip6 bool) {
	what, to := "egress "+family(ip6), c.target(ip6)
	if err := noRoute(ctx, to); err != nil {
		c.byReading(what, err)
		return
	}
	came, there, err := connect(ctx, c.workload, to.String(), connectWait, c.cfg.EgressPort, arrivalWait)
	switch {
	case there:
		c.say(what, OK, "a connection of %s to %s, where nobody is, arrived at port %d", c.workload, to, c.cfg.EgressPort)
	case came:
		c.say(what, Failed, "a connection of %s to %s did not arrive at port %d", c.workload, to, c.cfg.EgressPort)
	default:
		c.say(what, Failed, "a connection of %s to %s did not arrive at port %d: %v", c.workload, to, c.cfg.EgressPort, err)
	}
}

// ingress connects from a neighbour to each application port, the first one of a range.
func (c *check) ingress(ctx context.Context, families []bool) {
	if len(c.cfg.AppPorts) == 0 {
		c.say("ingress", OK, "there are no application ports, so nothing is captured")
		return
	}
	n, err := newNeighbour(len(families) > 1)
	if err != nil {
		for _, ip6 := range families {
			c.byReading("ingress "+family(ip6), err)
		}
		return
	}
	defer n.close()
	for _, ip6 := range families {
		what := "ingress " + family(ip6)
		near, ok := n.near[ip6]
		if !ok {
			c.byReading(what, n.errs[ip6])
			continue
		}
		var passed []string
		for _, r := range c.cfg.AppPorts {
			there, err := c.arrives(ctx, n, netip.AddrPortFrom(near, r.First))
			if !there {
				c.say(what, Failed, "a connection from another network namespace to port %d did not arrive at port %d: %v", r.First, c.cfg.IngressPort, err)
				passed = nil
				break
			}
			passed = append(passed, fmt.Sprint(r.First))
		}
		if len(passed) > 0 {
			c.say(what, OK, "connections from another network namespace to %s arrived at port %d", strings.Join(passed, ", "), c.cfg.IngressPort)
		}
	}
}

var errElsewhere = errors.New("it was taken by somebody else")

// arrives tries one connection from the neighbour.
func (c *check) arrives(ctx context.Context, n *neighbour, to netip.AddrPort) (bool, error) {
	var conn net.Conn
	if err := n.within(func() (err error) {
		conn, err = (&net.Dialer{Timeout: connectWait}).DialContext(ctx, "tcp", to.String())
		return err
	}); err != nil {
		return false, err
	}
	defer conn.Close()
	there, err := arrived(ctx, conn.LocalAddr(), c.cfg.IngressPort, arrivalWait)
	if !there && err == nil {
		err = errElsewhere
	}
	return there, err
}

// own tries what Envoy and the agent do: their connections must not come back to Envoy.
func (c *check) own(ctx context.Context, id identity, ip6 bool) {
	what, to := fmt.Sprintf("Envoy's own (%s) %s", id, family(ip6)), c.target(ip6)
	if err := noRoute(ctx, to); err != nil {
		c.byReading(what, err)
		return
	}
	came, there, err := connect(ctx, id, to.String(), silentWait, c.cfg.EgressPort, absenceWait)
	switch {
	case there:
		c.say(what, Failed, "its connection to %s came back to port %d", to, c.cfg.EgressPort)
	case errors.Is(err, errIdentity):
		c.byReading(what, err)
	case came && err != nil:
		c.say(what, Failed, "where its connection to %s arrived could not be seen: %v", to, err)
	default:
		c.say(what, OK, "its connection to %s, where nobody is, was left alone", to)
	}
}

// controlPlane connects to each endpoint as Envoy and the agent do. One that answers is enough.
func (c *check) controlPlane(ctx context.Context) {
	const what = "control plane"
	if len(c.options.ControlPlane) == 0 {
		c.say(what, Unknown, "no endpoint is known: APPMESH_XDS_ENDPOINT is not set, or is a socket")
		return
	}
	id := of(c.cfg.Ignored[0])
	var failures []string
	reached := 0
	for _, endpoint := range c.options.ControlPlane {
		addrs, err := resolve(ctx, id, endpoint)
		if err != nil {
			failures = append(failures, err.Error())
			continue
		}
		for _, addr := range addrs {
			came, there, err := connect(ctx, id, addr, connectWait, c.cfg.EgressPort, absenceWait)
			switch {
			case there:
				c.say(what, Failed, "a connection of %s to %s (%s) came back to port %d", id, endpoint, addr, c.cfg.EgressPort)
				return
			case came:
				reached++
				c.say(what, OK, "a connection of %s reached %s (%s), and not by port %d", id, endpoint, addr, c.cfg.EgressPort)
			default:
				failures = append(failures, fmt.Sprintf("%s: %v", endpoint, err))
			}
		}
	}
	outcome := Failed
	if reached > 0 {
		outcome = Unknown
	}
	for _, failure := range failures {
		c.say(what, outcome, "not reached as %s: %s", id, failure)
	}
}

// resolve asks for the endpoint's addresses as id does, which captured queries would change.
func resolve(ctx context.Context, id identity, endpoint string) ([]string, error) {
	host, port, err := net.SplitHostPort(endpoint)
	if err != nil {
		return nil, err
	}
	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, addr string) (conn net.Conn, err error) {
		err = id.do(func() error {
			dialer := id.dialer(connectWait)
			conn, err = dialer.DialContext(ctx, network, addr)
			return err
		})
		return conn, err
	}}
	ctx, cancel := context.WithTimeout(ctx, 2*connectWait)
	defer cancel()
	addrs, err := resolver.LookupHost(ctx, host)
	if err != nil {
		return nil, err
	}
	for i, addr := range addrs {
		addrs[i] = net.JoinHostPort(addr, port)
	}
	return addrs, nil
}

// query asks for the root's name servers, recursion wanted; any answer to it will do.
const query = "\x2e\x4d\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x01"

// dns asks where nobody is: only the mesh's name server can answer.
func (c *check) dns(ctx context.Context) {
	for _, responder := range c.cfg.DNS {
		ip6 := responder.Addr().Is6()
		what, to := "DNS "+family(ip6), netip.AddrPortFrom(c.target(ip6).Addr(), 53)
		if err := noRoute(ctx, to); err != nil {
			c.byReading(what, err)
			continue
		}
		err := c.workload.do(func() error {
			dialer := c.workload.dialer(connectWait)
			conn, err := dialer.DialContext(ctx, "udp", to.String())
			if err != nil {
				return err
			}
			defer conn.Close()
			if err := conn.SetDeadline(time.Now().Add(connectWait)); err != nil {
				return err
			}
			if _, err := conn.Write([]byte(query)); err != nil {
				return err
			}
			answer := make([]byte, 4096)
			n, err := conn.Read(answer)
			if err == nil && (n < 12 || string(answer[:2]) != query[:2]) {
				err = errors.New("what came is no answer")
			}
			return err
		})
		switch {
		case err == nil:
			c.say(what, OK, "a query of %s to %s, where nobody is, was answered by %s", c.workload, to.Addr(), responder)
		default:
			c.say(what, Failed, "a query of %s to %s was not answered by %s: %v", c.workload, to.Addr(), responder, err)
		}
	}
}
