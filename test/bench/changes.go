//go:build linux

package main

import (
	"context"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"time"

	"github.com/evermesh/evermesh/test/stage"
)

// spread sums up many changes in a row.
type spread struct {
	last, worst time.Duration // until the last proxy: the median and the longest
	api         time.Duration // of that, until the API answered: the median
	cpu         time.Duration // of the server, for each change
	touched     int           // most streams that received anything in a change
	messages    int64         // most messages of a change
	resources   int64         // most resources in them
}

// bounds are how many times its floor a change may take, until the last proxy and of the processor, and what may be
// added to that.
type bounds struct {
	last, cpu float64
	api       bool          // the API's own time may be added
	more      time.Duration // of the processor
}

// figures are the lines of a change and its floor: until the last proxy, what of that comes after the API's answer,
// and the processor's time.
func (s spread) figures(name string, floor spread, b bounds, note string) []figure {
	last := figure{
		name: name + ": last proxy", ours: ms(s.last), floor: ms(floor.last), factor: fmt.Sprintf("%.1f×", times(s.last, floor.last)),
		note: fmt.Sprintf("median of the changes; the worst took %s (floor %s). %s", ms(s.worst), ms(floor.worst), note),
	}.atMost(b.last, s.last, floor.last, 0)
	if b.api {
		last = last.must(fmt.Sprintf("≤ API + %g×", b.last), float64(s.last) <= float64(s.api)+b.last*float64(floor.last))
	}
	return []figure{
		last,
		{name: "  until the API answered", ours: ms(s.api), floor: orDash(floor.api)},
		{name: "  after the API had answered", ours: ms(s.last - s.api), floor: ms(floor.last - floor.api), factor: fmt.Sprintf("%.1f×", times(s.last-s.api, floor.last-floor.api))},
		figure{name: "  processor time", ours: ms(s.cpu), floor: ms(floor.cpu), factor: factor(s.cpu, floor.cpu)}.atMost(b.cpu, s.cpu, floor.cpu, b.more),
	}
}

func orDash(d time.Duration) string {
	if d == 0 {
		return "–"
	}
	return ms(d)
}

func ms(d time.Duration) string {
	if d < time.Millisecond {
		return fmt.Sprintf("%.2f ms", float64(d.Microseconds())/1000)
	}
	return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000)
}

// idleRate is the share of a processor that a server uses when nothing happens.
func idleRate(ctx context.Context, pid int, wait time.Duration) (float64, error) {
	before, err := processor(pid)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	if err := pause(ctx, wait); err != nil {
		return 0, err
	}
	after, err := processor(pid)
	return float64(after-before) / float64(time.Since(began)), err
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// changing is what inARow does again and again.
type changing struct {
	row     string // for the profile
	who     string // server that is measured
	pid     int    // of it
	debug   string // URL above its /debug/pprof
	proxies int    // that receive each change
	types   string // of what they receive
	pattern func(n int) string
	// make does the n-th change and returns when it began, and how long the API took of it.
	make func(ctx context.Context, n int) (since time.Time, api time.Duration, err error)
}

// inARow makes the changes one after the other and times each.
func (r *rig) inARow(ctx context.Context, sw *swarmOf, c changing) (out spread, err error) {
	idle, err := idleRate(ctx, c.pid, min(2*time.Second, 10*r.scale.settle))
	if err != nil {
		return out, err
	}
	err = r.profiled(ctx, c.row, c.who, c.debug, func() error {
		out, err = r.changes(ctx, sw, c, idle)
		return err
	})
	return out, err
}

// changes is inARow with the server's idle rate known.
func (r *rig) changes(ctx context.Context, sw *swarmOf, c changing, idle float64) (spread, error) {
	var out spread
	var lasts, apis []time.Duration
	began := time.Now()
	before, err := processor(c.pid)
	if err != nil {
		return out, err
	}
	for n := range r.scale.changes {
		id, err := sw.expect(ctx, c.proxies, c.types, c.pattern(n))
		if err != nil {
			return out, err
		}
		since, api, err := c.make(ctx, n)
		if err != nil {
			return out, err
		}
		got, err := sw.wait(ctx, id, since)
		if err != nil {
			return out, fmt.Errorf("change %d: %w", n+1, err)
		}
		lasts, apis = append(lasts, duration(got.Latency.Max)), append(apis, api)
		out.touched = max(out.touched, got.Touched)
		var messages, resources int64
		for _, t := range got.ByType {
			messages, resources = messages+t.Messages, resources+t.Resources
		}
		out.messages, out.resources = max(out.messages, messages), max(out.resources, resources)
	}
	after, err := processor(c.pid)
	if err != nil {
		return out, err
	}
	used := after - before - time.Duration(idle*float64(time.Since(began)))
	out.cpu = max(0, used) / time.Duration(r.scale.changes)
	slices.Sort(lasts)
	slices.Sort(apis)
	out.last, out.worst, out.api = lasts[len(lasts)/2], lasts[len(lasts)-1], apis[len(apis)/2]
	return out, nil
}

// weights changes the weights of a service's route, again and again.
func (r *rig) weights(ctx context.Context, c *stage.Control, sw *swarmOf, row, name string, targets [2]string, proxies int) (spread, error) {
	weight := func(n int) int { return 1 + n%99 }
	if weight(0) == 50 { // what the mesh was made with
		return spread{}, fmt.Errorf("the first change changes nothing")
	}
	return r.inARow(ctx, sw, changing{
		row: row, who: "evermeshd", pid: c.Process.Pid(), debug: c.Admin, proxies: proxies, types: "rds",
		pattern: func(n int) string {
			// A weighted cluster's name, and after it the weight as a message of one number.
			return regexp.QuoteMeta(cluster(targets[0])) + fmt.Sprintf(`\x12\x02\x08\x%02x`, weight(n))
		},
		make: func(ctx context.Context, n int) (time.Time, time.Duration, error) {
			began := time.Now()
			err := c.Evermesh.Call(ctx, "UpdateRoute", route(meshName, name, targets[0], targets[1], weight(n)), nil)
			return began, time.Since(began), err
		},
	})
}

func cluster(node string) string {
	return fmt.Sprintf("cds_egress_%s_%s_http_%d", meshName, node, port)
}

// pushes makes the floor send to so many streams, again and again.
func (r *rig) pushes(ctx context.Context, f *floorOf, sw *swarmOf, row, types string, proxies int) (spread, error) {
	return r.inARow(ctx, sw, changing{
		row: row, who: f.what, pid: f.Pid(), debug: f.url, proxies: proxies, types: types,
		pattern: func(int) string { return "" },
		make: func(ctx context.Context, _ int) (time.Time, time.Duration, error) {
			return time.Now(), 0, call(ctx, http.MethodPost, fmt.Sprintf("%s/push?n=%d", f.url, proxies), nil, nil)
		},
	})
}

func times(a, b time.Duration) float64 { return float64(a) / float64(max(b, time.Microsecond)) }

// factor is times where the lower one may be too small to measure.
func factor(a, b time.Duration) string {
	if b < 50*time.Microsecond {
		return "– (too small)"
	}
	return fmt.Sprintf("%.1f×", times(a, b))
}

// measureSize makes the same change in a small mesh and in a large one.
func measureSize(ctx context.Context, r *rig) ([]figure, error) {
	var got []spread
	for _, nodes := range []int{r.scale.few, r.scale.many} {
		c, sw, _, err := r.meshUp(ctx, shape{nodes: nodes, backends: r.scale.backends})
		if err != nil {
			return nil, err
		}
		s, err := r.weights(ctx, c, sw, fmt.Sprint(rowSize, "-", nodes), narrow, [2]string{node(0, nodes), node(1, nodes)}, affected)
		if err != nil {
			return nil, err
		}
		got = append(got, s)
		if err := r.stopAll(); err != nil {
			return nil, err
		}
	}
	name := fmt.Sprintf("the same in a mesh of %d nodes, against %d", r.scale.many, r.scale.few)
	return got[1].figures(name, got[0], bounds{last: 2, cpu: 2}, "The floor is the small mesh here."), nil
}
