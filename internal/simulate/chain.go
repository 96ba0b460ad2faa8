package simulate

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	filelogv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3"
	healthv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/health_check/v3"
	originaldstv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/original_dst/v3"
	tlsinspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"
	limitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/connection_limit/v3"
	directv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/direct_response/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/rbac/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
)

// listener is a decoded listener. One with original_dst gets what interception
// sends there, whatever port that was going to; another what comes to its address and port.
type listener struct {
	name        string
	outbound    bool
	intercepted bool
	address     netip.Addr // that it binds, with its port
	port        uint32
	inspector   *listenerv3.ListenerFilter
	chains      []*chain
}

// chain is a filter chain: what it matches and its one filter.
type chain struct {
	index  int
	match  *listenerv3.FilterChainMatch
	ranges []netip.Prefix
	http   *hcmv3.HttpConnectionManager
	tcp    *tcpv3.TcpProxy // with http nil; both nil: the connection is closed
	logs   []string
	tls    *TLS   // nil: what is TLS passes as it is
	most   uint64 // connections at a time; 0: no limit
}

func newListener(m *listenerv3.Listener) (*listener, error) {
	l := &listener{
		name: m.GetName(), outbound: m.GetTrafficDirection() == corev3.TrafficDirection_OUTBOUND,
		port: m.GetAddress().GetSocketAddress().GetPortValue(),
	}
	if at := m.GetAddress().GetSocketAddress().GetAddress(); at != "" {
		addr, err := netip.ParseAddr(at)
		if err != nil {
			return nil, fmt.Errorf("address: %w", err)
		}
		l.address = addr.Unmap()
	}
	for _, f := range m.GetListenerFilters() {
		switch {
		case f.GetTypedConfig().MessageIs(&originaldstv3.OriginalDst{}) && f.GetFilterDisabled() == nil:
			l.intercepted = true
		case f.GetTypedConfig().MessageIs(&tlsinspectorv3.TlsInspector{}):
			l.inspector = f
		default:
			return nil, fmt.Errorf("listener filter %s is not understood here", f.GetName())
		}
	}
	for i, f := range m.GetFilterChains() {
		c, err := newChain(i, f)
		if err != nil {
			return nil, fmt.Errorf("filter chain %d: %w", i, err)
		}
		for _, other := range l.chains {
			if other.standsInTheWay(c) {
				return nil, fmt.Errorf("filter chains %d and %d match the same connections", other.index, i)
			}
		}
		l.chains = append(l.chains, c)
	}
	return l, nil
}

func newChain(index int, m *listenerv3.FilterChain) (*chain, error) {
	c := &chain{index: index, match: m.GetFilterChainMatch()}
	for _, r := range c.match.GetPrefixRanges() {
		addr, err := netip.ParseAddr(r.GetAddressPrefix())
		if err != nil {
			return nil, fmt.Errorf("prefix range: %w", err)
		}
		p, err := addr.Prefix(int(r.GetPrefixLen().GetValue()))
		if err != nil {
			return nil, fmt.Errorf("prefix range: %w", err)
		}
		c.ranges = append(c.ranges, p)
	}
	if c.ranges == nil {
		c.ranges = []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)}
	}
	var err error
	if c.tls, err = tlsOf(m.GetTransportSocket()); err != nil {
		return nil, err
	}
	if len(m.GetFilters()) == 0 {
		return nil, errors.New("a chain without filters")
	}
	last := len(m.GetFilters()) - 1
	for _, f := range m.GetFilters()[:last] {
		if err := c.before(f); err != nil {
			return nil, err
		}
	}
	logs, err := c.end(m.GetFilters()[last])
	if err != nil {
		return nil, err
	}
	for _, log := range logs {
		file := &filelogv3.FileAccessLog{}
		if log.GetTypedConfig().MessageIs(file) {
			if err := log.GetTypedConfig().UnmarshalTo(file); err != nil {
				return nil, fmt.Errorf("decode access log: %w", err)
			}
			c.logs = append(c.logs, file.GetPath())
		}
	}
	return c, nil
}

// before takes a filter in front of the last one.
func (c *chain) before(f *listenerv3.Filter) error {
	limit := &limitv3.ConnectionLimit{}
	switch packed := f.GetTypedConfig(); {
	case packed.MessageIs(limit):
		if err := packed.UnmarshalTo(limit); err != nil {
			return fmt.Errorf("decode filter: %w", err)
		}
		if n := limit.GetMaxConnections().GetValue(); n < math.MaxUint32 {
			c.most = n
		}
	case packed.MessageIs(&rbacv3.RBAC{}): // known.go lets through only one that counts
	default:
		return fmt.Errorf("filter %s is not understood in front of others", f.GetName())
	}
	return nil
}

// end takes the last filter, which ends the connection, and returns its logs.
func (c *chain) end(f *listenerv3.Filter) ([]*accesslogv3.AccessLog, error) {
	packed := f.GetTypedConfig()
	switch {
	case packed.MessageIs(&hcmv3.HttpConnectionManager{}):
		c.http = &hcmv3.HttpConnectionManager{}
		if err := packed.UnmarshalTo(c.http); err != nil {
			return nil, fmt.Errorf("decode filter: %w", err)
		}
		filters := c.http.GetHttpFilters()
		if c.http.GetRds() == nil || len(filters) == 0 || slices.ContainsFunc(filters[:len(filters)-1], func(f *hcmv3.HttpFilter) bool {
			return !f.GetTypedConfig().MessageIs(&healthv3.HealthCheck{})
		}) {
			return nil, errors.New("only the router, with routes by RDS and after checks of health, is simulated")
		}
		return c.http.GetAccessLog(), nil
	case packed.MessageIs(&tcpv3.TcpProxy{}):
		c.tcp = &tcpv3.TcpProxy{}
		if err := packed.UnmarshalTo(c.tcp); err != nil {
			return nil, fmt.Errorf("decode filter: %w", err)
		}
		return c.tcp.GetAccessLog(), nil
	case packed.MessageIs(&directv3.Config{}):
		return nil, nil
	}
	return nil, fmt.Errorf("filter %s is not understood here", f.GetName())
}

// standsInTheWay says whether two chains are chosen by the same: Envoy keeps one
// of them, and which one is chance. It is so too when one says every address and
// the other says nothing of addresses, and they differ in what comes after.
func (c *chain) standsInTheWay(d *chain) bool {
	if c.match.GetDestinationPort().GetValue() != d.match.GetDestinationPort().GetValue() {
		return false
	}
	silent := func(x *chain) bool { return len(x.match.GetPrefixRanges()) == 0 }
	shared := slices.ContainsFunc(c.ranges, func(r netip.Prefix) bool { return slices.Contains(d.ranges, r) })
	if shared && silent(c) != silent(d) {
		return true
	}
	return shared && common(c.match.GetServerNames(), d.match.GetServerNames()) &&
		c.match.GetTransportProtocol() == d.match.GetTransportProtocol()
}

// common says whether two lists share a name, or are both empty.
func common(a, b []string) bool {
	return len(a) == 0 && len(b) == 0 || slices.ContainsFunc(a, func(s string) bool { return slices.Contains(b, s) })
}

// listener is where a connection arrives, or nil. What comes in comes to whatever address
// the port has; what goes out without interception goes to the address of a service.
func (p *Proxy) listener(r Request) *listener {
	for _, l := range p.listeners {
		switch {
		case l.outbound != (r.Direction == Outbound):
		case l.intercepted, l.binds(r.Destination), !l.outbound && l.port == uint32(r.Destination.Port()):
			return l
		}
	}
	return nil
}

// binds says whether a connection to there comes to the listener by itself.
func (l *listener) binds(at netip.AddrPort) bool {
	return l.port == uint32(at.Port()) && (!l.address.IsValid() || l.address.IsUnspecified() || l.address == at.Addr().Unmap())
}

// connection is what chooses between filter chains.
type connection struct {
	to         netip.AddrPort
	tls        bool
	serverName string
	names      []string // of the client's certificate; nil: none
}

// choose is Envoy's choice: the port, then the longest prefix, then the most
// specific server name, then the transport protocol. What is chosen in one step
// is not given up when nothing fits in the next.
func (l *listener) choose(c connection) *chain {
	transport := "raw_buffer"
	name := ""
	if c.tls && l.inspector != nil && !disabled(l.inspector.GetFilterDisabled(), c.to.Port()) {
		transport, name = "tls", c.serverName
	}
	left := l.on(uint32(c.to.Port()))
	if left == nil {
		left = l.on(0)
	}
	left = mostSpecific(left, func(x *chain) int {
		longest := -1
		for _, r := range x.ranges {
			if r.Contains(c.to.Addr().Unmap()) {
				longest = max(longest, r.Bits())
			}
		}
		return longest
	})
	left = mostSpecific(left, func(x *chain) int { return nameMatch(x.match.GetServerNames(), name) })
	left = mostSpecific(left, func(x *chain) int {
		switch x.match.GetTransportProtocol() {
		case transport:
			return 1
		case "":
			return 0
		}
		return -1
	})
	if len(left) == 0 {
		return nil
	}
	return left[0]
}

// other says of a connection that no chain takes whether one would with TLS, or
// without it, as the end of a sentence.
func (l *listener) other(c connection) string {
	had := c.tls
	c.tls = !had
	switch {
	case l.choose(c) == nil:
		return ""
	case had:
		return fmt.Sprintf(": port %d takes no TLS", c.to.Port())
	}
	return fmt.Sprintf(": port %d takes TLS only", c.to.Port())
}

func (l *listener) on(port uint32) []*chain {
	var out []*chain
	for _, c := range l.chains {
		if c.match.GetDestinationPort().GetValue() == port {
			out = append(out, c)
		}
	}
	return out
}

// mostSpecific are the chains with the highest rank; negative ones do not match.
func mostSpecific(all []*chain, rank func(*chain) int) []*chain {
	best := -1
	var out []*chain
	for _, c := range all {
		switch n := rank(c); {
		case n < 0:
		case n > best:
			best, out = n, []*chain{c}
		case n == best:
			out = append(out, c)
		}
	}
	return out
}

// nameMatch ranks a match by server name: exact before suffixes, the longest
// first, before no match by name at all; -1 when it does not match.
func nameMatch(names []string, name string) int {
	if len(names) == 0 {
		return 0
	}
	best := -1
	for _, n := range names {
		suffix, wild := strings.CutPrefix(n, "*.")
		switch {
		case !wild && n == name && name != "":
			best = max(best, 1<<20)
		case wild && len(name) > len(suffix)+1 && strings.HasSuffix(name, "."+suffix):
			best = max(best, 1+len(suffix))
		}
	}
	return best
}

// disabled evaluates a listener filter's predicate; none means enabled.
func disabled(m *listenerv3.ListenerFilterChainMatchPredicate, port uint16) bool {
	switch {
	case m == nil:
		return false
	case m.GetDestinationPortRange() != nil:
		r := m.GetDestinationPortRange()
		return int32(port) >= r.GetStart() && int32(port) < r.GetEnd()
	case m.GetNotMatch() != nil:
		return !disabled(m.GetNotMatch(), port)
	case m.GetOrMatch() != nil:
		return slices.ContainsFunc(m.GetOrMatch().GetRules(), func(x *listenerv3.ListenerFilterChainMatchPredicate) bool { return disabled(x, port) })
	}
	return m.GetAnyMatch()
}

// text says in words what a chain matches.
func (c *chain) text() string {
	var out []string
	if p := c.match.GetDestinationPort(); p != nil {
		out = append(out, fmt.Sprintf("port %d", p.GetValue()))
	}
	if len(c.match.GetServerNames()) > 0 {
		out = append(out, "server name "+strings.Join(c.match.GetServerNames(), " or "))
	}
	switch c.match.GetTransportProtocol() {
	case "raw_buffer":
		out = append(out, "no TLS")
	case "tls":
		out = append(out, "TLS")
	}
	return cmp.Or(strings.Join(out, ", "), "everything")
}
