//go:build linux

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/api"
)

// patience is the longest that the API may take to say that its store does not answer: 5 s for the write, 5 s for the
// look at what became of it, and as much again for a busy machine.
const patience = 15 * time.Second

// TestEtcdIsLost takes etcd away from two replicas, under traffic and with changes on the way.
func TestEtcdIsLost(t *testing.T) {
	t.Parallel()
	p := replicated(t)
	l := newLine(newMeshOn(t, p.replicas[0], "outage", "DROP_ALL"), 2, p.replicas...)
	defer l.stop()

	t.Run("EMS-058 the leader is killed", func(t *testing.T) {
		l.during(t, "etcd leader loss", 100, func() {
			leader := p.etcd.leader(t)
			if err := p.etcd.processes[leader].Kill(); err != nil {
				t.Fatal(err)
			}
			l.insist(t, "blue")
			p.etcd.start(t, leader)
		})
	})
	for name, how := range map[string]struct{ lose, back func() }{
		"EMS-051 all members are silent for ten seconds": {
			func() { p.etcd.halt(t) },
			func() { p.etcd.signal(t, syscall.SIGCONT) },
		},
		"EMS-051 all members are killed": {
			func() { p.etcd.signal(t, os.Kill) },
			func() {
				for n := range p.etcd.members {
					<-p.etcd.processes[n].Done()
					p.etcd.start(t, n)
				}
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			p.known(l)
			before := l.changes()
			how.lose()
			lost := time.Now()
			l.refused(t)
			l.until("/readyz says why", func(ctx context.Context) bool {
				r, err := l.control.Readiness(ctx)
				return err == nil && !r.Ready && r.Reason != ""
			})
			if strings.Contains(name, "ten seconds") {
				l.until("ten seconds have passed", func(context.Context) bool { return time.Since(lost) > 10*time.Second })
			}
			compare(t, l.answered(100), map[string]float64{"blue": 1})
			l.unchanged(before)
			if n := p.streams(l, 0) + p.streams(l, 1); n < len(l.callers) {
				t.Errorf("the replicas have %d streams, want %d: those that the ledger knows go on", n, len(l.callers))
			}
			how.back()
			l.insist(t, "green")
			l.until("it is ready", func(ctx context.Context) bool {
				r, err := l.control.Readiness(ctx)
				return err == nil && r.Ready
			})
			l.insist(t, "blue")
		})
	}
	l.unharmed()
}

// known waits until the ledger knows the line's proxies for sure: a replica that is cut off keeps their streams, and ends
// those that were not open for 15 s when it wrote the ledger last, of which other replicas cannot know (D8).
func (p *plane) known(l *line) {
	l.t.Helper()
	l.until("all proxies have had their streams for a while", func(ctx context.Context) bool {
		proxies, err := l.control.Proxies(ctx, l.name)
		n := 0
		for _, x := range proxies {
			if x.State == api.ProxyStateCurrent && time.Since(x.ConnectedAt.Time) > 16*time.Second {
				n++
			}
		}
		return err == nil && n >= len(l.callers)
	})
	// A replica knows that it has written when it writes again.
	written, first := map[string]int{}, p.etcd.revisions(l.t, "/evermesh/v1/ledger/replicas/")
	l.until("each replica has written the ledger twice since then", func(context.Context) bool {
		now, twice := p.etcd.revisions(l.t, "/evermesh/v1/ledger/replicas/"), 0
		for key, revision := range now {
			if revision > first[key] {
				written[key]++
			}
			if written[key] >= 2 {
				twice++
			}
		}
		first = now
		return twice >= len(p.replicas)
	})
}

// refused asks for a change that cannot be made now: the API says so, and soon.
func (l *line) refused(t *testing.T) {
	t.Helper()
	began := time.Now()
	err := l.once("green")
	took := time.Since(began)
	if !unavailable(err) || took > patience {
		t.Errorf("a change ended with %v after %v, want %s within %v", err, took, api.CodeServiceUnavailable, patience)
	}
	t.Logf("a change was refused after %v: %v", took.Round(time.Millisecond), err)
}

// insist asks for all weight to one target until the API grants it, and waits until the proxies follow. Each refusal
// is a 503 that comes soon.
func (l *line) insist(t *testing.T, to string) {
	t.Helper()
	tries, slowest, began := 0, time.Duration(0), time.Now()
	l.until("the change is granted", func(context.Context) bool {
		tried := time.Now()
		err := l.once(to)
		tries, slowest = tries+1, max(slowest, time.Since(tried))
		if err != nil && !unavailable(err) {
			t.Errorf("a change ended with %v, want %s", err, api.CodeServiceUnavailable)
		}
		return err == nil
	})
	granted := time.Since(began)
	l.follow(to)
	t.Logf("a change was granted at try %d after %v (the slowest try took %v) and followed after %v", tries,
		granted.Round(time.Millisecond), slowest.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
	if slowest > patience {
		t.Errorf("a try took %v, want an answer within %v", slowest, patience)
	}
}

// once asks for all weight to one target, and does not repeat what is refused, as the client else does.
func (l *line) once(to string) error {
	l.t.Helper()
	ctx, cancel := l.context()
	defer cancel()
	c := *l.control.Evermesh
	c.Sleep = func(context.Context, time.Duration) error { return errors.New("no second attempt") }
	return c.Call(ctx, "UpdateRoute", map[string]any{
		"meshName": l.name, "virtualRouterName": "shop", "routeName": "r", "spec": json.RawMessage(weighted(noRetry, to, 1)),
	}, nil)
}

func unavailable(err error) bool {
	var known *api.Error
	return errors.As(err, &known) && known.Code == api.CodeServiceUnavailable
}
