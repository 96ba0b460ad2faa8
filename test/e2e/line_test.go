//go:build linux

package e2e

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/test/stage"
)

// line is a mesh with clients of one node that call a service with weights all the while. Nobody repeats a request:
// not the client, which sends POST, and not its Envoy, whose route says that there are no retries.
type line struct {
	*mesh
	callers []*caller
	arn     string // of the clients' node
}

// caller is a client of a line, with its load.
type caller struct {
	sidecar *stage.Sidecar
	steady  *stage.Steady
}

// noRetry is the member of an httpRoute that lets every failure be seen.
const noRetry = `"retryPolicy": {"maxRetries": 0, "perRetryTimeout": {"unit": "s", "value": 15}, "httpRetryEvents": ["gateway-error"]}`

// newLine makes a mesh with two targets and so many clients, and starts their load.
func newLine(m *mesh, clients int, controls ...*stage.Control) *line {
	m.t.Helper()
	m.app("blue")
	m.app("green")
	service := m.service("shop", appPort, map[string]string{"r": weighted(noRetry, "blue", 50, "green", 50)})
	l := &line{mesh: m, arn: m.create("VirtualNode", "client", callerSpec(service))}
	for n := range clients {
		l.call(fmt.Sprintf("client%d", n+1), stage.SidecarOptions{XDS: controls})
	}
	return l
}

// call adds a client on a host of its own.
func (l *line) call(host string, o stage.SidecarOptions) *caller {
	l.t.Helper()
	h := l.host(host)
	o.Resource = "client"
	o.Env = append(o.Env, "ENVOY_LOG_LEVEL=info") // at which the agent tells how streams end
	c := &caller{sidecar: l.sidecar(h, o)}
	// The first one sends more than the others: two processors carry them all.
	workers, pause := 4, 5*time.Millisecond
	if len(l.callers) > 0 {
		workers, pause = 2, 10*time.Millisecond
	}
	c.steady = stage.NewSteady(h, fmt.Sprintf("http://%s:%d/", l.hostname("shop"), appPort), workers, pause)
	l.t.Cleanup(c.steady.Stop)
	l.callers = append(l.callers, c)
	return c
}

// answered waits for n requests of each client that begin from now on, and returns what came of all.
func (l *line) answered(n int) stage.Tally {
	l.t.Helper()
	ctx, cancel := l.context()
	defer cancel()
	from := time.Now()
	for _, c := range l.callers {
		if err := c.steady.Wait(ctx, from, n); err != nil {
			l.t.Fatal(err)
		}
	}
	return l.since(from)
}

func add(all *stage.Tally, t stage.Tally) {
	all.Requests, all.Failed, all.Slowest = all.Requests+t.Requests, all.Failed+t.Failed, max(all.Slowest, t.Slowest)
	for app, n := range t.ByApp {
		all.ByApp[app] += n
	}
	for fault, n := range t.Faults {
		all.Faults[fault] += n
	}
}

// weigh asks for other weights of the service.
func (l *line) weigh(weights ...any) (arn string, err error) {
	l.t.Helper()
	spec := weighted(noRetry, weights...)
	return l.try("UpdateRoute", fmt.Sprintf(`{"virtualRouterName": "shop", "routeName": "r", "spec": %s}`, spec))
}

// shift changes the weights and waits for every replica and proxy.
func (l *line) shift(weights ...any) {
	l.t.Helper()
	arn, err := l.weigh(weights...)
	if err != nil {
		l.t.Fatal(err)
	}
	l.settle(arn)
}

// follow waits until every client's requests go to these apps alone, and to each of them.
func (l *line) follow(apps ...string) {
	l.t.Helper()
	for n, c := range l.callers {
		l.until(fmt.Sprintf("client %d reaches %v and nobody else", n+1, apps), func(ctx context.Context) bool {
			from := time.Now()
			if c.steady.Wait(ctx, from, 40) != nil {
				return false
			}
			got := c.steady.Count(from, time.Time{}).ByApp
			for _, app := range apps {
				if got[app] == 0 {
					return false
				}
			}
			return len(got) == len(apps)
		})
	}
}

// logged is how much each client's agent has logged.
func (l *line) logged() (sizes []int) {
	l.t.Helper()
	for _, c := range l.callers {
		sizes = append(sizes, len(read(l.t, c.sidecar.Process.Log())))
	}
	return sizes
}

// lost waits until each client's agent has told of a stream that ended, after what it had logged.
func (l *line) lost(logged []int) {
	l.t.Helper()
	for i, c := range l.callers {
		l.until(fmt.Sprintf("client %d has lost its stream", i+1), func(context.Context) bool {
			return strings.Contains(read(l.t, c.sidecar.Process.Log())[logged[i]:], "control plane stream ended")
		})
	}
}

// current waits until the clients' proxies have streams, begun after since, and what they are to have.
func (l *line) current(since time.Time) {
	l.t.Helper()
	l.until("all proxies are connected again", func(ctx context.Context) bool {
		proxies, err := l.control.Proxies(ctx, l.name)
		n := 0
		for _, p := range proxies {
			if p.State == api.ProxyStateCurrent && p.ConnectedAt.After(since) {
				n++
			}
		}
		return err == nil && n >= len(l.callers)
	})
}

// changes are what each client's Envoy counts of the configuration that it was given: updates of any kind, and what
// became of its clusters and listeners.
func (l *line) changes() map[string]int {
	l.t.Helper()
	all := map[string]int{}
	for n, c := range l.callers {
		for line := range strings.Lines(l.admin(c.sidecar, "/stats")) {
			name, text, _ := strings.Cut(strings.TrimSpace(line), ": ")
			if strings.HasPrefix(name, "cluster.") {
				continue // a cluster's own updates are answers of the name server
			}
			switch name[strings.LastIndex(name, ".")+1:] {
			case "update_success", "update_rejected", "cluster_added", "cluster_modified", "cluster_removed",
				"listener_added", "listener_modified", "listener_removed", "listener_in_place_updated":
				var value int
				if _, err := fmt.Sscan(text, &value); err != nil {
					l.t.Fatalf("%s: %v", line, err)
				}
				all[fmt.Sprintf("client %d, %s", n+1, name)] = value
			}
		}
	}
	return all
}

// unchanged compares the counters with what they were.
func (l *line) unchanged(before map[string]int) {
	l.t.Helper()
	after := l.changes()
	l.t.Logf("%d counters of %d Envoys that tell of updates, clusters and listeners compared", len(after), len(l.callers))
	if len(before) < 5*len(l.callers) {
		l.t.Errorf("Envoy has the counters %v", before)
	}
	if maps.Equal(before, after) {
		return
	}
	for name, n := range after {
		if before[name] != n {
			l.t.Errorf("%s was %d and is %d", name, before[name], n)
		}
	}
}

// during makes a change under the clients' load, waits for so many more requests of each, and prints the change's row.
func (l *line) during(t *testing.T, change string, more int, do func()) {
	t.Helper()
	from := time.Now()
	do()
	l.answered(more)
	dropped(t, change, l.since(from))
}

// since is what came of all requests that began at from or later.
func (l *line) since(from time.Time) stage.Tally {
	all := stage.Tally{ByApp: map[string]int{}, Faults: map[string]int{}}
	for _, c := range l.callers {
		add(&all, c.steady.Count(from, time.Time{}))
	}
	return all
}

// harm stops the load and returns what came of all of it.
func (l *line) harm() stage.Tally {
	for _, c := range l.callers {
		c.steady.Stop()
	}
	return l.since(time.Time{})
}

// unharmed stops the load; not one of its requests may have failed.
func (l *line) unharmed() {
	l.t.Helper()
	all := l.harm()
	l.t.Logf("%d requests, %d failed, the slowest took %v", all.Requests, all.Failed, all.Slowest)
	if all.Failed > 0 || all.Requests == 0 {
		l.t.Errorf("%d of %d requests failed: %v", all.Failed, all.Requests, all.Faults)
	}
	for _, c := range l.callers {
		l.unrepeated(l.t, c.sidecar)
	}
}

// stop ends the clients' Envoys: they would go on beside other tests.
func (l *line) stop() {
	l.t.Helper()
	for _, c := range l.callers {
		if err := c.sidecar.Process.Kill(); err != nil {
			l.t.Error(err)
		}
	}
}
