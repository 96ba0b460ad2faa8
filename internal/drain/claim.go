package drain

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/discovery"
	"github.com/evermesh/evermesh/internal/envoy"
	"github.com/evermesh/evermesh/internal/mesh"
)

// What a proxy says of its addresses is its word. So it reaches only what the service
// discovery of its own node names, and of that not what is another proxy's.

const (
	// mostBeside bounds how many proxies are remembered that were where a draining one is.
	mostBeside = 64
	// mostShown is how many addresses a message has.
	mostShown = 5
)

// claim is what a draining proxy has of the endpoint sets.
type claim struct {
	account, namespace, service string
	endpoints                   []envoy.Endpoint // sorted
	// nodes are those whose clients may be sent one of the endpoints, the proxy's own
	// first.
	nodes []api.Key
	// beside are other proxies of the node that tell one of its addresses.
	beside []string
	// why is said when nothing is its.
	why string
}

// party is a node of the service that the proxy's node is found by.
type party struct {
	node    *api.Resource
	queries []envoy.EndpointQuery
}

// claim finds what is the proxy's.
func (d *Drains) claim(ctx context.Context, s *mesh.Snapshot, p api.Proxy, node *api.Resource) (*claim, error) {
	own := d.party(s, node)
	parties, foreign := d.parties(s, own)
	// Find has just had the same rows read, unless another account asks than the node's: the
	// ledger's reader keeps them for a moment.
	proxies, _, err := d.Ledger.Proxies(ctx, node.Owner)
	if err != nil {
		return nil, err
	}
	c := &claim{account: own.queries[0].Account, namespace: own.queries[0].Namespace, service: own.queries[0].Service}
	believed, doubts := c.believe(p, own, parties, proxies, foreign)
	found, known := map[envoy.Endpoint]bool{}, false
	asking, cancel := context.WithTimeout(ctx, d.Wait/4)
	defer cancel()
	for _, set := range d.Endpoints.Ask(asking, everyPreference(own, parties)) {
		known = true
		for _, e := range set {
			found[e] = true
			if ports, ok := believed[e.Address]; ok && (ports == nil || ports[e.Port]) && !slices.Contains(c.endpoints, e) {
				c.endpoints = append(c.endpoints, e)
			}
		}
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	slices.SortFunc(c.endpoints, compare)
	switch {
	case len(c.endpoints) > 0:
		c.nodes = d.reached(own, parties, c.endpoints)
	case !known:
		c.why = fmt.Sprintf("Which endpoints service %s of namespace %s has is not known now: Cloud Map has not told them.", c.service, c.namespace)
	default:
		c.why = unmatched(p, found, doubts)
	}
	return c, nil
}

func (d *Drains) party(s *mesh.Snapshot, node *api.Resource) party {
	return party{node, envoy.Queries(s.Get(node.Key.MeshKey()), node, d.Endpoints.Own)}
}

// parties are all nodes of the service that own is found by, own among them; foreign says
// that one of another account is, where the source does not tell accounts apart.
func (d *Drains) parties(s *mesh.Snapshot, own party) (out []party, foreign bool) {
	service := own.node.VirtualNodeSpec().ServiceDiscovery.AWSCloudMap
	for r := range s.All() {
		if r.Key.Kind != api.KindVirtualNode {
			continue
		}
		found := r.VirtualNodeSpec().ServiceDiscovery
		if found == nil || found.AWSCloudMap == nil || found.AWSCloudMap.NamespaceName != service.NamespaceName || found.AWSCloudMap.ServiceName != service.ServiceName {
			continue
		}
		if r.Owner != own.node.Owner {
			if d.Endpoints.Own {
				continue // it is a service of that account
			}
			foreign = true
		}
		out = append(out, d.party(s, r))
	}
	return out, foreign
}

// everyPreference is own's queries for addresses of each family that clients of a party
// are sent.
func everyPreference(own party, parties []party) (out []envoy.EndpointQuery) {
	for _, p := range parties {
		for _, theirs := range p.queries {
			for _, q := range own.queries {
				if q.IPPreference = theirs.IPPreference; !slices.Contains(out, q) {
					out = append(out, q)
				}
			}
		}
	}
	return out
}

// believe says which of the addresses that the proxy tells are its, and on which of their
// ports; nil is all. It notes who is beside it, and returns what speaks against the other
// addresses.
//
// An address is its when no other proxy of the service tells it, too. Of one that others
// tell, as on one host, the ports of its node's listeners are its, but for theirs; where
// it connects from the address, those alone count that do so, too.
func (c *claim) believe(p api.Proxy, own party, parties []party, proxies []api.Proxy, foreign bool) (believed map[string]map[uint32]bool, doubts []string) {
	believed = map[string]map[uint32]bool{}
	others := siblings(p, own, parties, proxies)
	for _, address := range p.Addresses {
		proven, shared, by := host(p.Peer) == address, false, ""
		ports := portsOf(own)
		for _, o := range others {
			if !slices.Contains(o.proxy.Addresses, address) {
				continue
			}
			if o.party.node.Key == own.node.Key && len(c.beside) < mostBeside && !slices.Contains(c.beside, o.proxy.Instance) {
				c.beside = append(c.beside, o.proxy.Instance)
			}
			if proven && host(o.proxy.Peer) != address {
				continue
			}
			shared, by = true, o.proxy.Instance
			for port := range portsOf(o.party) {
				delete(ports, port)
			}
		}
		switch {
		case shared && len(ports) == 0:
			doubts = append(doubts, fmt.Sprintf("proxy %s tells %s, too", clipped(by), address))
		case shared:
			believed[address] = ports
		case foreign && !proven:
			doubts = append(doubts, "a node of another account is found by the same service, and it does not connect from "+address)
		default:
			believed[address] = nil
		}
	}
	return believed, doubts
}

// sibling is another connected proxy of a party.
type sibling struct {
	proxy api.Proxy
	party party
}

func siblings(p api.Proxy, own party, parties []party, proxies []api.Proxy) (out []sibling) {
	for _, o := range proxies {
		if o.Instance == p.Instance && o.ResourceARN == p.ResourceARN || !slices.ContainsFunc(p.Addresses, func(a string) bool { return slices.Contains(o.Addresses, a) }) {
			continue
		}
		if o.ResourceARN == p.ResourceARN {
			out = append(out, sibling{o, own})
			continue
		}
		key, err := keyOf(o.ResourceARN)
		if err != nil {
			continue
		}
		for _, of := range parties {
			if of.node.Key == key {
				out = append(out, sibling{o, of})
			}
		}
	}
	return out
}

func portsOf(p party) map[uint32]bool {
	out := map[uint32]bool{}
	for _, q := range p.queries {
		out[q.Port] = true
	}
	return out
}

// reached are the nodes whose clients may be sent one of the endpoints.
func (d *Drains) reached(own party, parties []party, endpoints []envoy.Endpoint) []api.Key {
	out := []api.Key{own.node.Key}
	for _, p := range parties {
		if p.node.Key == own.node.Key || disjoint(own.queries[0], p.queries) {
			continue
		}
		if slices.ContainsFunc(p.queries, func(q envoy.EndpointQuery) bool {
			set, known := d.Endpoints.Current(q)
			return !known || slices.ContainsFunc(set, func(e envoy.Endpoint) bool { return slices.Contains(endpoints, e) })
		}) {
			out = append(out, p.node.Key)
		}
	}
	return out
}

// disjoint says whether no instance can be found by both, as they ask for different values
// of one attribute.
func disjoint(q envoy.EndpointQuery, others []envoy.EndpointQuery) bool {
	mine := discovery.Attributes(q)
	for _, o := range others {
		for key, value := range discovery.Attributes(o) {
			if has, ok := mine[key]; ok && has != value {
				return true
			}
		}
	}
	return len(others) == 0
}

// unmatched says why no endpoint is the proxy's.
func unmatched(p api.Proxy, found map[envoy.Endpoint]bool, doubts []string) string {
	var have []string
	for e := range found {
		have = append(have, netip.AddrPortFrom(discovery.Address(e.Address), uint16(e.Port)).String())
	}
	slices.Sort(have)
	out := fmt.Sprintf("No endpoint of the node is the proxy's: it tells %s, and the node's endpoints are %s.", some(p.Addresses), some(have))
	if len(doubts) > 0 {
		out += " Not believed: " + some(doubts) + "."
	}
	return out + " Clients may choose it until it is deregistered."
}

// some are the first ones of a list.
func some(list []string) string {
	switch {
	case len(list) == 0:
		return "none"
	case len(list) > mostShown:
		return strings.Join(list[:mostShown], ", ") + fmt.Sprintf(" and %d more", len(list)-mostShown)
	}
	return strings.Join(list, ", ")
}

// host is the address of a peer, without its port; empty for none.
func host(peer *string) string {
	if peer == nil {
		return ""
	}
	at, err := netip.ParseAddrPort(*peer)
	if err != nil {
		return ""
	}
	return at.Addr().Unmap().String()
}

func compare(a, b envoy.Endpoint) int {
	if c := strings.Compare(a.Address, b.Address); c != 0 {
		return c
	}
	return int(a.Port) - int(b.Port)
}
