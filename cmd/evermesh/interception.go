package main

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/loopback"
	"github.com/evermesh/evermesh/internal/mesh"
	"github.com/evermesh/evermesh/internal/simulate"
)

// Flags that say how traffic comes to the proxies, with the names and values of the agent's
// variables (EVERMESH_INTERCEPTION, …).
const (
	flagInterception = "interception"
	flagAppPorts     = "app-ports"
	flagIngress      = "ingress-address"
)

// interceptionFlags adds them.
func interceptionFlags(c *cobra.Command) {
	c.Flags().String(flagInterception, "redirect", "`how` traffic comes to the proxies of virtual nodes, as EVERMESH_INTERCEPTION of their agents: redirect, or none")
	c.Flags().String(flagAppPorts, "", "with --interception none, `pairs` LISTENER:APPLICATION of ports, as EVERMESH_APP_PORTS")
	c.Flags().String(flagIngress, "", "with --interception none, the workload's `address`, as EVERMESH_INGRESS_ADDRESS")
	_ = c.RegisterFlagCompletionFunc(flagInterception, cobra.FixedCompletions([]string{"redirect", "none"}, cobra.ShellCompDirectiveNoFileComp)) // fails only for a flag that does not exist
}

// directOf is what the flags say; "" is with interception.
func directOf(c *cobra.Command) (mesh.Direct, error) {
	mode, _ := c.Flags().GetString(flagInterception)
	ports, _ := c.Flags().GetString(flagAppPorts)
	address, _ := c.Flags().GetString(flagIngress)
	switch strings.ToLower(mode) {
	case "redirect":
		for _, other := range []string{flagAppPorts, flagIngress} {
			if c.Flags().Changed(other) {
				return "", usagef("--%s is for proxies without interception: add --%s none", other, flagInterception)
			}
		}
		return "", nil
	case "none":
		direct, err := mesh.NewDirect(address, ports)
		if err != nil {
			return "", usagef("--%s and --%s: %s", flagIngress, flagAppPorts, err)
		}
		return direct, nil
	}
	return "", usagef("--%s %q: want redirect or none", flagInterception, mode)
}

// withDirect are the clients as their proxies say it; gateways have no interception anyway.
func withDirect(clients []mesh.Client, direct mesh.Direct) []mesh.Client {
	out := slices.Clone(clients)
	for i, c := range out {
		if c.Key.Kind == api.KindVirtualNode {
			out[i].Traits.Direct = direct
		}
	}
	return out
}

// called sets where a request of a workload without interception goes: the name of a
// service resolves to its address, and what is not at such an address does not come to the
// proxy.
func called(r *simulate.Request, resources []*api.Resource) error {
	host := r.Authority
	if h, _, found := strings.Cut(host, ":"); found && !strings.HasPrefix(host, "[") {
		host = h
	}
	if at := r.Destination.Addr(); at.IsValid() && at.IsLoopback() {
		return nil
	}
	if !slices.ContainsFunc(resources, func(x *api.Resource) bool {
		return x.Key.Kind == api.KindVirtualService && strings.EqualFold(x.Key.Name, host)
	}) {
		return usagef("--request: %s is no virtual service of the files, and without interception what goes elsewhere does not pass the proxy", host)
	}
	r.Destination = netip.AddrPortFrom(loopback.Address(host), r.Destination.Port())
	return nil
}
