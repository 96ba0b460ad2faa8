package mesh

import (
	"slices"
	"strings"

	"github.com/evermesh/evermesh/internal/api"
)

// The rules within the spec of a route or gateway route.

// routeHasOneKind: exactly one of the four (RT-002).
func routeHasOneKind(_ Reader, _, now *api.Resource) error {
	s := now.RouteSpec()
	if count(s.HTTPRoute != nil, s.HTTP2Route != nil, s.GRPCRoute != nil, s.TCPRoute != nil) != 1 {
		return invalid("A route's spec must have exactly one of httpRoute, http2Route, grpcRoute and tcpRoute.")
	}
	return nil
}

// gatewayRouteHasOneKind: exactly one of the three (GR-002).
func gatewayRouteHasOneKind(_ Reader, _, now *api.Resource) error {
	s := now.GatewayRouteSpec()
	if count(s.HTTPRoute != nil, s.HTTP2Route != nil, s.GRPCRoute != nil) != 1 {
		return invalid("A gateway route's spec must have exactly one of httpRoute, http2Route and grpcRoute.")
	}
	return nil
}

// routePathIsOne: a prefix, or a path that is exact or a regex (RT-013).
func routePathIsOne(_ Reader, _, now *api.Resource) error {
	if m := httpMatch(now.RouteSpec()); m != nil {
		return pathIsOne(m.Prefix, m.Path)
	}
	return nil
}

// gatewayPathIsOne: as of routes (GR-008, GR-024).
func gatewayPathIsOne(_ Reader, _, now *api.Resource) error {
	if h := httpGatewayRoute(now.GatewayRouteSpec()); h != nil {
		return pathIsOne(h.Match.Prefix, h.Match.Path)
	}
	return nil
}

func pathIsOne(prefix *string, path *api.HTTPPathMatch) error {
	switch {
	case prefix != nil && path != nil:
		return invalid("A match must not have both prefix and path.")
	case path != nil && count(path.Exact != "", path.Regex != "") != 1:
		return invalid("A match's path must have exactly one of exact and regex.")
	}
	return nil
}

// routePathIsAbsolute: what a path begins with is known.
func routePathIsAbsolute(_ Reader, _, now *api.Resource) error {
	if m := httpMatch(now.RouteSpec()); m != nil {
		return pathIsAbsolute(m.Prefix, m.Path)
	}
	return nil
}

// gatewayPathIsAbsolute: as of routes (GR-024).
func gatewayPathIsAbsolute(_ Reader, _, now *api.Resource) error {
	if h := httpGatewayRoute(now.GatewayRouteSpec()); h != nil {
		return pathIsAbsolute(h.Match.Prefix, h.Match.Path)
	}
	return nil
}

func pathIsAbsolute(prefix *string, path *api.HTTPPathMatch) error {
	switch {
	case prefix != nil && !strings.HasPrefix(*prefix, "/"):
		return invalid("The match's prefix %q must start with '/'.", *prefix)
	case path != nil && path.Exact != "" && !strings.HasPrefix(path.Exact, "/"):
		return invalid("The match's exact path %q must start with '/'.", path.Exact)
	}
	return nil
}

// retryEventsAreKnown: HTTP events are four words, never single codes (RT-031,
// RT-039). The model has them as free strings.
func retryEventsAreKnown(_ Reader, _, now *api.Resource) error {
	var events []string
	switch s := now.RouteSpec(); {
	case s.HTTPRoute != nil && s.HTTPRoute.RetryPolicy != nil:
		events = s.HTTPRoute.RetryPolicy.HTTPRetryEvents
	case s.HTTP2Route != nil && s.HTTP2Route.RetryPolicy != nil:
		events = s.HTTP2Route.RetryPolicy.HTTPRetryEvents
	case s.GRPCRoute != nil && s.GRPCRoute.RetryPolicy != nil:
		events = s.GRPCRoute.RetryPolicy.HTTPRetryEvents
	}
	for _, event := range events {
		if !slices.Contains([]string{"server-error", "gateway-error", "client-error", "stream-error"}, event) {
			return invalid("The HTTP retry event %q is not one of server-error, gateway-error, client-error and stream-error.", event)
		}
	}
	return nil
}

// methodNeedsService: a gRPC method is one of a service (RT-026).
func methodNeedsService(_ Reader, _, now *api.Resource) error {
	if g := now.RouteSpec().GRPCRoute; g != nil && g.Match.MethodName != "" && (g.Match.ServiceName == nil || *g.Match.ServiceName == "") {
		return invalid("A match with methodName must have serviceName too.")
	}
	return nil
}

// hostnameIsOne: a host name is exact or a suffix (GR-008, GR-017).
func hostnameIsOne(_ Reader, _, now *api.Resource) error {
	var h *api.GatewayRouteHostnameMatch
	switch s := now.GatewayRouteSpec(); {
	case s.GRPCRoute != nil:
		h = s.GRPCRoute.Match.Hostname
	default:
		h = httpGatewayRoute(s).Match.Hostname
	}
	if h != nil && count(h.Exact != "", h.Suffix != "") != 1 {
		return invalid("A match's hostname must have exactly one of exact and suffix.")
	}
	return nil
}

// prefixIsNotReserved: some paths are App Mesh's own (GR-010).
func prefixIsNotReserved(_ Reader, _, now *api.Resource) error {
	h := httpGatewayRoute(now.GatewayRouteSpec())
	if h == nil {
		return nil
	}
	var path string
	if h.Match.Prefix != nil {
		path = *h.Match.Prefix
	} else if h.Match.Path != nil {
		path = h.Match.Path.Exact
	}
	for _, reserved := range []string{"/aws-appmesh", "/aws-app-mesh"} {
		if strings.HasPrefix(path, reserved) {
			return invalid("The match's path %q cannot be used: paths that begin with %s are reserved.", path, reserved)
		}
	}
	return nil
}

// serviceNameIsNotReserved: some gRPC services are App Mesh's own (GR-011).
func serviceNameIsNotReserved(_ Reader, _, now *api.Resource) error {
	g := now.GatewayRouteSpec().GRPCRoute
	if g == nil || g.Match.ServiceName == nil {
		return nil
	}
	for _, reserved := range []string{"aws.app-mesh", "aws.appmesh"} {
		if strings.HasPrefix(strings.TrimPrefix(*g.Match.ServiceName, "/"), reserved) {
			return invalid("The match's service name %q cannot be used: services that begin with %s are reserved.", *g.Match.ServiceName, reserved)
		}
	}
	return nil
}

// rewriteIsOne: a prefix is rewritten where a prefix is matched, a path where a
// path is (GR-015, GR-016, GR-024).
func rewriteIsOne(_ Reader, _, now *api.Resource) error {
	h := httpGatewayRoute(now.GatewayRouteSpec())
	if h == nil || h.Action.Rewrite == nil {
		return nil
	}
	rewrite := h.Action.Rewrite
	switch {
	case rewrite.Prefix != nil && rewrite.Path != nil:
		return invalid("A rewrite must not have both prefix and path.")
	case rewrite.Prefix != nil && h.Match.Prefix == nil:
		return invalid("A rewrite of the prefix needs a match by prefix.")
	case rewrite.Path != nil && h.Match.Path == nil:
		return invalid("A rewrite of the path needs a match by path.")
	case rewrite.Path != nil && !strings.HasPrefix(rewrite.Path.Exact, "/"):
		return invalid("The rewrite's exact path %q must start with '/'.", rewrite.Path.Exact)
	}
	return nil
}

// prefixRewriteIsWhole: the default or a value that is whole path elements
// (GR-015, GR-024).
func prefixRewriteIsWhole(_ Reader, _, now *api.Resource) error {
	h := httpGatewayRoute(now.GatewayRouteSpec())
	if h == nil || h.Action.Rewrite == nil || h.Action.Rewrite.Prefix == nil {
		return nil
	}
	p := h.Action.Rewrite.Prefix
	switch {
	case p.DefaultPrefix != "" && p.Value != "":
		return invalid("A rewrite's prefix must not have both defaultPrefix and value.")
	case p.Value != "" && (!strings.HasPrefix(p.Value, "/") || !strings.HasSuffix(p.Value, "/")):
		return invalid("The rewrite's prefix value %q must start and end with '/'.", p.Value)
	}
	return nil
}

func httpMatch(s *api.RouteSpec) *api.HTTPRouteMatch {
	switch {
	case s.HTTPRoute != nil:
		return &s.HTTPRoute.Match
	case s.HTTP2Route != nil:
		return &s.HTTP2Route.Match
	}
	return nil
}

func httpGatewayRoute(s *api.GatewayRouteSpec) *api.HTTPGatewayRoute {
	if s.HTTPRoute != nil {
		return s.HTTPRoute
	}
	return s.HTTP2Route
}

func count(set ...bool) int {
	n := 0
	for _, s := range set {
		if s {
			n++
		}
	}
	return n
}
