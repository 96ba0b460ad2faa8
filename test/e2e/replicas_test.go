//go:build linux

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/evermesh/evermesh/test/stage"
)

// plane is a control plane of two replicas on an etcd of three members. Each replica reaches etcd through gates of its
// own. The tests that use it leave all of it running.
type plane struct {
	etcd     *etcd
	replicas []*stage.Control
	gates    [][]*stage.Gate // by replica
}

// drainSeconds is over how long a replica of the plane spreads the ends of its streams: long enough to be looked at.
const drainSeconds = 6

// replicated returns the plane, which the first test that asks for it starts, and which one has at a time.
func replicated(t *testing.T) *plane {
	t.Helper()
	onGround(t)
	world.planes.Lock()
	t.Cleanup(world.planes.Unlock)
	if world.plane == nil {
		world.plane = newPlane(t)
	}
	for _, c := range world.plane.replicas {
		select {
		case <-c.Process.Done(): // by a test that failed
			if err := c.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
		default:
		}
	}
	return world.plane
}

func newPlane(t *testing.T) *plane {
	t.Helper()
	p := &plane{etcd: startEtcd(t, "etcd", 3, 2379)}
	key := filepath.Join(world.Dir(), "run", "replicas-master-key")
	if err := os.WriteFile(key, []byte("MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for n, name := range []string{"replica1", "replica2"} {
		var endpoints []string
		var gates []*stage.Gate
		for _, m := range p.etcd.members {
			g, err := stage.NewGate(world.Home(), "127.0.0.1:0", m.client())
			if err != nil {
				t.Fatal(err)
			}
			gates, endpoints = append(gates, g), append(endpoints, "http://"+g.Addr)
		}
		c, err := world.Control(t.Context(), stage.ControlOptions{
			Name: name, Ports: []int{7090 + 10*n, 7091 + 10*n, 7092 + 10*n},
			Args: []string{
				"--etcd-endpoints", strings.Join(endpoints, ","), "--master-key-file", key,
				"--drain-seconds", fmt.Sprint(drainSeconds), "--log-format", "json", "--access-log", "on",
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		p.replicas, p.gates = append(p.replicas, c), append(p.gates, gates)
	}
	return p
}

// gather moves the line's streams, and all others, to replica n: the other one ends in order, and comes back.
func (p *plane) gather(l *line, n int) {
	l.t.Helper()
	other := p.replicas[1-n]
	ctx, cancel := l.context()
	defer cancel()
	if err := other.Stop(ctx); err != nil {
		l.t.Fatal(err)
	}
	l.control = p.replicas[n]
	l.until("all streams are on "+l.control.Name, func(context.Context) bool { return p.streams(l, n) >= len(l.callers) })
	if err := other.Start(l.t.Context()); err != nil {
		l.t.Fatal(err)
	}
	if got := p.streams(l, 1-n); got != 0 {
		l.t.Errorf("%s has %d streams, want none", other.Name, got)
	}
}

// streams is how many streams replica n has open; -1 when it does not answer.
func (p *plane) streams(l *line, n int) int {
	l.t.Helper()
	ctx, cancel := l.context()
	defer cancel()
	v, err := p.replicas[n].Metric(ctx, "evermesh_xds_streams")
	if err != nil {
		return -1
	}
	return int(v)
}

// TestReplicas kills and rolls two evermeshd on one etcd, while three clients never stop.
func TestReplicas(t *testing.T) {
	t.Parallel()
	p := replicated(t)
	l := newLine(newMeshOn(t, p.replicas[0], "replicas", "DROP_ALL"), 3, p.replicas...)
	defer l.stop()

	t.Run("EMS-058 API-023 what one replica wrote the other one reads", func(t *testing.T) {
		for _, c := range p.replicas {
			ctx, cancel := l.context()
			defer cancel()
			if err := c.Evermesh.Call(ctx, "DescribeVirtualNode", map[string]any{"meshName": l.name, "virtualNodeName": "client"}, nil); err != nil {
				t.Errorf("%s: %v", c.Name, err)
			}
		}
	})
	t.Run("EMS-058 a write on one reaches the proxies of the other", func(t *testing.T) {
		for n := range p.replicas {
			p.gather(l, n)
			for to, by := range map[string]int{"blue": 1 - n, "green": n} {
				l.control = p.replicas[by]
				if _, err := l.weigh(to, 1); err != nil {
					t.Fatal(err)
				}
				l.follow(to)
				t.Logf("%s wrote, %d proxies of %s followed", l.control.Name, len(l.callers), p.replicas[n].Name)
			}
		}
	})
	t.Run("EMS-058 EMS-007 both are rolled by SIGTERM", func(t *testing.T) {
		for n := range p.replicas {
			if n == 0 {
				p.gather(l, n)
			}
			if _, err := l.weigh("blue", 50, "green", 50); err != nil {
				t.Fatal(err)
			}
			l.follow("blue", "green")
			p.roll(t, l, n)
		}
		l.shift("blue", 1)
		compare(t, l.answered(100), map[string]float64{"blue": 1})
	})
	t.Run("EMS-058 EMS-008 either is killed", func(t *testing.T) {
		for n, lost := range p.replicas {
			if n == 0 { // then its streams have moved to the other one
				p.gather(l, n)
			}
			l.control = p.replicas[1-n]
			if _, err := l.weigh("blue", 50, "green", 50); err != nil {
				t.Fatal(err)
			}
			l.follow("blue", "green")
			before := l.changes()
			if err := lost.Kill(); err != nil {
				t.Fatal(err)
			}
			killed := time.Now()
			l.until("the proxies have moved", func(context.Context) bool { return p.streams(l, 1-n) == len(l.callers) })
			t.Logf("%s was killed; its %d proxies had streams on %s after %v", lost.Name, len(l.callers), l.control.Name, time.Since(killed).Round(time.Millisecond))
			l.unchanged(before)
			if _, err := l.weigh("green", 1); err != nil {
				t.Errorf("a write on the one that lives: %v", err)
			}
			l.follow("green")
			if err := lost.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	})
	l.unharmed()
	dropped(t, "one of two replicas of the control plane rolled, killed", l.since(time.Time{}))
	t.Run("the replicas' logs", func(t *testing.T) {
		for _, c := range p.replicas {
			checkLog(t, c)
		}
	})
}

// roll ends replica n, which has all streams, in order, and starts it again. While its streams end one after the other
// a write on the other one reaches those that have moved and those that have not.
func (p *plane) roll(t *testing.T, l *line, n int) {
	t.Helper()
	leaving, other := p.replicas[n], p.replicas[1-n]
	l.control = other
	before := l.changes()
	logged, ended := len(read(t, leaving.Process.Log())), l.logged()
	if err := leaving.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	l.until("it is not ready", func(ctx context.Context) bool {
		r, err := leaving.Readiness(ctx)
		return err == nil && !r.Ready && r.Reason == "draining"
	})
	if streams := p.streams(l, n); streams < 1 {
		t.Errorf("it has %d streams left when /readyz fails, want some: nobody may come any more, and nobody has to go", streams)
	}
	// The first stream ends at once, the last one four seconds later.
	l.until("a proxy has moved", func(context.Context) bool { return p.streams(l, 1-n) > 0 })
	l.unchanged(before)
	left := p.streams(l, n)
	if _, err := l.weigh("green", 1); err != nil {
		t.Errorf("a write meanwhile: %v", err)
	}
	l.follow("green")
	t.Logf("a write on %s while %s had %d of %d streams left reached all", other.Name, leaving.Name, left, len(l.callers))
	ctx, cancel := l.context()
	defer cancel()
	if err := leaving.Stop(ctx); err != nil {
		t.Errorf("%s, after SIGTERM: %v", leaving.Name, err)
	}
	l.until("all have moved", func(context.Context) bool { return p.streams(l, 1-n) == len(l.callers) })

	var ends []time.Time
	for _, line := range logLines(t, read(t, leaving.Process.Log())[logged:]) {
		if line.Msg == "proxy disconnected" {
			ends = append(ends, line.Time)
			if line.Err != "" {
				t.Errorf("a stream ended with %s, want status 0", line.Err)
			}
		}
	}
	for i, c := range l.callers {
		if text := read(t, c.sidecar.Process.Log())[ended[i]:]; !strings.Contains(text, "control plane stream ended") || !strings.Contains(text, "code=OK") {
			t.Errorf("the agent of client %d did not see its stream end with status 0:\n%s", i+1, text)
		}
	}
	if len(ends) != len(l.callers) {
		t.Fatalf("%d streams ended, want %d", len(ends), len(l.callers))
	}
	// At 0/3, 1/3 and 2/3 of the time; a busy machine may be late.
	spread := ends[len(ends)-1].Sub(ends[0])
	if spread < drainSeconds*time.Second/2 {
		t.Errorf("the streams ended within %v, want %d s apart or more", spread, drainSeconds*2/3)
	}
	t.Logf("%s rolled: %d streams ended with status 0 over %v", leaving.Name, len(ends), spread.Round(time.Millisecond))
	if err := leaving.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// logLine is what every line of a log in JSON has, an error, and what the access log says of a request.
type logLine struct {
	Time      time.Time `json:"time"`
	Level     string    `json:"level"`
	Msg       string    `json:"msg"`
	Err       string    `json:"err"`
	RequestID string    `json:"request_id"`
	Operation string    `json:"operation"`
	Status    int       `json:"status"`
}

func logLines(t *testing.T, text string) []logLine {
	t.Helper()
	var out []logLine
	for line := range strings.Lines(text) {
		if !strings.HasSuffix(line, "\n") {
			continue // it is being written
		}
		var l logLine
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Errorf("%v in %q", err, line)
			continue
		}
		out = append(out, l)
	}
	return out
}

// checkLog looks at every line that a replica wrote: it is JSON with the constant keys, a message that begins with a
// small letter, and no secret; and the requests are there, each with its id, operation and status.
func checkLog(t *testing.T, c *stage.Control) {
	t.Helper()
	text := read(t, c.Process.Log())
	if strings.Contains(text, c.Key.SecretAccessKey) {
		t.Errorf("the log of %s has the secret key", c.Name)
	}
	messages, changes := map[string]int{}, 0
	for _, l := range logLines(t, text) {
		messages[l.Msg]++
		if l.Operation == "UpdateRoute" && l.Status == http.StatusOK && l.RequestID != "" {
			changes++
		}
		if l.Time.IsZero() || l.Level == "" || l.Msg == "" || strings.ToLower(l.Msg[:1]) != l.Msg[:1] {
			t.Errorf("%s: a line without time, level or msg, or a message that is no constant: %+v", c.Name, l)
		}
	}
	if len(messages) > 100 {
		t.Errorf("%s has %d different messages: they are not constant", c.Name, len(messages))
	}
	if changes == 0 {
		t.Errorf("the access log of %s has no UpdateRoute", c.Name)
	}
	t.Logf("%s logged %v", c.Name, messages)
}
