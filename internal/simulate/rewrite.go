package simulate

import (
	"fmt"
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
)

// rewrite does to a request what its route says: headers, then the host, then
// the path. Envoy keeps the host and path that were in headers of its own.
func (p *Proxy) rewrite(r *route, m *message) error {
	for _, name := range r.GetRequestHeadersToRemove() {
		m.remove(strings.ToLower(name))
	}
	for _, h := range r.GetRequestHeadersToAdd() {
		value, err := formatted(h.GetHeader().GetValue())
		if err != nil {
			return err
		}
		name := strings.ToLower(h.GetHeader().GetKey())
		if h.GetAppendAction() == corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD {
			m.set(name, value)
		} else {
			m.Headers = append(slices.Clone(m.Headers), Header{name, value})
		}
	}
	action := r.GetRoute()
	if host := action.GetHostRewriteLiteral(); host != "" {
		m.set("x-envoy-original-host", m.Authority)
		m.Authority = host
	}
	path, query := splitQuery(m.Path)
	switch {
	case action.GetPrefixRewrite() != "":
		n, err := p.matched(r.GetMatch(), path)
		if err != nil {
			return err
		}
		path = action.GetPrefixRewrite() + path[n:]
	case action.GetRegexRewrite() != nil:
		var err error
		if path, err = p.substitute(action.GetRegexRewrite(), path); err != nil {
			return err
		}
	default:
		return nil
	}
	m.set("x-envoy-original-path", m.Path)
	m.Path = path + query
	return nil
}

// matched is how much of the path a prefix rewrite replaces.
func (p *Proxy) matched(m *routev3.RouteMatch, path string) (int, error) {
	switch of := m.GetPathSpecifier().(type) {
	case *routev3.RouteMatch_Prefix:
		return len(of.Prefix), nil
	case *routev3.RouteMatch_PathSeparatedPrefix:
		return len(of.PathSeparatedPrefix), nil
	case *routev3.RouteMatch_Path, *routev3.RouteMatch_SafeRegex:
		return len(path), nil
	}
	return 0, fmt.Errorf("a prefix is rewritten, and the route matches none")
}

// substitute replaces every match of the pattern. A substitution has \0 for the
// match, \1 to \9 for its groups and \\ for a backslash.
func (p *Proxy) substitute(m *matcherv3.RegexMatchAndSubstitute, path string) (string, error) {
	pattern := p.patterns[m.GetPattern().GetRegex()]
	to := m.GetSubstitution()
	var b []byte
	last := 0
	for _, at := range pattern.FindAllStringSubmatchIndex(path, -1) {
		b = append(b, path[last:at[0]]...)
		for i := 0; i < len(to); i++ {
			if to[i] != '\\' {
				b = append(b, to[i])
				continue
			}
			i++
			switch {
			case i < len(to) && to[i] == '\\':
				b = append(b, '\\')
			case i < len(to) && to[i] >= '0' && to[i] <= '9' && int(to[i]-'0')*2 < len(at):
				if g := int(to[i]-'0') * 2; at[g] >= 0 {
					b = append(b, path[at[g]:at[g+1]]...)
				}
			default:
				return "", fmt.Errorf("substitution %q is not valid", to)
			}
		}
		last = at[1]
	}
	return string(append(b, path[last:]...)), nil
}

func (m *message) remove(name string) {
	m.Headers = slices.DeleteFunc(slices.Clone(m.Headers), func(h Header) bool { return h.Name == name })
}

func (m *message) set(name, value string) {
	m.remove(name)
	m.Headers = append(m.Headers, Header{name, value})
}

// formatted is the value of a header whose text is a format. Of formats only a
// percent sign is understood.
func formatted(s string) (string, error) {
	if rest := strings.ReplaceAll(s, "%%", ""); strings.Contains(rest, "%") {
		return "", fmt.Errorf("the format %q of a header is not understood", s)
	}
	return strings.ReplaceAll(s, "%%", "%"), nil
}

// checkFormats finds header values that are not understood before anything is
// sent.
func checkFormats(config *routev3.RouteConfiguration) error {
	for _, h := range config.GetVirtualHosts() {
		for i, r := range h.GetRoutes() {
			for _, add := range r.GetRequestHeadersToAdd() {
				if _, err := formatted(add.GetHeader().GetValue()); err != nil {
					return fmt.Errorf("virtual host %s, route %d: %w", h.GetName(), i, err)
				}
			}
		}
	}
	return nil
}
