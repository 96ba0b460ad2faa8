package ads

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/evermesh/evermesh/internal/api"
)

// maxAddresses bounds how many addresses of a proxy are kept.
const maxAddresses = 16

// addressesOf are the addresses that the node says its host has
// (aws.appmesh.task.interfaces), each once, sorted: without those of loopback and of a
// link, by which nobody else reaches it. Prefix lengths are left out.
func addressesOf(n *corev3.Node) []string {
	var out []string
	for _, family := range []string{"ipv4", "ipv6"} {
		interfaces := member(member(n.GetMetadata(), "aws.appmesh.task.interfaces").GetStructValue(), family).GetStructValue()
		for _, list := range interfaces.GetFields() {
			for _, v := range list.GetListValue().GetValues() {
				text, _, _ := strings.Cut(v.GetStringValue(), "/")
				addr, err := netip.ParseAddr(text)
				if err == nil && addr.Zone() == "" && !addr.IsLoopback() && !addr.IsLinkLocalUnicast() && !addr.IsUnspecified() && !addr.IsMulticast() {
					out = append(out, addr.Unmap().String())
				}
			}
		}
	}
	slices.Sort(out)
	out = slices.Compact(out)
	return out[:min(len(out), maxAddresses):min(len(out), maxAddresses)]
}

func member(s *structpb.Struct, name string) *structpb.Value { return s.GetFields()[name] }

// Instance is a proxy that is connected to this replica.
type Instance struct {
	ID        string
	Addresses []string // that it told of itself, sorted
	Connected time.Time
	// Serves says that it has answered to all that it was sent at first: before that it has no listeners, and who
	// connects to it is refused.
	Serves bool
}

// Proxies tells of each proxy that is connected to this replica: what it is a proxy of, and
// by what it is known again. It must return at once.
func (s *Server) Proxies(each func(key api.Key, instance, peer string)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c, g := range s.groups {
		for p := range g.members {
			each(c.Key, p.instance, p.peer)
		}
	}
}

// Instances are the proxies of a node or gateway that are connected to this replica,
// whatever their traits.
func (s *Server) Instances(key api.Key) []Instance {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Instance
	for c, g := range s.groups {
		if c.Key != key {
			continue
		}
		for p := range g.members {
			out = append(out, Instance{p.instance, p.addresses, p.connected, p.serves.Load()})
		}
	}
	return out
}
