//go:build linux

package main

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/test/stage"
)

// bytesPerBackend is about what a backend with one target adds to a proxy's configuration; the figure's note says
// what it came to.
const bytesPerBackend = 850

// measureAgent measures an agent between an evermeshd and a real Envoy that has a large configuration.
func measureAgent(ctx context.Context, r *rig) ([]figure, error) {
	c, err := r.control(ctx, "--auth", "off")
	if err != nil {
		return nil, err
	}
	if err := makeLarge(ctx, c, max(2, r.scale.agent/bytesPerBackend)); err != nil {
		return nil, err
	}
	r.say("a node with %d backends is made", max(2, r.scale.agent/bytesPerBackend))
	ports, err := r.ports(1)
	if err != nil {
		return nil, err
	}
	s, err := r.Sidecar(ctx, r.Home(), stage.SidecarOptions{
		Resource: "mesh/" + meshName + "/virtualNode/caller", Alone: true, XDS: []*stage.Control{c}, AdminPort: ports[0],
	})
	if s != nil && s.Process != nil {
		r.running = append(r.running, s.Process)
	}
	if err != nil {
		return nil, err
	}
	r.say("its Envoy is live")
	var last api.Rollout
	arn := fmt.Sprintf("arn:aws:appmesh:%s:%s:mesh/%s/virtualRouter/s0/route/main", c.Region, c.Account, meshName)
	for n := range 10 {
		if err := c.Evermesh.Call(ctx, "UpdateRoute", route(meshName, "s0", "target0", "target1", n+1), nil); err != nil {
			return nil, err
		}
		if last, err = c.Rollout(ctx, arn); err != nil {
			return nil, err
		}
	}
	if last.ProxiesAccepted != 1 {
		return nil, fmt.Errorf("%d proxies accepted the changes, want 1", last.ProxiesAccepted)
	}
	size, err := s.Stat(ctx, "cluster_manager.active_clusters")
	if err != nil {
		return nil, err
	}
	r.say("the agent's Envoy has %d clusters; ten changes were accepted", size)
	if err := pause(ctx, r.scale.agentWait); err != nil {
		return nil, err
	}
	anon, err := resident(s.Process.Pid(), "RssAnon")
	if err != nil {
		return nil, err
	}
	all, err := resident(s.Process.Pid(), "VmRSS")
	if err != nil {
		return nil, err
	}
	frames, err := captureNode(ctx, c, "caller")
	if err != nil {
		return nil, err
	}
	return []figure{
		figure{
			name: "evermesh-agent: RssAnon", ours: fmt.Sprintf("%.1f MB", anon/1e6),
			note: fmt.Sprintf("%v after ten changes; %s", r.scale.agentWait, frames),
		}.must("≤ 14 MB", anon <= 14e6),
		figure{name: "  VmRSS", ours: fmt.Sprintf("%.1f MB", all/1e6)}.must("≤ 32 MB", all <= 32e6),
	}, nil
}

// makeLarge makes a node that calls so many services.
func makeLarge(ctx context.Context, c *stage.Control, services int) error {
	if err := c.Evermesh.Call(ctx, "CreateMesh", api.CreateMeshInput{MeshName: meshName}, nil); err != nil {
		return err
	}
	began := time.Now()
	var backends []any
	for i := range services {
		backends = append(backends, map[string]any{"virtualService": map[string]any{"virtualServiceName": fmt.Sprintf("s%d", i)}})
	}
	var both errgroup.Group
	both.Go(func() error {
		return c.Evermesh.Call(ctx, "CreateVirtualNode", map[string]any{
			"meshName": meshName, "virtualNodeName": "caller", "spec": map[string]any{"backends": backends},
		}, nil)
	})
	both.Go(func() error {
		return each(ctx, services, func(ctx context.Context, i int) error {
			return c.Evermesh.Call(ctx, "CreateVirtualNode", map[string]any{
				"meshName": meshName, "virtualNodeName": fmt.Sprintf("target%d", i),
				"spec": map[string]any{
					"listeners":        []any{map[string]any{"portMapping": map[string]any{"port": port, "protocol": "http"}}},
					"serviceDiscovery": map[string]any{"dns": map[string]any{"hostname": "127.0.0.1"}},
				},
			}, nil)
		})
	})
	if err := both.Wait(); err != nil {
		return err
	}
	err := each(ctx, services, func(ctx context.Context, i int) error {
		return makeService(ctx, c.Evermesh, meshName, fmt.Sprintf("s%d", i), fmt.Sprintf("target%d", i), fmt.Sprintf("target%d", (i+1)%services))
	})
	if err != nil {
		return fmt.Errorf("after %v: %w", time.Since(began), err)
	}
	return nil
}
