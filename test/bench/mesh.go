//go:build linux

package main

import (
	"context"
	"fmt"
	"path"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/client"
)

// The mesh of the measurements. Node i listens and calls the services i, i+1, … of its neighbours, each split over two
// nodes, and the service "wide", which all call. Every few nodes one calls "narrow" in place of a neighbour's: 20 in
// all, at any size of the mesh.
//
// Every node has three listeners that demand mutual TLS, the one that is called with a health check, and a client
// policy that enforces it: its proxies ask for two secrets, which are files. Their names are the same in all workloads,
// as where something mounts certificates into each; the row "apart" has names of each node's own.
const (
	meshName   = "bench"
	nodePrefix = "n"
	port       = 9080
	narrow     = "narrow"
	wide       = "wide"
	writers    = 16 // that make the mesh
	// certificates is the name of every workload's certificate and key, without .pem and .key.
	certificates = "/certs/tls"
)

func service(i, nodes int) string { return fmt.Sprintf("s%d", i%nodes) }

func node(i, nodes int) string { return fmt.Sprint(nodePrefix, i%nodes) }

// shape is what a mesh is like.
type shape struct {
	nodes, backends int
	cloudMap        bool // the node of the number found is in Cloud Map, all others in DNS
	apart           bool // each node has names of its own for certificate and key
}

// found is the number of the node that is found in Cloud Map where one is: a target of the wide service.
const found = 1

// makeMesh makes a mesh of that shape.
func makeMesh(ctx context.Context, c *client.Client, s shape) error {
	nodes := s.nodes
	if err := c.Call(ctx, "CreateMesh", api.CreateMeshInput{MeshName: meshName}, nil); err != nil {
		return err
	}
	if err := each(ctx, nodes, func(ctx context.Context, i int) error {
		spec := s.node(i)
		if s.cloudMap && i == found {
			spec.ServiceDiscovery = &api.ServiceDiscovery{AWSCloudMap: &api.AWSCloudMapServiceDiscovery{NamespaceName: namespace, ServiceName: node(i, nodes)}}
		}
		return c.Call(ctx, "CreateVirtualNode", api.CreateVirtualNodeInput{MeshName: meshName, VirtualNodeName: node(i, nodes), Spec: spec}, nil)
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

// node is the i-th node of the mesh.
func (s shape) node(i int) api.VirtualNodeSpec {
	nodes := s.nodes
	name := node(i, nodes)
	spec := api.VirtualNodeSpec{
		Listeners:        []api.Listener{{PortMapping: api.PortMapping{Port: port, Protocol: api.PortProtocolHTTP}, HealthCheck: checks()}},
		ServiceDiscovery: &api.ServiceDiscovery{DNS: &api.DNSServiceDiscovery{Hostname: name + ".bench.local"}},
	}
	for n, protocol := range []api.PortProtocol{api.PortProtocolGRPC, api.PortProtocolTCP} {
		spec.Listeners = append(spec.Listeners, api.Listener{PortMapping: api.PortMapping{Port: int64(port + 1 + n), Protocol: protocol}})
	}
	if s.apart {
		secured(&spec, path.Join(path.Dir(certificates), name))
	} else {
		secured(&spec, certificates)
	}
	every := max(1, nodes/affected)
	for k := range s.backends {
		of := service(i+k, nodes)
		switch {
		case k == 0:
			of = wide
		case k == 1 && i%every == 0 && i/every < affected:
			of = narrow
		}
		spec.Backends = append(spec.Backends, api.Backend{VirtualService: &api.VirtualServiceBackend{VirtualServiceName: of}})
	}
	return spec
}

func checks() *api.HealthCheckPolicy {
	path := "/ping"
	return &api.HealthCheckPolicy{
		Protocol: api.PortProtocolHTTP, Path: &path, HealthyThreshold: 2, UnhealthyThreshold: 2, IntervalMillis: 5000, TimeoutMillis: 2000,
	}
}

// secured makes the node demand mutual TLS at all its listeners and enforce it with all that it calls. Its certificate
// and key are the files of that name with .pem and .key, the authority is ca.pem beside them.
func secured(spec *api.VirtualNodeSpec, name string) {
	authority := &api.TLSValidationContextFileTrust{CertificateChain: path.Dir(name) + "/ca.pem"}
	files := &api.ListenerTLSFileCertificate{CertificateChain: name + ".pem", PrivateKey: name + ".key"}
	for i := range spec.Listeners {
		spec.Listeners[i].TLS = &api.ListenerTLS{
			Mode: api.ListenerTLSModeStrict, Certificate: api.ListenerTLSCertificate{File: files},
			Validation: &api.ListenerTLSValidationContext{Trust: api.ListenerTLSValidationContextTrust{File: authority}},
		}
	}
	spec.BackendDefaults = &api.BackendDefaults{ClientPolicy: &api.ClientPolicy{TLS: &api.ClientPolicyTLS{
		Certificate: &api.ClientTLSCertificate{File: files},
		Validation:  api.TLSValidationContext{Trust: api.TLSValidationContextTrust{File: authority}},
	}}}
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
				map[string]any{"virtualNode": first, "port": port, "weight": weight},
				map[string]any{"virtualNode": second, "port": port, "weight": 100 - weight},
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
