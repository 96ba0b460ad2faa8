package envoy

import (
	"fmt"
	"slices"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// SecondHop says of the name of a route configuration whether a gateway's proxy
// sends requests there that have been through another one, which chose the virtual
// host by its service's name. No node has such a name.
func SecondHop(name string) bool {
	return strings.HasPrefix(name, "rds_"+egressPrefix+"_") && strings.HasSuffix(name, fmt.Sprintf("_%d", egressPort))
}

// Carries says whether all virtual hosts of the other route configuration are in
// this one, as they are there, or before the routes of an old form.
func (r *Resource) Carries(other *Resource) bool {
	has := make(map[string]bool, len(r.Hosts))
	for _, h := range r.Hosts {
		has[h.Hash] = true
		if h.before != "" {
			has[h.before] = true
		}
	}
	return !slices.ContainsFunc(other.Hosts, func(h *VirtualHost) bool { return !has[h.Hash] })
}

// Beside returns the route configuration with what an old form of it has beside:
// virtual hosts that it does not have, by name, and whose domains it leaves free, as
// Envoy takes each domain once; and routes of the default host, which tell
// by a header whom they are for. Without any it is the receiver; where the old form
// has all of it, that.
func (r *Resource) Beside(old *Resource) *Resource {
	if old.headHash == r.headHash && old.Carries(r) {
		return old
	}
	hosts, differs := slices.Clone(r.Hosts), false
	places, taken := map[string]int{}, map[string]bool{}
	for i, h := range r.Hosts {
		places[h.Name] = i
	}
	var more []*VirtualHost
	for _, h := range old.Hosts {
		i, ok := places[h.Name]
		switch {
		case !ok:
			more = append(more, h)
		case h.Name == defaultHost && h.Hash != hosts[i].Hash:
			hosts[i], differs = hosts[i].followed(h), true
		}
	}
	if len(more) > 0 {
		for _, h := range r.Hosts {
			for _, d := range h.decoded().GetDomains() {
				taken[d] = true
			}
		}
		more = slices.DeleteFunc(more, func(h *VirtualHost) bool {
			return slices.ContainsFunc(h.decoded().GetDomains(), func(d string) bool { return taken[d] })
		})
	}
	if len(more) == 0 && !differs {
		return r
	}
	return r.WithHosts(append(hosts, more...))
}

// followed is the virtual host with those routes of an old form after its own whose
// matches it does not have.
func (h *VirtualHost) followed(old *VirtualHost) *VirtualHost {
	if old.before == h.Hash {
		return old
	}
	v := h.decoded()
	for _, r := range old.decoded().GetRoutes() {
		if !slices.ContainsFunc(v.GetRoutes(), func(o *routev3.Route) bool { return proto.Equal(o.GetMatch(), r.GetMatch()) }) {
			v.Routes = append(v.Routes, r)
		}
	}
	value, err := proto.MarshalOptions{Deterministic: true}.Marshal(v)
	if err != nil {
		return h // it was made by us
	}
	return &VirtualHost{
		Name: h.Name, Hash: combined([]string{"followed", h.Hash, old.Hash}), Clusters: clustersOf(v), before: h.Hash,
		encoded: protowire.AppendBytes(protowire.AppendTag(nil, hostField, protowire.BytesType), value),
	}
}

// decoded is the virtual host; without anything if it is none of ours.
func (h *VirtualHost) decoded() *routev3.VirtualHost {
	var config routev3.RouteConfiguration
	if proto.Unmarshal(h.encoded, &config) != nil || len(config.GetVirtualHosts()) != 1 {
		return &routev3.VirtualHost{}
	}
	return config.GetVirtualHosts()[0]
}
