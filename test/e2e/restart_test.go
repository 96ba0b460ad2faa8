//go:build linux

package e2e

import (
	"context"
	"testing"
	"time"

	"github.com/evermesh/evermesh/test/stage"
)

// TestRestart ends an evermeshd of its own under traffic, by force and in order.
func TestRestart(t *testing.T) {
	onGround(t)
	ctx := t.Context()
	control, err := world.Control(ctx, stage.ControlOptions{Name: "restart", Ports: []int{7080, 7081, 7082}})
	if err != nil {
		t.Fatal(err)
	}
	l := newLine(newMeshOn(t, control, "restart", "DROP_ALL"), 1, control)
	defer l.stop()

	t.Run("EMS-051 proxies go on without the management server", func(t *testing.T) {
		if err := control.Kill(); err != nil {
			t.Fatal(err)
		}
		l.until("Envoy has noticed", func(context.Context) bool { return l.stat(l.callers[0].sidecar, "control_plane.connected_state") == 0 })
		compare(t, l.answered(500), map[string]float64{"blue": 0.5, "green": 0.5})
	})
	t.Run("EMS-008 EMS-049 its return changes nothing", func(t *testing.T) {
		before := l.changes()
		since := time.Now()
		if err := control.Start(ctx); err != nil {
			t.Fatal(err)
		}
		l.current(since)
		compare(t, l.answered(500), map[string]float64{"blue": 0.5, "green": 0.5})
		l.unchanged(before)
		l.shift("blue", 1)
		compare(t, l.answered(200), map[string]float64{"blue": 1})
	})
	t.Run("EMS-007 a graceful end and a return", func(t *testing.T) {
		stop, cancel := l.context()
		defer cancel()
		if err := control.Stop(stop); err != nil {
			t.Errorf("after SIGTERM: %v", err)
		}
		compare(t, l.answered(200), map[string]float64{"blue": 1})
		since := time.Now()
		if err := control.Start(ctx); err != nil {
			t.Fatal(err)
		}
		l.current(since)
		l.shift("green", 1)
		compare(t, l.answered(200), map[string]float64{"green": 1})
	})
	l.unharmed()
	if err := control.Kill(); err != nil {
		t.Error(err)
	}
}
