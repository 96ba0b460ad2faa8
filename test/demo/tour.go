//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/test/ground"
	"github.com/evermesh/evermesh/test/stage"
)

// tour takes the story's steps, one after the other, under traffic.
type tour struct {
	user     *user
	tell     *teller
	steady   *stage.Steady
	requests int    // to observe a split over
	proxyARN string // whose proxies route to B
	from     time.Time
	seen     []observation
}

// patience bounds each step, on a machine that may be busy.
const patience = 2 * time.Minute

// firstAnswer waits until a visitor is answered by version 1. What fails before that is start-up: applications
// listen, names become known.
func (t *tour) firstAnswer(ctx context.Context, from *ground.Host, url string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	client := from.Client()
	defer client.CloseIdleConnections()
	var last stage.Answer
	err := stage.Until(ctx, "the first request is answered", func(context.Context) bool {
		last = stage.Ask(client, url)
		return last.Fault == ""
	})
	if err != nil {
		return fmt.Errorf("%w: the last answer was %q", err, last.Fault)
	}
	return nil
}

// all shifts the weights, kills and restarts the control plane, and shifts once more. proxies is how many there are.
func (t *tour) all(ctx context.Context, control *stage.Control, proxies int) error {
	for _, w := range [][2]int{{100, 0}, {75, 25}, {0, 100}} {
		if err := t.shift(ctx, "shift", w[0], w[1]); err != nil {
			return err
		}
	}
	if err := t.killAndRestart(ctx, control, proxies); err != nil {
		return err
	}
	if err := t.shift(ctx, "shift after restart", 50, 50); err != nil {
		return err
	}
	// The last row takes what is still under way.
	t.steady.Stop()
	last := &t.seen[len(t.seen)-1]
	last.all = t.steady.Count(t.from, time.Time{})
	return nil
}

// shift asks for weights, waits for the last proxy, and observes.
func (t *tour) shift(ctx context.Context, step string, v1, v2 int) error {
	t.finish()
	sent, accepted, err := t.user.shift(ctx, t.proxyARN, v1, v2)
	if err != nil {
		return fmt.Errorf("shift to %d/%d: %w", v1, v2, err)
	}
	// The ledger's times are cut to milliseconds.
	if accepted.Before(sent.Truncate(time.Millisecond)) {
		return fmt.Errorf("shift to %d/%d: the ledger says that the last proxy accepted before the request was made", v1, v2)
	}
	o := observation{step: step, v1: v1, v2: v2, reach: max(accepted.Sub(sent), time.Millisecond)}
	t.tell.step("asked for %d/%d; the last proxy accepted %.0f ms later", v1, v2, float64(o.reach.Microseconds())/1000)
	return t.observe(ctx, o, time.Now())
}

// answered is how many requests of the whole run were answered; an error when one was not, also after the last
// observation.
func (t *tour) answered() (int, error) {
	all := t.steady.Count(time.Time{}, time.Time{})
	if all.Failed > 0 {
		return 0, fmt.Errorf("%d of %d requests of the run failed: %s", all.Failed, all.Requests, faults(all))
	}
	return all.Requests, nil
}

// killAndRestart shows that traffic needs no control plane, and that its return disturbs none.
func (t *tour) killAndRestart(ctx context.Context, control *stage.Control, proxies int) error {
	t.finish()
	o := observation{step: "evermeshd killed", v1: 0, v2: 100}
	since := time.Now()
	if err := control.Kill(); err != nil {
		return err
	}
	t.tell.step("evermeshd is killed (SIGKILL); traffic goes on")
	if err := t.observe(ctx, o, since); err != nil {
		return err
	}
	t.finish()
	since = time.Now()
	if err := control.Start(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var last error
	if err := stage.Until(ctx, "all proxies are connected again", func(ctx context.Context) bool {
		connected, err := control.Proxies(ctx, meshName)
		n := 0
		for _, p := range connected {
			if p.State == api.ProxyStateCurrent && p.ConnectedAt.After(since) {
				n++
			}
		}
		last = err
		return n == proxies
	}); err != nil {
		return errors.Join(err, last)
	}
	t.tell.step("evermeshd is started again; every proxy is connected again (%d)", proxies)
	o = observation{step: "evermeshd restarted", v1: 0, v2: 100}
	return t.observe(ctx, o, since)
}

// observe waits for enough requests that begin at since or later, and notes how they were split.
func (t *tour) observe(ctx context.Context, o observation, since time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err := t.steady.Wait(ctx, since, t.requests)
	o.split = t.steady.Count(since, time.Time{})
	o.all = t.steady.Count(t.from, time.Time{})
	v1, v2 := o.shares()
	t.tell.step("observed %.1f/%.1f over %d requests, %d failed", v1, v2, o.split.Requests, o.all.Failed)
	t.seen = append(t.seen, o)
	return err
}

// finish ends the row before: what began until now belongs to it.
func (t *tour) finish() {
	now := time.Now()
	if n := len(t.seen); n > 0 {
		t.seen[n-1].all = t.steady.Count(t.from, now)
		t.from = now
	}
}
