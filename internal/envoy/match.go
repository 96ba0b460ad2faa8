package envoy

import (
	"fmt"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"

	"github.com/evermesh/evermesh/internal/api"
)

func exactly(s string) *matcherv3.StringMatcher {
	return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: s}}
}

// headerIs matches a header's whole value.
func headerIs(name, value string) *routev3.HeaderMatcher {
	return &routev3.HeaderMatcher{Name: name, HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: exactly(value)}}
}

// header is one header or metadata match of any kind of route: the API's types
// for them have the same members.
type header struct {
	name   string
	invert *bool
	match  *api.HeaderMatchMethod // nil: the header is present
}

func (h header) matcher() (*routev3.HeaderMatcher, error) {
	out := &routev3.HeaderMatcher{Name: h.name, InvertMatch: h.invert != nil && *h.invert}
	m := h.match
	text := &matcherv3.StringMatcher{}
	switch {
	case m == nil:
		out.HeaderMatchSpecifier = &routev3.HeaderMatcher_PresentMatch{PresentMatch: true}
		return out, nil
	case m.Range != nil:
		out.HeaderMatchSpecifier = &routev3.HeaderMatcher_RangeMatch{RangeMatch: &typev3.Int64Range{Start: m.Range.Start, End: m.Range.End}}
		return out, nil
	case m.Prefix != "":
		text.MatchPattern = &matcherv3.StringMatcher_Prefix{Prefix: m.Prefix}
	case m.Suffix != "":
		text.MatchPattern = &matcherv3.StringMatcher_Suffix{Suffix: m.Suffix}
	case m.Regex != "":
		p, err := pattern(m.Regex)
		if err != nil {
			return nil, fmt.Errorf("header %s: %w", h.name, err)
		}
		text.MatchPattern = &matcherv3.StringMatcher_SafeRegex{SafeRegex: p}
	default:
		text.MatchPattern = &matcherv3.StringMatcher_Exact{Exact: m.Exact}
	}
	out.HeaderMatchSpecifier = &routev3.HeaderMatcher_StringMatch{StringMatch: text}
	return out, nil
}

// requestMatch is a match of any kind of route or gateway route.
type requestMatch struct {
	prefix, exact, regex string // one of them; a route without is prefix /
	method, scheme       string
	headers              []header
	query                []api.HTTPQueryParameter
	port                 *int64
}

func routeMatch(spec *api.RouteSpec) requestMatch {
	http := spec.HTTPRoute
	if http == nil {
		http = spec.HTTP2Route
	}
	var out requestMatch
	switch {
	case http != nil:
		m := http.Match
		out = requestMatch{method: string(m.Method), query: m.QueryParameters, port: m.Port}
		if spec.HTTP2Route != nil {
			out.scheme = string(m.Scheme) // of http2 routes alone (RT-014)
		}
		out.path(m.Prefix, m.Path)
		for _, h := range m.Headers {
			out.headers = append(out.headers, header{h.Name, h.Invert, h.Match})
		}
	case spec.GRPCRoute != nil:
		m := spec.GRPCRoute.Match
		out.port = m.Port
		out.service(m.ServiceName, m.MethodName)
		for _, h := range m.Metadata {
			out.headers = append(out.headers, header{h.Name, h.Invert, (*api.HeaderMatchMethod)(h.Match)})
		}
	case spec.TCPRoute != nil && spec.TCPRoute.Match != nil:
		out.port = spec.TCPRoute.Match.Port
	}
	return out
}

func gatewayMatch(spec *api.GatewayRouteSpec) (out requestMatch, host *api.GatewayRouteHostnameMatch) {
	http := spec.HTTPRoute
	if http == nil {
		http = spec.HTTP2Route
	}
	switch {
	case http != nil:
		m := http.Match
		out = requestMatch{method: string(m.Method), query: m.QueryParameters, port: m.Port}
		out.path(m.Prefix, m.Path)
		for _, h := range m.Headers {
			out.headers = append(out.headers, header{h.Name, h.Invert, h.Match})
		}
		return out, m.Hostname
	case spec.GRPCRoute != nil:
		m := spec.GRPCRoute.Match
		out.port = m.Port
		out.service(m.ServiceName, "")
		for _, h := range m.Metadata {
			out.headers = append(out.headers, header{h.Name, h.Invert, (*api.HeaderMatchMethod)(h.Match)})
		}
		return out, m.Hostname
	}
	return out, nil
}

func (m *requestMatch) path(prefix *string, path *api.HTTPPathMatch) {
	switch {
	case path != nil && path.Exact != "":
		m.exact = path.Exact
	case path != nil && path.Regex != "":
		m.regex = path.Regex
	case prefix != nil && *prefix != "":
		m.prefix = *prefix
	default:
		m.prefix = "/"
	}
}

// service matches gRPC calls, whose path is /<service>/<method> (RT-025).
func (m *requestMatch) service(service *string, method string) {
	switch {
	case service == nil || *service == "":
		m.prefix = "/"
	case method == "":
		m.prefix = "/" + *service + "/"
	default:
		m.exact = "/" + *service + "/" + method
	}
}

// length orders routes of one priority: longer goes first (RT-006).
func (m *requestMatch) length() int { return len(m.prefix) + len(m.exact) + len(m.regex) }

// envoy is the match in Envoy's words.
func (m *requestMatch) envoy() (*routev3.RouteMatch, error) {
	out := &routev3.RouteMatch{}
	switch {
	case m.exact != "":
		out.PathSpecifier = &routev3.RouteMatch_Path{Path: m.exact}
	case m.regex != "":
		p, err := pattern(m.regex)
		if err != nil {
			return nil, fmt.Errorf("path: %w", err)
		}
		out.PathSpecifier = &routev3.RouteMatch_SafeRegex{SafeRegex: p}
	default:
		out.PathSpecifier = &routev3.RouteMatch_Prefix{Prefix: m.prefix}
	}
	if m.method != "" {
		out.Headers = append(out.Headers, headerIs(":method", m.method))
	}
	if m.scheme != "" {
		out.Headers = append(out.Headers, headerIs(":scheme", m.scheme))
	}
	for _, h := range m.headers {
		x, err := h.matcher()
		if err != nil {
			return nil, err
		}
		out.Headers = append(out.Headers, x)
	}
	for _, q := range m.query {
		x := &routev3.QueryParameterMatcher{Name: q.Name}
		if q.Match != nil && q.Match.Exact != nil {
			x.QueryParameterMatchSpecifier = &routev3.QueryParameterMatcher_StringMatch{StringMatch: exactly(*q.Match.Exact)}
		} else {
			x.QueryParameterMatchSpecifier = &routev3.QueryParameterMatcher_PresentMatch{PresentMatch: true}
		}
		out.QueryParameters = append(out.QueryParameters, x)
	}
	return out, nil
}
