//go:build linux

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/test/ground"
)

const caller = "front" // the node that calls many services

// callerOf is a mesh with a node that calls the services, each split over a blue and a green node.
func callerOf(services []string) *resources {
	m := &resources{mesh: meshName}
	listens := []api.Listener{{PortMapping: api.PortMapping{Port: port, Protocol: api.PortProtocolHTTP}}}
	m.add(api.KindMesh, "", "", &api.MeshSpec{EgressFilter: &api.EgressFilter{Type: api.EgressFilterTypeAllowAll}})
	front := &api.VirtualNodeSpec{
		Listeners:        []api.Listener{{PortMapping: api.PortMapping{Port: 8080, Protocol: api.PortProtocolHTTP}}},
		ServiceDiscovery: &api.ServiceDiscovery{DNS: &api.DNSServiceDiscovery{Hostname: caller + ".local"}},
	}
	for _, name := range services {
		front.Backends = append(front.Backends, api.Backend{VirtualService: &api.VirtualServiceBackend{VirtualServiceName: name + ".local"}})
		for _, which := range []string{"blue", "green"} {
			m.add(api.KindVirtualNode, "", name+"-"+which, &api.VirtualNodeSpec{
				Listeners:        listens,
				ServiceDiscovery: &api.ServiceDiscovery{DNS: &api.DNSServiceDiscovery{Hostname: name + "-" + which + ".local"}},
			})
		}
		m.service(name+".local", name+"-blue", name+"-green", 75)
	}
	m.add(api.KindVirtualNode, "", caller, front)
	return m
}

// heap is how much memory an Envoy has in use, and how much of the machine's it takes.
type heap struct{ allocated, resident float64 }

// weigh runs an Envoy and says how much it takes once all is quiet.
func (r *rig) weigh(ctx context.Context, h *ground.Host, config object) (out heap, clusters int, err error) {
	e, err := r.runEnvoy(ctx, h, config)
	if err != nil {
		return out, 0, err
	}
	if err := pause(ctx, r.scale.settle); err != nil {
		return out, 0, err
	}
	text, err := e.page(ctx, "/memory")
	if err != nil {
		return out, 0, err
	}
	var page struct {
		Allocated string `json:"allocated"`
	}
	if err := json.Unmarshal(text, &page); err != nil {
		return out, 0, fmt.Errorf("read Envoy's memory: %w", err)
	}
	if out.allocated, err = strconv.ParseFloat(page.Allocated, 64); err != nil {
		return out, 0, fmt.Errorf("read Envoy's memory: %w", err)
	}
	if out.resident, err = resident(e.Pid(), "VmRSS"); err != nil {
		return out, 0, err
	}
	if clusters, err = e.sum(ctx, `^cluster_manager\.active_clusters$`); err != nil {
		return out, 0, err
	}
	return out, clusters, r.stopAll()
}

// measureEnvoyMemory compares how much an Envoy grows with what a node calls: with a generated configuration and with
// one written by hand, over one without listeners and clusters.
func measureEnvoyMemory(ctx context.Context, r *rig) ([]figure, error) {
	title := fmt.Sprintf("growth of Envoy's memory with %d backends", r.scale.services)
	hosts, instead := r.hosts(title, "memory")
	if instead != nil {
		return instead, nil
	}
	var services []string
	for i := range r.scale.services {
		name := fmt.Sprint("s", i)
		services = append(services, name)
		for _, which := range []string{"blue", "green"} {
			r.DNS().Set(name+"-"+which+".local", hosts[0].Addr())
		}
	}
	hand, err := byHand("many", services...)
	if err != nil {
		return nil, err
	}
	bundle, err := callerOf(services).bundle(caller)
	if err != nil {
		return nil, err
	}
	ours, err := generated(bundle)
	if err != nil {
		return nil, err
	}
	var allocated, resident [3][]float64
	var clusters [3]int
	for range r.scale.weighings {
		for i, config := range []object{{"static_resources": object{}}, hand, ours} {
			got, n, err := r.weigh(ctx, hosts[0], config)
			if err != nil {
				return nil, err
			}
			allocated[i], resident[i], clusters[i] = append(allocated[i], got.allocated), append(resident[i], got.resident), n
		}
	}
	if clusters[1] < 2*len(services) || clusters[2] < 2*len(services) {
		return nil, fmt.Errorf("the Envoys have %d and %d clusters of %d", clusters[1], clusters[2], 2*len(services))
	}
	row := func(title, what string, of [3][]float64) figure {
		empty := median(of[0])
		h, o := median(of[1])-empty, median(of[2])-empty
		return figure{
			name: title, ours: kib(o), floor: kib(h), factor: fmt.Sprintf("%.2f×", o/h),
			note: fmt.Sprintf("%s; an Envoy without listeners and clusters has %s, these have %d and %d clusters. The floor is a configuration written by hand.", what, kib(empty), clusters[2], clusters[1]),
		}.must("≤ 1.15×", o <= 1.15*h)
	}
	return []figure{row(title, "in use", allocated), row("  resident", "VmRSS", resident)}, nil
}
