package bootstrap

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/evermesh/evermesh/internal/agent/settings"
)

// Keys in the node's metadata by which the control plane learns that nothing redirects the workload's traffic, and where
// Envoy is to listen then. Without them it makes listeners for redirected traffic.
const (
	InterceptionKey = "evermesh.interception" // NoInterception
	IngressKey      = "evermesh.ingress"      // address and ports
	NoInterception  = "none"
)

// interception adds to the node's metadata what of the interception is not as usual.
func (s source) interception(f Facts, metadata object) {
	if !s.Interception.None {
		return
	}
	metadata[InterceptionKey] = NoInterception
	ingress := object{}
	address := s.Interception.Ingress
	if address == settings.IngressAuto {
		address = f.ownAddress()
	}
	if address != "" {
		ingress["address"] = address
	}
	if s.Interception.AppPorts != "" {
		ingress["ports"] = s.Interception.AppPorts
	}
	if len(ingress) > 0 {
		metadata[IngressKey] = ingress
	}
}

// ownAddress is the address at which others reach the workload: the first that is no loopback and not of the link, as the
// one that ECS gives to reach its services; IPv4 before IPv6. "" when there is none.
func (f Facts) ownAddress() string {
	for _, family := range []map[string][]string{f.IPv4, f.IPv6} {
		for _, name := range slices.Sorted(maps.Keys(family)) {
			for _, prefix := range family[name] {
				if p, err := netip.ParsePrefix(prefix); err == nil && p.Addr().IsGlobalUnicast() {
					return p.Addr().String()
				}
			}
		}
	}
	return ""
}
