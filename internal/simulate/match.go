package simulate

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
)

type route = routev3.Route

// virtualHost is the host of a route configuration that a request belongs to:
// that of the exact name, else of the longest suffix, else of the longest prefix,
// else that of all names. Case does not matter; ports do, unless told otherwise.
func virtualHost(config *routev3.RouteConfiguration, authority string) *routev3.VirtualHost {
	name := strings.ToLower(authority)
	if config.GetIgnorePortInHostMatching() {
		name = withoutPort(name)
	}
	var best *routev3.VirtualHost
	rank := -1
	take := func(h *routev3.VirtualHost, n int) {
		if n > rank {
			best, rank = h, n
		}
	}
	const exact, suffix, prefix = 1 << 30, 1 << 20, 1 << 10
	for _, h := range config.GetVirtualHosts() {
		for _, d := range h.GetDomains() {
			d = strings.ToLower(d)
			switch {
			case d == "*":
				take(h, 0)
			case d == name:
				take(h, exact)
			case strings.HasPrefix(d, "*") && len(name) > len(d)-1 && strings.HasSuffix(name, d[1:]):
				take(h, suffix+len(d))
			case strings.HasSuffix(d, "*") && len(name) > len(d)-1 && strings.HasPrefix(name, d[:len(d)-1]):
				take(h, prefix+len(d))
			}
		}
	}
	return best
}

// matches says whether a route takes a request.
func (p *Proxy) matches(m *routev3.RouteMatch, r *message) bool {
	path, _ := splitQuery(r.Path)
	switch of := m.GetPathSpecifier().(type) {
	case *routev3.RouteMatch_Prefix:
		if !strings.HasPrefix(path, of.Prefix) {
			return false
		}
	case *routev3.RouteMatch_PathSeparatedPrefix:
		if rest, ok := strings.CutPrefix(path, of.PathSeparatedPrefix); !ok || rest != "" && rest[0] != '/' {
			return false
		}
	case *routev3.RouteMatch_Path:
		if path != of.Path {
			return false
		}
	case *routev3.RouteMatch_SafeRegex:
		if !p.whole(of.SafeRegex).MatchString(path) {
			return false
		}
	default:
		return false
	}
	return !slices.ContainsFunc(m.GetHeaders(), func(h *routev3.HeaderMatcher) bool { return !p.header(h, r) }) &&
		!slices.ContainsFunc(m.GetQueryParameters(), func(q *routev3.QueryParameterMatcher) bool { return !p.parameter(q, r.Path) })
}

// header says whether a header matches. One that is absent matches nothing but
// that it is absent, inverted or not. Of several lines older Envoys (1.36) make one
// value, and for newer ones (1.40) one that matches is enough: where that is not the
// same, the message is unclear.
func (p *Proxy) header(m *routev3.HeaderMatcher, r *message) bool {
	lines := r.lines(strings.ToLower(m.GetName()))
	var matches func(string) bool
	switch of := m.GetHeaderMatchSpecifier().(type) {
	case *routev3.HeaderMatcher_PresentMatch:
		return (lines != nil == of.PresentMatch) != m.GetInvertMatch()
	case *routev3.HeaderMatcher_StringMatch:
		matches = func(s string) bool { return p.text(of.StringMatch, s) }
	case *routev3.HeaderMatcher_RangeMatch:
		matches = func(s string) bool {
			n, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
			return err == nil && n >= of.RangeMatch.GetStart() && n < of.RangeMatch.GetEnd()
		}
	default:
		return lines != nil != m.GetInvertMatch() // a name alone asks whether it is there
	}
	if lines == nil {
		return false
	}
	ok := matches(strings.Join(lines, ","))
	if slices.ContainsFunc(lines, matches) != ok {
		r.unclear = m.GetName()
	}
	return ok != m.GetInvertMatch()
}

// lines are a header's values, also of those that HTTP/2 calls by another name.
func (m *message) lines(name string) []string {
	switch name {
	case ":path":
		return []string{m.Path}
	case ":method":
		return []string{m.Method}
	case ":scheme":
		return []string{m.Scheme}
	case ":authority", "host":
		return []string{m.Authority}
	}
	return header(m.Headers, name)
}

func (p *Proxy) parameter(m *routev3.QueryParameterMatcher, path string) bool {
	value, present := firstParameter(path, m.GetName())
	switch of := m.GetQueryParameterMatchSpecifier().(type) {
	case *routev3.QueryParameterMatcher_StringMatch:
		return present && p.text(of.StringMatch, value)
	case *routev3.QueryParameterMatcher_PresentMatch:
		return present == of.PresentMatch
	}
	return present
}

func (p *Proxy) text(m *matcherv3.StringMatcher, s string) bool {
	fold := func(s string) string { return s }
	if m.GetIgnoreCase() {
		fold = strings.ToLower
	}
	switch of := m.GetMatchPattern().(type) {
	case *matcherv3.StringMatcher_Exact:
		return fold(s) == fold(of.Exact)
	case *matcherv3.StringMatcher_Prefix:
		return strings.HasPrefix(fold(s), fold(of.Prefix))
	case *matcherv3.StringMatcher_Suffix:
		return strings.HasSuffix(fold(s), fold(of.Suffix))
	case *matcherv3.StringMatcher_Contains:
		return strings.Contains(fold(s), fold(of.Contains))
	case *matcherv3.StringMatcher_SafeRegex:
		return p.whole(of.SafeRegex).MatchString(s)
	}
	return false
}

// whole is a pattern that matches whole texts; it was compiled by New.
func (p *Proxy) whole(m *matcherv3.RegexMatcher) *regexp.Regexp {
	return p.patterns[whole(m.GetRegex())]
}

// matchText says in words what a route matches.
func matchText(m *routev3.RouteMatch) string {
	var out []string
	switch of := m.GetPathSpecifier().(type) {
	case *routev3.RouteMatch_Prefix:
		out = append(out, "path "+of.Prefix+"…")
	case *routev3.RouteMatch_PathSeparatedPrefix:
		out = append(out, "path "+of.PathSeparatedPrefix+"[/…]")
	case *routev3.RouteMatch_Path:
		out = append(out, "path "+of.Path)
	case *routev3.RouteMatch_SafeRegex:
		out = append(out, "path like "+of.SafeRegex.GetRegex())
	}
	for _, h := range m.GetHeaders() {
		out = append(out, headerText(h))
	}
	for _, q := range m.GetQueryParameters() {
		text := "query " + q.GetName()
		if s := q.GetStringMatch(); s != nil {
			text += " " + stringText(s)
		}
		out = append(out, text)
	}
	return strings.Join(out, ", ")
}

func headerText(h *routev3.HeaderMatcher) string {
	not := ""
	if h.GetInvertMatch() {
		not = "not "
	}
	switch of := h.GetHeaderMatchSpecifier().(type) {
	case *routev3.HeaderMatcher_StringMatch:
		return "header " + h.GetName() + " " + not + stringText(of.StringMatch)
	case *routev3.HeaderMatcher_RangeMatch:
		return fmt.Sprintf("header %s %s%d to below %d", h.GetName(), not, of.RangeMatch.GetStart(), of.RangeMatch.GetEnd())
	case *routev3.HeaderMatcher_PresentMatch:
		if of.PresentMatch == h.GetInvertMatch() {
			return "no header " + h.GetName()
		}
	}
	return "header " + h.GetName()
}

func stringText(m *matcherv3.StringMatcher) string {
	switch of := m.GetMatchPattern().(type) {
	case *matcherv3.StringMatcher_Exact:
		return of.Exact
	case *matcherv3.StringMatcher_Prefix:
		return of.Prefix + "…"
	case *matcherv3.StringMatcher_Suffix:
		return "…" + of.Suffix
	case *matcherv3.StringMatcher_Contains:
		return "…" + of.Contains + "…"
	case *matcherv3.StringMatcher_SafeRegex:
		return "like " + of.SafeRegex.GetRegex()
	}
	return ""
}
