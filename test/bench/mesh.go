//go:build linux

package main

import (
	"context"
	"fmt"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/client"
)

// The mesh of the measurements. Node i listens and calls the services i, i+1, … of its neighbours, each split over two
// nodes, and the service "wide", which all call. Every few nodes one calls "narrow" in place of a neighbour's: 20 in
// all, at any size of the mesh.
const (
	meshName   = "bench"
	nodePrefix = "n"
	port       = 9080
	narrow     = "narrow"
	wide       = "wide"
	writers    = 16 // that make the mesh
)

func service(i, nodes int) string { return fmt.Sprintf("s%d", i%nodes) }

func node(i, nodes int) string { return fmt.Sprint(nodePrefix, i%nodes) }

// nowhere is the number of no node.
const nowhere = -1

// makeMesh makes a mesh of so many nodes, each with so many backends. The node of the number found is found in Cloud
// Map, all others by DNS.
func makeMesh(ctx context.Context, c *client.Client, nodes, backends, found int) error {
	if err := c.Call(ctx, "CreateMesh", api.CreateMeshInput{MeshName: meshName}, nil); err != nil {
		return err
	}
	listens := map[string]any{"port": port, "protocol": "http"}
	if err := each(ctx, nodes, func(ctx context.Context, i int) error {
		var calls []any
		for k := range backends {
			name := service(i+k, nodes)
			switch {
			case k == 0:
				name = wide
			case k == 1 && i%(nodes/affected) == 0 && i/(nodes/affected) < affected:
				name = narrow
			}
			calls = append(calls, map[string]any{"virtualService": map[string]any{"virtualServiceName": name}})
		}
		discovery := map[string]any{"dns": map[string]any{"hostname": node(i, nodes) + ".bench.local"}}
		if i == found {
			discovery = map[string]any{"awsCloudMap": map[string]any{"namespaceName": namespace, "serviceName": node(i, nodes)}}
		}
		return c.Call(ctx, "CreateVirtualNode", map[string]any{
			"meshName": meshName, "virtualNodeName": node(i, nodes),
			"spec": map[string]any{
				"listeners":        []any{map[string]any{"portMapping": listens}},
				"serviceDiscovery": discovery,
				"backends":         calls,
			},
		}, nil)
	}); err != nil {
		return err
	}
	names := []string{narrow, wide}
	for i := range nodes {
		names = append(names, service(i, nodes))
	}
	return each(ctx, len(names), func(ctx context.Context, i int) error {
		return makeService(ctx, c, meshName, names[i], node(i, nodes), node(i+1, nodes))
	})
}

// makeService makes a service with a router and a route that is split over two nodes.
func makeService(ctx context.Context, c *client.Client, mesh, name, first, second string) error {
	if err := c.Call(ctx, "CreateVirtualRouter", map[string]any{
		"meshName": mesh, "virtualRouterName": name,
		"spec": map[string]any{"listeners": []any{map[string]any{"portMapping": map[string]any{"port": port, "protocol": "http"}}}},
	}, nil); err != nil {
		return err
	}
	if err := c.Call(ctx, "CreateRoute", route(mesh, name, first, second, 50), nil); err != nil {
		return err
	}
	return c.Call(ctx, "CreateVirtualService", map[string]any{
		"meshName": mesh, "virtualServiceName": name,
		"spec": map[string]any{"provider": map[string]any{"virtualRouter": map[string]any{"virtualRouterName": name}}},
	}, nil)
}

// route is the input of CreateRoute and UpdateRoute: the first node gets the weight, of 100.
func route(mesh, service, first, second string, weight int) map[string]any {
	return map[string]any{
		"meshName": mesh, "virtualRouterName": service, "routeName": "main",
		"spec": map[string]any{"httpRoute": map[string]any{
			"match": map[string]any{"prefix": "/"},
			"action": map[string]any{"weightedTargets": []any{
				map[string]any{"virtualNode": first, "weight": weight},
				map[string]any{"virtualNode": second, "weight": 100 - weight},
			}},
		}},
	}
}

// each calls fn for 0 to n-1 from a few goroutines; the first error ends it.
func each(ctx context.Context, n int, fn func(ctx context.Context, i int) error) error {
	var next atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	for range writers {
		group.Go(func() error {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				if err := fn(ctx, i); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}
