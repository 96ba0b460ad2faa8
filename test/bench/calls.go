//go:build linux

package main

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/client"
	"github.com/evermesh/evermesh/test/stage"
)

// callers is how many call at once; so many meshes are there, too.
const callers = 32

func apiMesh(n int) string { return fmt.Sprintf("calls%d", n) }

// load is one kind of load on the API: so many callers, spread over so many meshes.
type load struct {
	row, name       string
	operation       string
	callers, meshes int
	least           float64 // of the floor's rate; 0: as much as one caller
}

func loads() []load {
	return []load{
		{rowCalls32, "signed writes, 32 callers on 32 meshes", "UpdateRoute", callers, callers, 0.70},
		{rowCalls1, "signed writes, one caller", "UpdateRoute", 1, 1, 0.65},
		{rowCallsMesh, "signed writes, 32 callers on one mesh", "UpdateRoute", callers, 1, 0},
		{rowDescribe, "signed DescribeRoute, 32 callers", "DescribeRoute", callers, callers, 0.5},
	}
}

// measureCalls measures the API and its floor with the same clients and the same requests.
func measureCalls(ctx context.Context, r *rig) ([]figure, error) {
	// The same program with one difference: its writes carry an event each, as they will have to (D2).
	usual := r.Programs.Evermeshd
	filled := filepath.Join(r.Dir(), "bin", "evermeshd-outbox")
	if err := r.build(ctx, filled, "./cmd/evermeshd", "-tags", "evermesh_outbox"); err != nil {
		return nil, err
	}
	r.Programs.Evermeshd = filled
	defer func(usual string) { r.Programs.Evermeshd = usual }(usual)
	c, err := r.control(ctx)
	if err != nil {
		return nil, err
	}
	if err := each(ctx, callers, func(ctx context.Context, n int) error { return makeAPIMesh(ctx, c.Evermesh, apiMesh(n)) }); err != nil {
		return nil, err
	}
	floor, process, err := r.floorAPIUp(ctx, c)
	if err != nil {
		return nil, err
	}
	var figures []figure
	alone := 0.0 // our rate of one caller
	who := [2]struct {
		name, endpoint, debug string
		pid                   int
	}{
		{"evermeshd", c.Evermesh.Endpoint, c.Admin, c.Process.Pid()}, {"floor", floor, floor, process.Pid()},
	}
	for _, l := range loads() {
		if !r.wants(l.row) {
			continue
		}
		// Turn by turn, so that what else the machine does meets both.
		var rates [2]float64
		var used [2]time.Duration
		for turn := range 4 {
			at := who[turn%2]
			var rate float64
			before, err := processor(at.pid)
			if err != nil {
				return nil, err
			}
			err = r.profiled(ctx, l.row, at.name, at.debug, func() error {
				var err error
				rate, err = r.rate(ctx, c, at.endpoint, l)
				return err
			})
			if err != nil {
				return nil, fmt.Errorf("%s: %w", l.name, err)
			}
			after, err := processor(at.pid)
			if err != nil {
				return nil, err
			}
			rates[turn%2] += rate / 2
			used[turn%2] += after - before
		}
		f := figure{
			name: l.name, ours: fmt.Sprintf("%.0f/s", rates[0]), floor: fmt.Sprintf("%.0f/s", rates[1]),
			factor: fmt.Sprintf("%.2f", rates[0]/max(1, rates[1])),
		}
		each := func(n int) string {
			return ms(used[n] / time.Duration(max(1, rates[n]*2*r.scale.calls.Seconds())))
		}
		f.note = fmt.Sprintf("processor of the server for a call: %s (floor %s); %v each, in turns.", each(0), each(1), 2*r.scale.calls)
		if l.operation == "UpdateRoute" {
			f.note += " A write carries an event of 1.5 KB, ours (evermeshd built with -tags evermesh_outbox) as the floor's."
		}
		switch {
		case l.least > 0:
			f = f.must(fmt.Sprintf("≥ %.2f", l.least), rates[0] >= l.least*rates[1])
		case alone > 0:
			f = f.must("≥ one caller", rates[0] >= alone)
		}
		if l.row == rowCalls1 {
			alone = rates[0]
		}
		figures = append(figures, f)
	}
	return figures, nil
}

// makeAPIMesh makes the least that a route needs.
func makeAPIMesh(ctx context.Context, c *client.Client, mesh string) error {
	if err := c.Call(ctx, "CreateMesh", api.CreateMeshInput{MeshName: mesh}, nil); err != nil {
		return err
	}
	for _, name := range []string{"a", "b"} {
		if err := c.Call(ctx, "CreateVirtualNode", map[string]any{
			"meshName": mesh, "virtualNodeName": name,
			"spec": map[string]any{
				"listeners":        []any{map[string]any{"portMapping": map[string]any{"port": port, "protocol": "http"}}},
				"serviceDiscovery": map[string]any{"dns": map[string]any{"hostname": name + ".local"}},
			},
		}, nil); err != nil {
			return err
		}
	}
	return makeService(ctx, c, mesh, "s", "a", "b")
}

// rate is how many calls an endpoint answers in a second, over the scale's time.
func (r *rig) rate(ctx context.Context, c *stage.Control, endpoint string, l load) (float64, error) {
	transport := &http.Transport{MaxIdleConnsPerHost: callers, MaxIdleConns: callers}
	defer transport.CloseIdleConnections()
	caller, err := client.New(client.Config{
		Endpoint: endpoint, Region: c.Region, Credentials: c.Evermesh.Credentials, HTTP: &http.Client{Transport: transport},
	})
	if err != nil {
		return 0, err
	}
	var done atomic.Int64
	errs := make(chan error, l.callers)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var all sync.WaitGroup
	began := time.Now()
	end := began.Add(r.scale.calls)
	for n := range l.callers {
		all.Go(func() {
			for i := 0; time.Now().Before(end) && ctx.Err() == nil; i++ {
				mesh := apiMesh(n % l.meshes)
				var in any = map[string]any{"meshName": mesh, "virtualRouterName": "s", "routeName": "main"}
				if l.operation == "UpdateRoute" {
					in = route(mesh, "s", "a", "b", (n+i)%100)
				}
				if err := caller.Call(ctx, l.operation, in, nil); err != nil {
					errs <- err
					cancel()
					return
				}
				done.Add(1)
			}
		})
	}
	all.Wait()
	select {
	case err := <-errs:
		return 0, err
	default:
		return float64(done.Load()) / time.Since(began).Seconds(), nil
	}
}
