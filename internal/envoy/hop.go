package envoy

import (
	"fmt"
	"slices"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/proto"
)

// SecondHop says of the name of a route configuration whether a gateway's proxy
// sends requests there that have been through another one, which chose the virtual
// host by its service's name. No node has such a name.
func SecondHop(name string) bool {
	return strings.HasPrefix(name, "rds_"+egressPrefix+"_") && strings.HasSuffix(name, fmt.Sprintf("_%d", egressPort))
}

// Carries says whether all virtual hosts of the other route configuration are in
// this one, as they are there.
func (r *Resource) Carries(other *Resource) bool {
	has := make(map[string]bool, len(r.Hosts))
	for _, h := range r.Hosts {
		has[h.Hash] = true
	}
	return !slices.ContainsFunc(other.Hosts, func(h *VirtualHost) bool { return !has[h.Hash] })
}

// Beside returns the route configuration with those virtual hosts of an old form of
// it that it does not have, by name, and whose domains it leaves free: Envoy takes
// each domain once. Without any it is the receiver; where the old form has all of
// it, that.
func (r *Resource) Beside(old *Resource) *Resource {
	if old.headHash == r.headHash && old.Carries(r) {
		return old
	}
	named, taken := map[string]bool{}, map[string]bool{}
	for _, h := range r.Hosts {
		named[h.Name] = true
	}
	var more []*VirtualHost
	for _, h := range old.Hosts {
		if !named[h.Name] {
			more = append(more, h)
		}
	}
	if len(more) == 0 {
		return r
	}
	for _, h := range r.Hosts {
		for _, d := range h.domains() {
			taken[d] = true
		}
	}
	more = slices.DeleteFunc(more, func(h *VirtualHost) bool {
		return slices.ContainsFunc(h.domains(), func(d string) bool { return taken[d] })
	})
	if len(more) == 0 {
		return r
	}
	return r.WithHosts(slices.Concat(r.Hosts, more))
}

// domains are those of the virtual host, decoded.
func (h *VirtualHost) domains() (out []string) {
	var config routev3.RouteConfiguration
	if proto.Unmarshal(h.encoded, &config) != nil {
		return nil // it was made by us
	}
	for _, v := range config.GetVirtualHosts() {
		out = append(out, v.GetDomains()...)
	}
	return out
}
