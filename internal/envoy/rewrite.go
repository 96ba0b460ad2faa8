package envoy

import (
	"strings"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
)

// form is one of the Envoy routes that a gateway route becomes.
type form struct {
	match  requestMatch
	action *routev3.RouteAction // with the path's rewrite
}

// forms expands a gateway route. A prefix /x becomes /x/ and /x, both rewritten
// to /, so that /x/y arrives as /y and not as //y (VG-004). Other paths stay
// what they are unless the route says what they become.
func forms(spec *api.GatewayRouteSpec, m requestMatch) []form {
	http := httpGatewayRoute(spec)
	if http == nil {
		return []form{{m, &routev3.RouteAction{}}}
	}
	rewrite := http.Action.Rewrite
	if rewrite == nil {
		rewrite = &api.HTTPGatewayRouteRewrite{}
	}
	if m.prefix == "" {
		action := &routev3.RouteAction{}
		if rewrite.Path != nil && rewrite.Path.Exact != "" {
			action.RegexRewrite = &matcherv3.RegexMatchAndSubstitute{
				Pattern: &matcherv3.RegexMatcher{Regex: "^.*$"}, Substitution: literal(rewrite.Path.Exact),
			}
		}
		return []form{{m, action}}
	}
	value, keep := "", false
	if rewrite.Prefix != nil {
		value = rewrite.Prefix.Value
		keep = rewrite.Prefix.DefaultPrefix == api.DefaultGatewayRouteRewriteDisabled
	}
	if m.prefix == "/" {
		return []form{{m, &routev3.RouteAction{PrefixRewrite: value}}}
	}
	var out []form
	bare := strings.TrimRight(m.prefix, "/")
	for _, prefix := range []string{bare + "/", bare} {
		if prefix == "" {
			continue
		}
		to := "/"
		switch {
		case keep:
			to = prefix
		case value != "":
			to = value
		}
		one := m
		one.prefix = prefix
		out = append(out, form{one, &routev3.RouteAction{PrefixRewrite: to}})
	}
	return out
}

// literal is a text as a substitution, in which a backslash is special.
func literal(s string) string { return strings.ReplaceAll(s, `\`, `\\`) }

// longest is the timeout of the first hop: the longest of the service's routes,
// so that the second hop decides; off when one of them is off, and none for a
// service without routes.
func longest(s *mesh.Service) *durationpb.Duration {
	if s.Router == nil {
		if s.Node == nil {
			return nil
		}
		return durationpb.New(defaultTimeout)
	}
	var out *durationpb.Duration
	for _, r := range s.Router.Routes {
		if r.RouteSpec() == nil || r.RouteSpec().TCPRoute != nil {
			continue
		}
		limit, _ := routeTimeout(r.RouteSpec())
		d := perRequest(limit)
		if d.AsDuration() == 0 {
			return d
		}
		if out == nil || d.AsDuration() > out.AsDuration() {
			out = d
		}
	}
	return out
}

// streamIdle is Envoy's for a route that says nothing.
const streamIdle = 5 * time.Minute

// longestIdle is the idle timeout of the first hop: the longest of the
// service's routes, off when one of them is off. Where Envoy's own is enough it
// is none, and the second hop decides.
func longestIdle(s *mesh.Service) *durationpb.Duration {
	if s.Router == nil {
		return nil
	}
	out := durationpb.New(streamIdle)
	for _, r := range s.Router.Routes {
		if r.RouteSpec() == nil || r.RouteSpec().TCPRoute != nil {
			continue
		}
		_, idle := routeTimeout(r.RouteSpec())
		d := duration(idle)
		if d != nil && d.AsDuration() == 0 {
			return d
		}
		if d.AsDuration() > out.AsDuration() {
			out = d
		}
	}
	if out.AsDuration() == streamIdle {
		return nil
	}
	return out
}
