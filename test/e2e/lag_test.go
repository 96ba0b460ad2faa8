//go:build linux

package e2e

import (
	"context"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/evermesh/evermesh/test/stage"
)

// TestLaggingReplica has a replica that learns nothing while a new target is made through the other one, which is then
// killed. The proxies come to the one that lags: it must not take the new target away, not even for a moment.
func TestLaggingReplica(t *testing.T) {
	t.Parallel()
	p := replicated(t)
	l := newLine(newMeshOn(t, p.replicas[0], "lagging", "DROP_ALL"), 2, p.replicas...)
	defer l.stop()
	p.gather(l, 0)
	l.shift("blue", 1)

	for n, how := range []struct {
		name     string
		lag, end func(behind *stage.Control, gates []*stage.Gate) error
	}{
		{
			"EMS-058 EMS-008 a replica that etcd's answers do not reach",
			func(_ *stage.Control, gates []*stage.Gate) error {
				for _, g := range gates {
					g.Hold()
				}
				return nil
			},
			func(_ *stage.Control, gates []*stage.Gate) error {
				for _, g := range gates {
					g.Release()
				}
				return nil
			},
		},
		{
			"EMS-058 EMS-008 a replica that stands still",
			func(behind *stage.Control, _ []*stage.Gate) error { return halt(t.Context(), behind.Process) },
			func(behind *stage.Control, _ []*stage.Gate) error { return behind.Process.Signal(syscall.SIGCONT) },
		},
	} {
		t.Run(how.name, func(t *testing.T) {
			ahead, behind, gates := p.replicas[n], p.replicas[1-n], p.gates[1-n]
			l.control = ahead
			if err := how.lag(behind, gates); err != nil {
				t.Fatal(err)
			}
			late := fmt.Sprintf("late%d", n+1)
			l.app(late)
			if _, err := l.weigh("blue", 50, late, 50); err != nil {
				t.Fatal(err)
			}
			l.follow("blue", late)
			before := l.changes()
			logged := l.logged()
			if err := ahead.Kill(); err != nil {
				t.Fatal(err)
			}
			killed := time.Now()
			l.lost(logged)
			// All the while the agents ask the one that lags.
			compare(t, l.answered(1440), map[string]float64{"blue": 0.5, late: 0.5})
			l.unchanged(before)
			if n == 0 { // the other one says nothing at all
				if got := p.streams(l, 1-n); got != 0 {
					t.Errorf("%s, which lags, serves %d proxies, want none", behind.Name, got)
				}
			}
			held := time.Since(killed)
			if err := how.end(behind, gates); err != nil {
				t.Fatal(err)
			}
			released := time.Now()
			l.until("the proxies have streams", func(context.Context) bool { return p.streams(l, 1-n) == len(l.callers) })
			t.Logf("%s was killed; %s, released %v later, knew of the new target, and had the proxies after %v",
				ahead.Name, behind.Name, held.Round(time.Millisecond), time.Since(released).Round(time.Millisecond))
			compare(t, l.answered(720), map[string]float64{"blue": 0.5, late: 0.5})
			l.unchanged(before)

			l.control = behind
			if _, err := l.weigh("blue", 1); err != nil {
				t.Errorf("a write on the one that lagged: %v", err)
			}
			l.follow("blue")
			if err := ahead.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
		})
	}
	l.unharmed()
	dropped(t, "proxies come to a replica of the control plane that lags", l.since(time.Time{}))
}
