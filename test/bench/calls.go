//go:build linux

package main

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
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
	least           float64 // of the other's rate; 0: nothing, or as much as one caller
	silent          bool    // the other is an evermeshd that keeps no events, not the floor
}

func loads() []load {
	return []load{
		{rowCalls32, "signed writes, 32 callers on 32 meshes", "UpdateRoute", callers, callers, 0.70, false},
		{rowCalls1, "signed writes, one caller", "UpdateRoute", 1, 1, 0.65, false},
		{rowCallsMesh, "signed writes, 32 callers on one mesh", "UpdateRoute", callers, 1, 0, false},
		{rowDescribe, "signed DescribeRoute, 32 callers", "DescribeRoute", callers, callers, 0.5, false},
		{rowAudit32, "  against --audit off, 32 callers", "DescribeRoute", callers, callers, 0.8, true},
		{rowAudit1, "  against --audit off, one caller", "DescribeRoute", 1, 1, 0, true},
	}
}

// measureCalls measures the API and its floor with the same clients and the same requests. Both have an event of each
// call on the disk before they answer: of a write in its transaction, of a read with one fsync for all that wait.
func measureCalls(ctx context.Context, r *rig) ([]figure, error) {
	wanted := slices.DeleteFunc(loads(), func(l load) bool { return !r.wants(l.row) })
	up := func(args ...string) (*stage.Control, error) {
		c, err := r.control(ctx, args...)
		if err != nil {
			return nil, err
		}
		return c, each(ctx, callers, func(ctx context.Context, n int) error { return makeAPIMesh(ctx, c.Evermesh, apiMesh(n)) })
	}
	c, err := up()
	if err != nil {
		return nil, err
	}
	read, write, err := eventSizes(ctx, c)
	if err != nil {
		return nil, err
	}
	r.say("an event of a read has %d bytes, of a write %d", read, write)
	floor, process, err := r.floorAPIUp(ctx, c, read, write)
	if err != nil {
		return nil, err
	}
	at := func(name string, c *stage.Control) answering {
		return answering{name, c, c.Evermesh.Endpoint, c.Admin, c.Process.Pid()}
	}
	usual := [2]answering{at("evermeshd", c), {"floor", c, floor, floor, process.Pid()}}
	var silent [2]answering // two that nobody writes to meanwhile
	if slices.ContainsFunc(wanted, func(l load) bool { return l.silent }) {
		for i, how := range []string{"all", "off"} {
			c, err := up("--audit", how)
			if err != nil {
				return nil, err
			}
			silent[i] = at("audit-"+how, c)
		}
	}
	done := make([][2]answered, len(wanted))
	for turn := range callTurns {
		// All loads in each turn, and both servers in each load, so that what else the machine does meets all.
		for n, l := range wanted {
			who := usual
			if l.silent {
				who = silent
			}
			for i, at := range who {
				took, err := r.turn(ctx, at, l, turn == callTurns-1)
				if err != nil {
					return nil, fmt.Errorf("%s: %w", l.name, err)
				}
				done[n][i].add(took)
			}
		}
	}
	var figures []figure
	alone := 0.0 // our rate of one caller that writes
	for n, l := range wanted {
		ours, other := done[n][0], done[n][1]
		f := figure{
			name: l.name, ours: fmt.Sprintf("%.0f/s", ours.rate()), floor: fmt.Sprintf("%.0f/s", other.rate()),
			factor: fmt.Sprintf("%.2f", ours.rate()/max(1, other.rate())),
			note: fmt.Sprintf("processor of the server for a call: %s (floor %s); %d turns of %v.",
				ms(ours.cpu/time.Duration(max(1, ours.calls))), ms(other.cpu/time.Duration(max(1, other.calls))), callTurns, r.scale.calls),
		}
		switch {
		case l.silent:
			f.note = "The other is no floor, but evermeshd --audit off: what events cost who reads. " + strings.Replace(f.note, "floor", "without", 1)
		case l.operation == "UpdateRoute":
			f.note += fmt.Sprintf(" A write carries an event of %d bytes, ours as the floor's, and both move it to their disk and remove it from the store.", write)
		default:
			f.note += fmt.Sprintf(" An event of %d bytes is on the disk before the answer, ours as the floor's.", read)
		}
		switch {
		case l.least > 0:
			f = f.must(fmt.Sprintf("≥ %.2f", l.least), ours.rate() >= l.least*other.rate())
		case l.row == rowCallsMesh && alone > 0:
			f = f.must("≥ one caller", ours.rate() >= alone)
		}
		if l.row == rowCalls1 {
			alone = ours.rate()
		}
		figures = append(figures, f)
	}
	return figures, nil
}

// callTurns is how often each load is put on each server.
const callTurns = 8

// answering is a server of the API, which knows the key of a control plane.
type answering struct {
	name            string
	control         *stage.Control
	endpoint, debug string
	pid             int
}

// answered is what a server did.
type answered struct {
	calls     int64
	time, cpu time.Duration
}

func (a *answered) add(b answered) {
	a.calls, a.time, a.cpu = a.calls+b.calls, a.time+b.time, a.cpu+b.cpu
}

func (a *answered) rate() float64 { return float64(a.calls) / max(a.time.Seconds(), 1e-9) }

// turn puts a load on a server for a while.
func (r *rig) turn(ctx context.Context, at answering, l load, profiled bool) (out answered, err error) {
	before, err := processor(at.pid)
	if err != nil {
		return out, err
	}
	run := func() error {
		out, err = r.callAll(ctx, at.control, at.endpoint, l)
		return err
	}
	if profiled {
		err = r.profiled(ctx, l.row, at.name, at.debug, run)
	} else {
		err = run()
	}
	if err != nil {
		return out, err
	}
	after, err := processor(at.pid)
	out.cpu = after - before
	return out, err
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

// callAll lets the load's callers call an endpoint for the scale's time.
func (r *rig) callAll(ctx context.Context, c *stage.Control, endpoint string, l load) (answered, error) {
	transport := &http.Transport{MaxIdleConnsPerHost: callers, MaxIdleConns: callers}
	defer transport.CloseIdleConnections()
	caller, err := client.New(client.Config{
		Endpoint: endpoint, Region: c.Region, Credentials: c.Evermesh.Credentials, HTTP: &http.Client{Transport: transport},
	})
	if err != nil {
		return answered{}, err
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
		return answered{}, err
	default:
		return answered{calls: done.Load(), time: time.Since(began)}, nil
	}
}
