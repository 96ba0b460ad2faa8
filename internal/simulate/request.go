package simulate

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Direction is the side of the proxy at which a request comes in.
type Direction int

// Directions.
const (
	// Outbound: from the application beside the proxy, by interception, or to the
	// address where the proxy takes a service's connections without.
	Outbound Direction = iota
	// Inbound: from elsewhere to a port of the node, by interception, or to a
	// listener of a gateway.
	Inbound
)

// Protocol is what a client speaks.
type Protocol int

// Protocols. GRPC is HTTP2 with POST and gRPC's content type.
const (
	HTTP1 Protocol = iota
	HTTP2
	GRPC
	TCP
)

// String is the protocol's name.
func (p Protocol) String() string {
	return [...]string{"HTTP/1.1", "HTTP/2", "gRPC", "TCP"}[p]
}

// Header is one line of a header. Names are compared in lower case.
type Header struct{ Name, Value string }

// Request is what a client sends, as it sends it.
type Request struct {
	Direction Direction
	// Destination is where the connection was going. Without an address it is one
	// that no resource names. Port 0 is the port of Authority, or 80, or 443 with
	// TLS.
	Destination netip.AddrPort
	Protocol    Protocol
	// TLS says that the connection is TLS; ServerName is its SNI, perhaps empty.
	TLS        bool
	ServerName string
	// Certificate has the alternative names of the client's certificate, as
	// "DNS:front.local", "URI:spiffe://mesh/front" or "IP:10.0.0.1"; nil: it has
	// none. That its issuer is trusted is taken for granted.
	Certificate []string

	Method    string // empty: GET, or POST for GRPC
	Scheme    string // of HTTP2 alone, as HTTP/1.1 does not send one; empty: http, or https with TLS
	Authority string // the Host header, with the port if the client sends one
	Path      string // with the query; empty: /
	Headers   []Header
}

// Parse reads "GET http://colors.local:9080/red?x=1": an outbound request by
// HTTP/1.1. The method may be left out. The scheme https makes it TLS with the
// host's name, http2 and grpc are HTTP/2 without TLS, and tcp://host:port is a
// connection that is no HTTP. A host that is an IP address is where the
// connection goes.
func Parse(line string) (Request, error) {
	method, url, ok := strings.Cut(strings.TrimSpace(line), " ")
	if !ok {
		method, url = "", method
	}
	scheme, rest, ok := strings.Cut(strings.TrimSpace(url), "://")
	if !ok {
		return Request{}, fmt.Errorf("parse request %q: want METHOD http://host/path", line)
	}
	r := Request{Method: method, Authority: rest, Path: "/"}
	if i := strings.IndexAny(rest, "/?"); i >= 0 {
		r.Authority, r.Path = rest[:i], rest[i:]
		if r.Path[0] == '?' {
			r.Path = "/" + r.Path
		}
	}
	host := withoutPort(r.Authority)
	switch scheme {
	case "http":
	case "https":
		r.TLS, r.ServerName = true, host
	case "http2":
		r.Protocol = HTTP2
	case "grpc":
		r.Protocol = GRPC
	case "tcp":
		if r.Protocol = TCP; portStart(r.Authority) < 0 {
			return Request{}, fmt.Errorf("parse request %q: want tcp://host:port", line)
		}
	default:
		return Request{}, fmt.Errorf("parse request %q: scheme %s is not http, https, http2, grpc or tcp", line, scheme)
	}
	if host == "" {
		return Request{}, fmt.Errorf("parse request %q: no host", line)
	}
	if port := r.Authority[len(host):]; port != "" {
		if n, err := strconv.ParseUint(port[1:], 10, 16); err != nil || n == 0 {
			return Request{}, fmt.Errorf("parse request %q: %q is no port", line, port[1:])
		}
	}
	if ip, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		r.Destination = netip.AddrPortFrom(ip, 0)
		r.ServerName = "" // no client sends an address
	}
	return r, nil
}

// obeyed are the headers by which a client changes timeouts and retries; they
// are believed where a proxy is not told that its clients are strangers.
var obeyed = []string{
	"x-envoy-upstream-rq-timeout-ms", "x-envoy-upstream-rq-per-try-timeout-ms", "x-envoy-upstream-rq-timeout-alt-response",
	"x-envoy-upstream-stream-duration-ms", "x-envoy-max-retries", "x-envoy-retry-on", "x-envoy-retry-grpc-on",
	"x-envoy-retriable-status-codes", "x-envoy-retriable-header-names", "x-envoy-hedge-on-per-try-timeout",
}

// checked is the request with its defaults, or why it cannot be simulated.
func (r Request) checked() (Request, error) {
	if r.Protocol < HTTP1 || r.Protocol > TCP {
		return r, fmt.Errorf("protocol %d does not exist", r.Protocol)
	}
	if r.Path == "" {
		r.Path = "/"
	}
	if r.Method == "" {
		r.Method = "GET"
		if r.Protocol == GRPC {
			r.Method = "POST"
		}
	}
	if (r.ServerName != "" || r.Certificate != nil) && !r.TLS {
		return r, errors.New("a server name or certificate without TLS")
	}
	if r.Destination.Port() == 0 {
		r.Destination = netip.AddrPortFrom(r.Destination.Addr(), r.port())
	}
	if !r.Destination.Addr().IsValid() {
		r.Destination = netip.AddrPortFrom(elsewhere, r.Destination.Port())
	}
	r.ServerName = strings.ToLower(r.ServerName)
	if r.Protocol == TCP {
		return r, nil
	}
	if !strings.HasPrefix(r.Path, "/") || r.Method == "CONNECT" {
		return r, fmt.Errorf("%s %s: only requests for a path are simulated", r.Method, r.Path)
	}
	headers := make([]Header, 0, len(r.Headers)+1)
	for _, h := range r.Headers {
		h.Name = strings.ToLower(h.Name)
		switch {
		case strings.HasPrefix(h.Name, ":") || h.Name == "host":
			return r, fmt.Errorf("header %s: it has a field of its own in the request", h.Name)
		case slices.Contains(obeyed, h.Name):
			return r, fmt.Errorf("header %s: what clients tell Envoy by headers is not simulated", h.Name)
		}
		headers = append(headers, h)
	}
	if r.Protocol == GRPC && header(headers, "content-type") == nil {
		headers = append(headers, Header{"content-type", "application/grpc"})
	}
	r.Headers = headers
	for _, s := range append([]string{r.Method, r.Authority, r.Path}, values(headers)...) {
		// Envoys of different age take other letters for one character or for several.
		if strings.ContainsFunc(s, func(c rune) bool { return c < ' ' && c != '\t' || c > '~' }) {
			return r, fmt.Errorf("%q: only texts in ASCII are simulated", s)
		}
	}
	if strings.ContainsAny(r.Path, " \t") || strings.ContainsAny(r.Authority, " \t/") {
		return r, fmt.Errorf("%q %q: no client can send that", r.Authority, r.Path)
	}
	return r, nil
}

// elsewhere is an address that no resource names (TEST-NET-2).
var elsewhere = netip.AddrFrom4([4]byte{198, 51, 100, 1})

func (r Request) port() uint16 {
	if i := portStart(r.Authority); i >= 0 {
		if n, err := strconv.ParseUint(r.Authority[i+1:], 10, 16); err == nil && n > 0 {
			return uint16(n)
		}
	}
	if r.TLS {
		return 443
	}
	return 80
}

// portStart is where the colon of a host's port is, or -1; as Envoy finds it,
// which does not look whether it is a port.
func portStart(host string) int {
	i := strings.LastIndexByte(host, ':')
	if i < strings.LastIndexByte(host, ']') {
		return -1
	}
	return i
}

func withoutPort(host string) string {
	if i := portStart(host); i >= 0 {
		return host[:i]
	}
	return host
}

// header are the values of a header; nil when it is absent.
func header(all []Header, name string) []string {
	var out []string
	for _, h := range all {
		if h.Name == name {
			out = append(out, h.Value)
		}
	}
	return out
}

func values(all []Header) []string {
	out := make([]string, len(all))
	for i, h := range all {
		out[i] = h.Value
	}
	return out
}
