//go:build linux

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/evermesh/evermesh/test/stage"
)

// TestRestart ends an evermeshd of its own under traffic, by force and in order.
func TestRestart(t *testing.T) {
	t.Parallel()
	onGround(t)
	ctx := t.Context()
	control, err := world.Control(ctx, stage.ControlOptions{Name: "restart", Ports: []int{7080, 7081, 7082}})
	if err != nil {
		t.Fatal(err)
	}
	l := newLine(newMeshOn(t, control, "restart", "DROP_ALL"), 2, control)
	defer l.stop()

	began := time.Now()
	t.Run("EMS-051 proxies go on without the management server", func(t *testing.T) {
		logged := l.logged()
		if err := control.Kill(); err != nil {
			t.Fatal(err)
		}
		l.lost(logged)
		compare(t, l.answered(720), map[string]float64{"blue": 0.5, "green": 0.5})
	})
	t.Run("EMS-008 its return changes nothing", func(t *testing.T) {
		before := l.changes()
		since := time.Now()
		if err := control.Start(ctx); err != nil {
			t.Fatal(err)
		}
		l.current(since)
		compare(t, l.answered(720), map[string]float64{"blue": 0.5, "green": 0.5})
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
	dropped(t, "control plane restart", l.since(began))
	t.Run("EMS-008 EMS-051 from embedded etcd to an external one", func(t *testing.T) { l.migrate(t) })
	l.unharmed()
	if err := control.Kill(); err != nil {
		t.Error(err)
	}
}

// migrate moves the line's control plane to the etcd of the replicas, by a backup. Its proxies go on without it, and
// what they find when it is back is what they have: they are sent nothing.
func (l *line) migrate(t *testing.T) {
	t.Helper()
	to := []string{"--etcd-endpoints", strings.Join(replicated(l.t).etcd.endpoints(), ","), "--etcd-prefix", "/migrated"}
	ctx, cancel := l.context()
	defer cancel()
	before := l.changes()
	from := time.Now()
	file := filepath.Join(world.Dir(), "run", "restart-backup")
	if err := l.control.Stop(ctx); err != nil {
		t.Errorf("after SIGTERM: %v", err)
	}
	for _, verb := range [][]string{{"backup", "--data-dir", l.control.DataDir, file}, append(append([]string{"restore"}, to...), file)} {
		out, err := l.control.Run(ctx, verb...)
		if err != nil {
			t.Fatal(err)
		}
		t.Log(strings.TrimSpace(out))
	}
	// The directory keeps what belongs to this replica: the master key, and the CA that agents know.
	l.control.Add(append(to, "--master-key-file", filepath.Join(l.control.DataDir, "master-key"))...)
	since := time.Now()
	if err := l.control.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.current(since)
	compare(t, l.answered(500), map[string]float64{"green": 1})
	l.unchanged(before)
	for _, metric := range []string{"evermesh_xds_responses_total", "evermesh_xds_rejections_total"} {
		if n, err := l.control.Metric(ctx, metric); err != nil || n != 0 {
			t.Errorf("%s is %v, %v, want 0: nothing was to be sent", metric, n, err)
		}
	}
	moved := time.Since(from)
	sum := l.since(from)
	t.Logf("moved within %v; %d requests meanwhile, %d failed; %d proxies connected and were sent 0 responses", moved.Round(time.Millisecond), sum.Requests, sum.Failed, len(l.callers))
	l.shift("blue", 1)
	compare(t, l.answered(200), map[string]float64{"blue": 1})
	if _, err := os.Stat(filepath.Join(l.control.DataDir, "etcd")); err != nil {
		t.Errorf("what was there before is not there any more: %v", err)
	}
}
