//go:build linux

package main

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/test/ground"
)

// colors is the mesh that testdata's configurations are written for. Its names end in the domain; secured nodes speak
// mutual TLS, with certificates in dir.
func colors(domain, dir string) *resources {
	m := &resources{mesh: meshName}
	m.add(api.KindMesh, "", "", &api.MeshSpec{EgressFilter: &api.EgressFilter{Type: api.EgressFilterTypeAllowAll}})
	for name, port := range map[string]int64{"front": 8080, "blue": port, "green": port, "greeter": 9090} {
		spec := &api.VirtualNodeSpec{
			Listeners:        []api.Listener{{PortMapping: api.PortMapping{Port: port, Protocol: api.PortProtocolHTTP}}},
			ServiceDiscovery: &api.ServiceDiscovery{DNS: &api.DNSServiceDiscovery{Hostname: name + domain}},
		}
		if name == "front" {
			for _, of := range []string{loadHost, "greeter.local"} {
				spec.Backends = append(spec.Backends, api.Backend{VirtualService: &api.VirtualServiceBackend{VirtualServiceName: of}})
			}
		}
		if dir != "" {
			secured(spec, filepath.Join(dir, name))
		}
		m.add(api.KindVirtualNode, "", name, spec)
	}
	m.service(loadHost, "blue", "green", 75)
	m.add(api.KindVirtualService, "", "greeter.local", &api.VirtualServiceSpec{
		Provider: &api.VirtualServiceProvider{VirtualNode: &api.VirtualNodeServiceProvider{VirtualNodeName: "greeter"}},
	})
	return m
}

// measureTraffic sends requests through two sidecars, in pairs: for some seconds with configurations written by hand,
// and for as long with generated ones, in short turns, now these first and now those. The ratio of each pair counts.
// In every third pair there are turns with mutual TLS, too.
func measureTraffic(ctx context.Context, r *rig) ([]figure, error) {
	const name = "requests per second through two sidecars"
	hosts, instead := r.hosts(name, "front-hand", "blue-hand", "front-ours", "blue-ours", "front-secure", "blue-secure")
	if instead != nil {
		return instead, nil
	}
	ways, err := r.layWays(ctx, hosts)
	if err != nil {
		return nil, err
	}
	hand, ours, secure := ways[0], ways[1], ways[2]
	r.say("asking through two sidecars, %d pairs of %v", r.scale.pairs, r.scale.pairTime)
	var rates, costs, rate, cost, secureRates, secureCosts []float64 // ratios, and what is printed beside them
	var handRate, handCost, secureRate, secureCost []float64
	for i := range r.scale.pairs {
		pair := []*way{hand, ours}
		if i%2 == 1 {
			slices.Reverse(pair)
		}
		if i%3 == 0 {
			pair = append(pair, secure)
		}
		got, err := r.load(ctx, pair...)
		if err != nil {
			return nil, err
		}
		h, o := got[hand], got[ours]
		rates, costs = append(rates, o.rate/h.rate), append(costs, float64(o.cpu)/float64(h.cpu))
		rate, cost = append(rate, o.rate), append(cost, float64(o.cpu))
		handRate, handCost = append(handRate, h.rate), append(handCost, float64(h.cpu))
		if s, ok := got[secure]; ok {
			secureRates, secureCosts = append(secureRates, s.rate/h.rate), append(secureCosts, float64(s.cpu)/float64(h.cpu))
			secureRate, secureCost = append(secureRate, s.rate), append(secureCost, float64(s.cpu))
		}
	}
	for i, w := range ways {
		if err := w.passed(ctx, i == len(ways)-1); err != nil {
			return nil, err
		}
	}
	perSecond := func(of []float64) string { return fmt.Sprintf("%.0f", median(of)) }
	each := func(of []float64) string { return ms(time.Duration(median(of))) }
	low, high := interval(rates)
	return []figure{
		figure{
			name: name, ours: perSecond(rate), floor: perSecond(handRate), factor: fmt.Sprintf("%.3f×", median(rates)),
			note: fmt.Sprintf("median of %d pairs of %v each over %d connections, in %d turns; 95 %% interval of the median ratio %.3f to %.3f. The floor is a configuration written by hand, here and below.", len(rates), r.scale.pairTime, r.scale.conns, turnsOfPair, low, high),
		}.must("interval ≥ 0.95×", low >= 0.95),
		{name: "  processor time of both Envoys for each", ours: each(cost), floor: each(handCost), factor: fmt.Sprintf("%.3f×", median(costs))},
		{name: "  with mutual TLS", ours: perSecond(secureRate), floor: perSecond(handRate), factor: fmt.Sprintf("%.3f×", median(secureRates)), note: fmt.Sprintf("median of %d; the floor is plain.", len(secureRates))},
		{name: "  processor time of both Envoys for each", ours: each(secureCost), floor: each(handCost), factor: fmt.Sprintf("%.3f×", median(secureCosts))},
	}, nil
}

// layWays lays a way by hand, a generated one, and one with mutual TLS, each on two of the hosts.
func (r *rig) layWays(ctx context.Context, hosts []*ground.Host) (out []*way, err error) {
	certs := filepath.Join(r.Dir(), "run", "certs")
	const secureDomain = ".secure.local"
	names := map[string][]string{}
	for _, name := range []string{"front", "blue", "green", "greeter"} {
		names[name] = []string{"blue" + secureDomain, "green" + secureDomain} // both are on one host
	}
	if err := issue(certs, names); err != nil {
		return nil, err
	}
	for i, domain := range []string{".hand.local", ".ours.local", secureDomain} {
		dir := ""
		if domain == secureDomain {
			dir = certs
		}
		var configs [2]object
		for k, node := range []string{"front", "blue"} {
			if i == 0 {
				configs[k], err = byHand(node)
			} else if bundle, wrong := colors(domain, dir).bundle(node); wrong != nil {
				err = wrong
			} else {
				configs[k], err = generated(bundle)
			}
			if err != nil {
				return nil, err
			}
		}
		w, err := r.layWay(ctx, hosts[2*i:2*i+2], domain, configs)
		if err != nil {
			return nil, err
		}
		out = append(out, w)
	}
	return out, nil
}
