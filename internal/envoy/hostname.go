package envoy

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
)

// hostname is the host name that a gateway route matches: in lower case, as hosts have none, and without a port, as
// Envoy takes a request's off before it looks (GR-008, GR-023). The zero value is every host.
type hostname struct {
	name   string
	suffix bool
	// port is what stands after the name's last colon, if ported: the route is for requests that name the port of a
	// listener, and so on that listener alone.
	port   string
	ported bool
}

func hostnameOf(m *api.GatewayRouteHostnameMatch) (h hostname) {
	switch {
	case m == nil:
		return h
	case m.Exact != "":
		h.name = m.Exact
	case m.Suffix != "":
		// What stands before a suffix may be anything, said with an asterisk or not.
		h.name, h.suffix = strings.TrimLeft(m.Suffix, "*"), true
	}
	h.name = strings.ToLower(h.name)
	// As Envoy cuts; an address of IPv6 stands in brackets.
	if i := strings.LastIndexByte(h.name, ':'); i > strings.LastIndexByte(h.name, ']') {
		h.name, h.port, h.ported = h.name[:i], h.name[i+1:], true
	}
	return h
}

// on says whether requests to a listener's port can be for the host name.
func (h hostname) on(port uint32) bool {
	return !h.ported || h.port == strconv.FormatUint(uint64(port), 10)
}

// domain is the name as the domain of a virtual host.
func (h hostname) domain() string {
	if h.suffix || h.name == "" {
		return "*" + h.name
	}
	return h.name
}

// said is where a route says its host name, and what it says.
func said(member string, m *api.GatewayRouteHostnameMatch) string {
	if m.Exact != "" {
		return fmt.Sprintf("spec.%s.match.hostname.exact %q", member, m.Exact)
	}
	return fmt.Sprintf("spec.%s.match.hostname.suffix %q", member, m.Suffix)
}

// unmatchedHost remarks on a host name that no request has, or hardly any.
func (f *faults) unmatchedHost(key api.Key, member string, m *api.GatewayRouteHostnameMatch) {
	h := hostnameOf(m)
	switch {
	case strings.ContainsFunc(h.name, func(c rune) bool { return !inHost(c) }):
		f.add(key, mesh.ReasonUnmatched, "%s matches nothing, because no request has such a host: write the name alone, and one that is not ASCII as xn--…", said(member, m))
	case strings.HasSuffix(h.name, "."):
		f.add(key, mesh.ReasonUnmatched, "%s matches nothing but hosts that are written with the dot, because Envoy does not take it off: leave it out", said(member, m))
	}
}

// inHost says whether a character may be in a host: those of RFC 3986's registered names and addresses, which are all
// that Envoy takes.
func inHost(c rune) bool {
	return inLabel(c) || c != 0 && c < 0x80 && strings.ContainsRune(".~%!$&'()*+,;=[]:", c)
}
