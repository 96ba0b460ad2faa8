package simulate

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
)

// What Envoy does where nothing is said.
const (
	defaultTimeout = 15 * time.Second
	streamIdle     = 5 * time.Minute
	tcpIdle        = time.Hour
)

// most is how many hops a request may take; a configuration that is right has
// two.
const most = 4

// message is a request on its way.
type message struct {
	protocol Protocol
	Message
	unclear string // a header that Envoys of different age match differently
}

func (m *message) isGRPC() bool {
	t := header(m.Headers, "content-type")
	return len(t) == 1 && (t[0] == "application/grpc" || strings.HasPrefix(t[0], "application/grpc+"))
}

// Send says what becomes of a request. It fails for a request that no client can
// send, or whose meaning this package does not know.
func (p *Proxy) Send(r Request) (*Outcome, error) {
	r, err := r.checked()
	if err != nil {
		return nil, fmt.Errorf("simulate request: %w", err)
	}
	out := &Outcome{}
	l := p.listener(r)
	if l == nil {
		out.close("no listener takes it")
		return out, nil
	}
	m := &message{r.Protocol, Message{Method: r.Method, Scheme: r.Scheme, Authority: r.Authority, Path: r.Path, Headers: r.Headers}, ""}
	if r.Protocol == TCP {
		m.Message = Message{}
	}
	if err := p.arrive(out, l, connection{r.Destination, r.TLS, r.ServerName, r.Certificate}, m); err != nil {
		return nil, fmt.Errorf("simulate request: %w", err)
	}
	return out, nil
}

// arrive takes a request through a listener.
func (p *Proxy) arrive(out *Outcome, l *listener, conn connection, m *message) error {
	if len(out.Hops) == most {
		return errors.New("the request goes round in circles")
	}
	c := l.choose(conn)
	if c == nil {
		out.Hops = append(out.Hops, Hop{Listener: l.name, Chain: -1, Match: "nothing", Route: -1})
		out.close("no filter chain matches" + l.other(conn))
		return nil
	}
	out.Hops = append(out.Hops, Hop{Listener: l.name, Chain: c.index, Match: c.text(), Route: -1, AccessLogs: c.logs, TLS: c.tls, MaxConnections: c.most})
	hop := &out.Hops[len(out.Hops)-1]
	if c.tls != nil {
		if !conn.tls {
			out.close("the chain takes TLS, and this is not")
			return nil
		}
		if why := p.refuses(c.tls, conn.names); why != "" {
			out.close(why)
			return nil
		}
	}
	switch {
	case c.http == nil && c.tcp == nil:
		out.close("the chain hangs up")
		return nil
	case c.tcp != nil:
		hop.Idle = tcpIdle
		if d := c.tcp.GetIdleTimeout(); d != nil {
			hop.Idle = d.AsDuration()
		}
		out.Targets = p.tcpTargets(c.tcp, conn.to)
		out.Sent = m.Message
		return nil
	case conn.tls && c.tls == nil:
		out.close("the chain takes HTTP, and this is TLS")
		return nil
	case m.protocol == TCP:
		out.close("the chain takes HTTP, and this is not")
		return nil
	}
	return p.request(out, hop, c.http, conn, m)
}

// request takes a request through a connection manager.
func (p *Proxy) request(out *Outcome, hop *Hop, hcm *hcmv3.HttpConnectionManager, conn connection, m *message) error {
	hop.RouteConfig = hcm.GetRds().GetRouteConfigName()
	if m.Authority == "" {
		out.answer(400, "the request names no host", m)
		return nil
	}
	m.setScheme(hop.TLS != nil)
	path, query := splitQuery(m.Path)
	if strings.Contains(m.Path, "#") {
		out.answer(400, "the path has a fragment", m)
		return nil
	}
	if hcm.GetNormalizePath().GetValue() {
		if dotsWithParameters(path) {
			return fmt.Errorf("path %s: dots with parameters, which Envoys of different age resolve differently", path)
		}
		var ok bool
		if path, ok = canonicalPath(path); !ok {
			out.answer(400, "the path cannot be normalised", m)
			return nil
		}
	}
	if hcm.GetMergeSlashes() {
		path = mergedSlashes(path)
	}
	m.Path = path + query
	hop.Path = m.Path
	if up := header(m.Headers, "upgrade"); up != nil && m.protocol == HTTP1 && !upgrades(hcm, up[0]) {
		out.answer(403, "the upgrade is not allowed", m)
		return nil
	}
	config := p.routes[hop.RouteConfig]
	if config == nil {
		out.answer(404, "there is no such route configuration", m)
		return nil
	}
	host := virtualHost(config, m.Authority)
	if host == nil {
		out.answer(404, "no virtual host matches", m)
		return nil
	}
	hop.Host = host.GetName()
	hop.Route = slices.IndexFunc(host.GetRoutes(), func(r *route) bool { return p.matches(r.GetMatch(), m) })
	if m.unclear != "" {
		return fmt.Errorf("header %s: it comes several times, and Envoys of different age match that differently", m.unclear)
	}
	if hop.Route < 0 {
		out.answer(404, "no route matches", m)
		return nil
	}
	r := host.GetRoutes()[hop.Route]
	hop.Matched = matchText(r.GetMatch())
	hop.HiddenFromClients = r.GetResponseHeadersToRemove()
	if direct := r.GetDirectResponse(); direct != nil {
		out.answer(int(direct.GetStatus()), "the route says so", m)
		return nil
	}
	action := r.GetRoute()
	if action == nil {
		return fmt.Errorf("route %d of %s has no action", hop.Route, hop.Host)
	}
	hop.Timeout, hop.Idle = defaultTimeout, streamIdle
	if d := action.GetTimeout(); d != nil {
		hop.Timeout = d.AsDuration()
	}
	if d := action.GetIdleTimeout(); d != nil {
		hop.Idle = d.AsDuration()
	}
	// The bound of a try counts without any retry too.
	hop.PerTry, hop.Retry = action.GetRetryPolicy().GetPerTryTimeout().AsDuration(), retryOf(action.GetRetryPolicy())
	if err := p.rewrite(r, m); err != nil {
		return err
	}
	return p.onward(out, p.targets(action, conn.to), conn, m)
}

// onward goes to the targets, or to another listener of the same proxy.
func (p *Proxy) onward(out *Outcome, to []Target, conn connection, m *message) error {
	if len(to) == 1 && to[0].Missing {
		out.answer(503, "there is no cluster "+to[0].Cluster, m)
		return nil
	}
	if l, at := p.self(to); l != nil {
		next := &message{to[0].protocol(m.protocol), m.Message, ""}
		if next.protocol == HTTP1 {
			next.Scheme = "" // HTTP/1.1 does not send it; x-forwarded-proto does
		}
		return p.arrive(out, l, connection{to: at}, next)
	}
	if len(to) == 1 && to[0].Discovery.Kind == Nothing {
		out.answer(503, "cluster "+to[0].Cluster+" has no endpoints", m)
		return nil
	}
	out.Targets = to
	out.Sent = m.Message
	out.Sent.Headers = slices.DeleteFunc(slices.Clone(m.Headers), func(h Header) bool { return h.Name == "x-forwarded-proto" })
	slices.SortStableFunc(out.Sent.Headers, func(a, b Header) int { return cmp.Compare(a.Name, b.Name) })
	return nil
}

// self is the listener of this proxy that a target leads back to, and the
// address; nil when it leads away. Interception does not take what a proxy sends.
func (p *Proxy) self(to []Target) (*listener, netip.AddrPort) {
	if len(to) != 1 || to[0].Discovery.Kind != Fixed || len(to[0].Discovery.Addresses) != 1 {
		return nil, netip.AddrPort{}
	}
	at, err := netip.ParseAddrPort(to[0].Discovery.Addresses[0])
	if err != nil || !at.Addr().IsLoopback() {
		return nil, netip.AddrPort{}
	}
	i := slices.IndexFunc(p.listeners, func(l *listener) bool { return l.binds(at) })
	if i < 0 {
		return nil, netip.AddrPort{}
	}
	return p.listeners[i], at
}

// setScheme fills in what HTTP/1.1 does not say: what a proxy in front has said,
// or whether the connection is TLS. x-forwarded-proto goes along to the next hop.
func (m *message) setScheme(tls bool) {
	plain := "http"
	if tls {
		plain = "https"
	}
	said := header(m.Headers, "x-forwarded-proto")
	if said == nil {
		m.Headers = append(slices.Clone(m.Headers), Header{"x-forwarded-proto", plain})
		said = []string{plain}
	}
	switch {
	case m.protocol == HTTP1:
		m.Scheme = plain
		if s := strings.ToLower(strings.Join(said, ",")); s == "http" || s == "https" {
			m.Scheme = s
		}
	case m.Scheme == "":
		m.Scheme = plain
	}
}

// upgrades says whether a connection may become one of that protocol.
func upgrades(hcm *hcmv3.HttpConnectionManager, to string) bool {
	return slices.ContainsFunc(hcm.GetUpgradeConfigs(), func(u *hcmv3.HttpConnectionManager_UpgradeConfig) bool {
		return strings.EqualFold(u.GetUpgradeType(), to) && (u.GetEnabled() == nil || u.GetEnabled().GetValue())
	})
}
