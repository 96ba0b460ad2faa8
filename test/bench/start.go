//go:build linux

package main

import (
	"context"
	"fmt"
	"time"

	"github.com/evermesh/evermesh/test/stage"
)

// meshUp makes a mesh on an evermeshd of its own, starts that again, so that it is fresh, and connects all proxies at
// once. It tells how the proxies came up.
// args are further arguments of evermeshd.
func (r *rig) meshUp(ctx context.Context, s shape, args ...string) (*stage.Control, *swarmOf, startUp, error) {
	var up startUp
	c, err := r.control(ctx, append([]string{"--auth", "off"}, args...)...)
	if err != nil {
		return nil, nil, up, err
	}
	began := time.Now()
	if err := makeMesh(ctx, c.Evermesh, s); err != nil {
		return nil, nil, up, fmt.Errorf("make a mesh of %d nodes: %w", s.nodes, err)
	}
	r.say("a mesh of %d nodes with %d backends each, made in %.1f s", s.nodes, s.backends, time.Since(began).Seconds())
	if err := c.Stop(ctx); err != nil {
		return nil, nil, up, err
	}
	if err := awsKey(c); err != nil {
		return nil, nil, up, err
	}
	if err := c.Start(ctx); err != nil {
		return nil, nil, up, err
	}
	r.running = append(r.running, c.Process)
	sw, up, err := r.connect(ctx, c.Process.Pid(), c.XDSAddr, s.nodes)
	return c, sw, up, err
}

// startUp is how proxies came up on a fresh server.
type startUp struct {
	last   time.Duration // until the last proxy had its configuration
	cpu    time.Duration
	memory float64 // bytes for each proxy, when all is quiet
}

// connect connects n proxies at once to a fresh server.
func (r *rig) connect(ctx context.Context, pid int, addr string, n int) (*swarmOf, startUp, error) {
	var up startUp
	before, err := resident(pid, "VmRSS")
	if err != nil {
		return nil, up, err
	}
	used, err := processor(pid)
	if err != nil {
		return nil, up, err
	}
	sw, err := r.swarmUp(ctx, addr, 0, n)
	if err != nil {
		return nil, up, err
	}
	if up.last, err = sw.complete(ctx, n); err != nil {
		return nil, up, err
	}
	after, err := processor(pid)
	if err != nil {
		return nil, up, err
	}
	up.cpu = after - used
	r.say("%d proxies have their configuration after %s", n, ms(up.last))
	if err := pause(ctx, r.scale.settle); err != nil {
		return nil, up, err
	}
	now, err := resident(pid, "VmRSS")
	up.memory = (now - before) / float64(n)
	return sw, up, err
}

// measureMesh measures what a mesh of the usual size does, and its floor.
func measureMesh(ctx context.Context, r *rig) ([]figure, error) {
	nodes := r.scale.nodes
	c, sw, up, err := r.meshUp(ctx, shape{nodes: nodes, backends: r.scale.backends})
	if err != nil {
		return nil, err
	}
	var few, all spread
	if r.wants(rowNarrow) {
		r.say("changing weights that %d proxies need, %d times", affected, r.scale.changes)
		if few, err = r.weights(ctx, c, sw, rowNarrow, narrow, [2]string{node(0, nodes), node(1, nodes)}, affected); err != nil {
			return nil, err
		}
	}
	if r.wants(rowWide) {
		r.say("changing weights that all %d need, %d times", nodes, r.scale.changes)
		if all, err = r.weights(ctx, c, sw, rowWide, wide, [2]string{node(1, nodes), node(2, nodes)}, nodes); err != nil {
			return nil, err
		}
	}
	frames, err := capture(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("capture a proxy's configuration: %w", err)
	}
	if err := r.stopAll(); err != nil {
		return nil, err
	}
	var floors [2]floorFigures
	for i, what := range []string{"floor", "cache"} {
		r.say("and the same with: %s", what)
		if floors[i], err = r.floorFigures(ctx, what, frames, nodes); err != nil {
			return nil, err
		}
		if err := r.stopAll(); err != nil {
			return nil, err
		}
	}
	floor, cache := floors[0], floors[1]
	received := func(s spread) string {
		return fmt.Sprintf("%d streams received %d messages for a change.", s.touched, s.messages)
	}
	than := func(s spread) string {
		return fmt.Sprintf(" go-control-plane's cache: %s, processor %s.", ms(s.last), ms(s.cpu))
	}
	var figures []figure
	if r.wants(rowNarrow) {
		figures = few.figures(fmt.Sprintf("weight change that %d of %d proxies need", affected, nodes), floor.few, bounds{last: 3, cpu: 3, api: true, more: time.Millisecond}, received(few)+than(cache.few))
	}
	if r.wants(rowWide) {
		figures = append(figures, all.figures(fmt.Sprintf("weight change that all %d need", nodes), floor.all, bounds{last: 1.5, cpu: 2.2}, received(all)+than(cache.all))...)
	}
	if !r.wants(rowStart) {
		return figures, nil
	}
	start := figure{
		name: fmt.Sprintf("cold start: %d proxies at once, last one complete", nodes),
		ours: ms(up.last), floor: ms(floor.up.last), factor: fmt.Sprintf("%.1f×", times(up.last, floor.up.last)),
		note: fmt.Sprintf("%s. go-control-plane's cache: %s, processor %s.", frames, ms(cache.up.last), ms(cache.up.cpu)),
	}.atMost(2.5, up.last, floor.up.last, 0)
	memory := figure{
		name: "memory of evermeshd per connected proxy",
		ours: kib(up.memory), floor: kib(floor.up.memory), factor: fmt.Sprintf("%.1f×", up.memory/max(1, floor.up.memory)),
		note: fmt.Sprintf("resident, %v after the last push. go-control-plane's cache: %s, snapshots not counted.", r.scale.settle, kib(cache.up.memory)),
	}.must("≤ 100 KiB", up.memory <= 100<<10)
	return append(figures, start, figure{
		name: "  processor time", ours: ms(up.cpu), floor: ms(floor.up.cpu), factor: factor(up.cpu, floor.up.cpu),
	}, memory), nil
}

// floorFigures is what a sender of the captured frames reaches.
type floorFigures struct {
	up       startUp
	few, all spread
}

func (r *rig) floorFigures(ctx context.Context, what string, f *frames, nodes int) (out floorFigures, err error) {
	sender, err := r.floorUp(ctx, what, f, nodes)
	if err != nil {
		return out, err
	}
	sw, up, err := r.connect(ctx, sender.Pid(), sender.addr, nodes)
	if err != nil {
		return out, err
	}
	out.up = up
	pushing := *r
	if what == "cache" { // a comparison, and slow
		pushing.scale.changes = max(1, r.scale.changes/5)
	}
	if r.wants(rowNarrow) {
		if out.few, err = pushing.pushes(ctx, sender, sw, rowNarrow, "rds", affected); err != nil {
			return out, err
		}
	}
	if r.wants(rowWide) {
		out.all, err = pushing.pushes(ctx, sender, sw, rowWide, "rds", nodes)
	}
	return out, err
}

func kib(bytes float64) string { return fmt.Sprintf("%.0f KiB", bytes/1024) }

// measureApart is the start of measureMesh's mesh where each node has names of its own for its certificate and key, so
// that no two proxies have a cluster in common.
func measureApart(ctx context.Context, r *rig) ([]figure, error) {
	_, _, up, err := r.meshUp(ctx, shape{nodes: r.scale.nodes, backends: r.scale.backends, apart: true})
	if err != nil {
		return nil, err
	}
	return []figure{
		{name: fmt.Sprintf("cold start: %d proxies, certificates of different names", r.scale.nodes), ours: ms(up.last), note: "No two proxies have a cluster in common here; there is no bound."},
		{name: "  processor time", ours: ms(up.cpu)},
		{name: "  memory of evermeshd per connected proxy", ours: kib(up.memory)},
	}, nil
}
