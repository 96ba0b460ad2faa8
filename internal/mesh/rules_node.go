package mesh

import (
	"net/url"
	"regexp"
	"strings"

	"github.com/evermesh/evermesh/internal/api"
)

// The rules within the spec of a node, router or gateway.

// nameIsUsable: an @ in a mesh's name would be read as its owner in ARNs and in
// the ids of proxies (D1: mesh/M@OWNER).
func nameIsUsable(_ Reader, old, now *api.Resource) error {
	if old == nil && strings.Contains(now.Key.Mesh, "@") {
		return invalid("The meshName %q holds an @, which separates a mesh's name from its owner: choose another name.", now.Key.Mesh)
	}
	return nil
}

// discoveryNeedsListener: who can be found must listen (VN-004).
func discoveryNeedsListener(_ Reader, _, now *api.Resource) error {
	if spec := now.VirtualNodeSpec(); spec.ServiceDiscovery != nil && len(spec.Listeners) == 0 {
		return invalid("Service Discovery can't be set without a listener.")
	}
	return nil
}

func nodeListenersDiffer(_ Reader, _, now *api.Resource) error {
	var ports []int64
	for _, l := range now.VirtualNodeSpec().Listeners {
		ports = append(ports, l.PortMapping.Port)
	}
	return differ("Virtual Node", ports)
}

func routerListenersDiffer(_ Reader, _, now *api.Resource) error {
	var ports []int64
	for _, l := range now.VirtualRouterSpec().Listeners {
		ports = append(ports, l.PortMapping.Port)
	}
	return differ("Virtual Router", ports)
}

func gatewayListenersDiffer(_ Reader, _, now *api.Resource) error {
	var ports []int64
	for _, l := range now.VirtualGatewaySpec().Listeners {
		ports = append(ports, l.PortMapping.Port)
	}
	return differ("Virtual Gateway", ports)
}

// differ: two listeners cannot have one port.
func differ(owner string, ports []int64) error {
	seen := map[int64]bool{}
	for _, port := range ports {
		if seen[port] {
			return invalid("The listeners of a %s must have different ports: port %d is there more than once.", owner, port)
		}
		seen[port] = true
	}
	return nil
}

// nodePoolFitsProtocol: the one key of a connection pool is the listener's
// protocol (VN-008).
func nodePoolFitsProtocol(_ Reader, _, now *api.Resource) error {
	for i, l := range now.VirtualNodeSpec().Listeners {
		if p := l.ConnectionPool; p != nil {
			sets := map[string]bool{"grpc": p.GRPC != nil, "http": p.HTTP != nil, "http2": p.HTTP2 != nil, "tcp": p.TCP != nil}
			if err := poolFits(i, string(l.PortMapping.Protocol), sets); err != nil {
				return err
			}
		}
	}
	return nil
}

// gatewayPoolFitsProtocol: the one key of a connection pool is the listener's
// protocol (VG-005).
func gatewayPoolFitsProtocol(_ Reader, _, now *api.Resource) error {
	for i, l := range now.VirtualGatewaySpec().Listeners {
		if p := l.ConnectionPool; p != nil {
			sets := map[string]bool{"grpc": p.GRPC != nil, "http": p.HTTP != nil, "http2": p.HTTP2 != nil}
			if err := poolFits(i, string(l.PortMapping.Protocol), sets); err != nil {
				return err
			}
		}
	}
	return nil
}

func poolFits(i int, protocol string, sets map[string]bool) error {
	if sets[protocol] {
		return nil
	}
	return invalid("spec.listeners.%d.member.connectionPool must be of the listener's protocol, %s.", i+1, protocol)
}

// routerListensWhenItSays: a router may come without listeners, but not with an
// empty list of them (VR-003).
func routerListensWhenItSays(_ Reader, _, now *api.Resource) error {
	if l := now.VirtualRouterSpec().Listeners; l != nil && len(l) == 0 {
		return invalid("1 validation error detected: Value at 'spec.listeners' failed to satisfy constraint: Member must have length greater than or equal to 1")
	}
	return nil
}

// nodeNamesAreUsable: the names that certificates are checked for are host
// names or URIs (TLS of VN-027).
func nodeNamesAreUsable(_ Reader, _, now *api.Resource) error {
	spec := now.VirtualNodeSpec()
	var all []*api.SubjectAlternativeNames
	for _, l := range spec.Listeners {
		if l.TLS != nil && l.TLS.Validation != nil {
			all = append(all, l.TLS.Validation.SubjectAlternativeNames)
		}
	}
	policies := []*api.ClientPolicy{}
	if spec.BackendDefaults != nil {
		policies = append(policies, spec.BackendDefaults.ClientPolicy)
	}
	for _, b := range spec.Backends {
		if b.VirtualService != nil {
			policies = append(policies, b.VirtualService.ClientPolicy)
		}
	}
	for _, p := range policies {
		if p != nil && p.TLS != nil {
			all = append(all, p.TLS.Validation.SubjectAlternativeNames)
		}
	}
	return namesAreUsable(all)
}

// gatewayNamesAreUsable: the names that certificates are checked for are host
// names or URIs (VG-010).
func gatewayNamesAreUsable(_ Reader, _, now *api.Resource) error {
	spec := now.VirtualGatewaySpec()
	var all []*api.SubjectAlternativeNames
	for _, l := range spec.Listeners {
		if l.TLS != nil && l.TLS.Validation != nil {
			all = append(all, l.TLS.Validation.SubjectAlternativeNames)
		}
	}
	if d := spec.BackendDefaults; d != nil && d.ClientPolicy != nil && d.ClientPolicy.TLS != nil {
		all = append(all, d.ClientPolicy.TLS.Validation.SubjectAlternativeNames)
	}
	return namesAreUsable(all)
}

func namesAreUsable(all []*api.SubjectAlternativeNames) error {
	fqdn := regexp.MustCompile(`^(\*\.)?[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*\.?$`)
	for _, names := range all {
		if names == nil {
			continue
		}
		for _, name := range names.Match.Exact {
			if u, err := url.Parse(name); fqdn.MatchString(name) || (err == nil && u.Scheme != "" && (u.Host != "" || u.Opaque != "")) {
				continue
			}
			return invalid("The subject alternative name %q is neither a fully qualified domain name nor a URI.", name)
		}
	}
	return nil
}
