//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"slices"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/envoy"
	"github.com/evermesh/evermesh/internal/mesh"
)

const account = "000000000000"

// keyOf is the key of a resource of the mesh; a mesh has no name beside its own.
func keyOf(mesh string, kind api.Kind, parent, name string) api.Key {
	k := api.Key{Owner: account, Mesh: mesh, Kind: kind, Parent: parent, Name: name}
	if kind == api.KindMesh {
		k.Name = mesh
	}
	return k
}

// resources are a mesh in this program, as a control plane holds it.
type resources struct {
	mesh string
	all  []*api.Resource
}

func (r *resources) add(kind api.Kind, parent, name string, spec any) {
	r.all = append(r.all, &api.Resource{Key: keyOf(r.mesh, kind, parent, name), Owner: account, Spec: spec})
}

// service is makeService for a mesh in this program.
func (r *resources) service(name, first, second string, weight int64) {
	r.add(api.KindVirtualRouter, "", name, &api.VirtualRouterSpec{
		Listeners: []api.VirtualRouterListener{{PortMapping: api.PortMapping{Port: port, Protocol: api.PortProtocolHTTP}}},
	})
	r.add(api.KindRoute, name, "main", split(first, second, weight))
	r.add(api.KindVirtualService, "", name, &api.VirtualServiceSpec{
		Provider: &api.VirtualServiceProvider{VirtualRouter: &api.VirtualRouterServiceProvider{VirtualRouterName: name}},
	})
}

// split gives the first node the weight, of 100, and the second one the rest.
func split(first, second string, weight int64) *api.RouteSpec {
	prefix, to := "/", int64(port)
	return &api.RouteSpec{HTTPRoute: &api.HTTPRoute{
		Match: api.HTTPRouteMatch{Prefix: &prefix},
		Action: api.HTTPRouteAction{WeightedTargets: []api.WeightedTarget{
			{VirtualNode: first, Port: &to, Weight: weight}, {VirtualNode: second, Port: &to, Weight: 100 - weight},
		}},
	}}
}

// bundle is what the proxies of a node are sent. A problem is an error: what is measured must be whole.
func (r *resources) bundle(node string) (*envoy.Bundle, error) {
	view, found, _ := mesh.NewSnapshot(1, r.all).View(mesh.Client{Key: keyOf(r.mesh, api.KindVirtualNode, "", node)})
	bundle, more := new(envoy.Builder).Build(view, nil)
	if problems := append(found, more...); len(problems) > 0 {
		return nil, fmt.Errorf("translate %s: %v", node, problems)
	}
	return bundle, nil
}

// measureTranslation translates a node of the mesh in this program, from nothing and again and again after a change of
// one of its routes, each a number of times in a row: the median of the rows counts, in processor time, that of the
// collector included. As in a control plane, the configurations of all other nodes are in memory: in an empty program
// the collector would run as often as in no server.
func measureTranslation(_ context.Context, r *rig) ([]figure, error) {
	r.say("translating a node with %d backends", r.scale.backends)
	m := &resources{mesh: meshName}
	nodes := max(r.scale.nodes, 2*r.scale.backends+2)
	m.add(api.KindMesh, "", "", &api.MeshSpec{})
	for i := range nodes {
		spec := shape{nodes: nodes, backends: r.scale.backends}.node(i)
		m.add(api.KindVirtualNode, "", node(i, nodes), &spec)
		m.service(service(i, nodes), node(2*i, nodes), node(2*i+1, nodes), 50) // no two backends share a target
	}
	m.service(wide, node(0, nodes), node(1, nodes), 50)
	m.service(narrow, node(2, nodes), node(3, nodes), 50)
	if _, err := m.bundle(node(0, nodes)); err != nil {
		return nil, err
	}
	var (
		client   = mesh.Client{Key: keyOf(m.mesh, api.KindVirtualNode, "", node(0, nodes))}
		changed  = keyOf(m.mesh, api.KindRoute, wide, "main")
		snapshot = mesh.NewSnapshot(1, m.all)
		builder  = &envoy.Builder{}
		weight   int64
	)
	others := make([]*envoy.Bundle, nodes)
	for i := range nodes {
		view, _, _ := snapshot.View(mesh.Client{Key: keyOf(m.mesh, api.KindVirtualNode, "", node(i, nodes))})
		others[i], _ = builder.Build(view, nil)
	}
	held, size := others[0], 0
	for _, kind := range envoy.Types() {
		for _, one := range held.List(kind).Resources {
			size += len(one.Encoded)
		}
	}
	nothing, err := medianCPU(r.scale.rows, r.scale.inRow, func() {
		view, _, _ := snapshot.Apart().View(client)
		new(envoy.Builder).Build(view, nil)
	})
	if err != nil {
		return nil, err
	}
	change, err := medianCPU(r.scale.rows, 10*r.scale.inRow, func() {
		weight = (weight + 1) % 100
		snapshot = snapshot.Apply(snapshot.Revision()+1, []api.Change{{Key: changed, New: &api.Resource{
			Key: changed, Owner: account, Spec: split(node(0, nodes), node(1, nodes), weight),
		}}})
		view, _, _ := snapshot.View(client)
		held, _ = builder.Build(view, held)
	})
	if err != nil {
		return nil, err
	}
	runtime.KeepAlive(others)
	name := fmt.Sprintf("translation of a node with %d backends", r.scale.backends)
	return []figure{
		figure{
			name: name + ", from nothing: processor time", ours: ms(nothing),
			note: fmt.Sprintf("three listeners, mutual TLS, health checks: %.1f KiB of configuration, for %d targets. What the node reads is resolved, and all of it encoded; after a change the snapshot is made, too.", float64(size)/1024, 2*r.scale.backends),
		}.must("≤ 2 ms", nothing <= 2*time.Millisecond),
		figure{name: "  after a change of one of its routes", ours: ms(change)}.must("≤ 0.15 ms", change <= 150*time.Microsecond),
	}, nil
}

// medianCPU is the processor time of fn: the median of rows, each the mean of so many calls.
func medianCPU(rows, inRow int, fn func()) (time.Duration, error) {
	var took []time.Duration
	for range rows {
		before, err := processor(os.Getpid())
		if err != nil {
			return 0, err
		}
		for range inRow {
			fn()
		}
		after, err := processor(os.Getpid())
		if err != nil {
			return 0, err
		}
		took = append(took, (after-before)/time.Duration(inRow))
	}
	slices.Sort(took)
	return took[len(took)/2], nil
}
