//go:build linux

package e2e

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.etcd.io/etcd/server/v3/embed"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/test/stage"
)

// line is a client that calls one service with weights, and a load that never stops.
type line struct {
	*mesh
	sidecar *stage.Sidecar
	steady  *stage.Steady
	arn     string // of the client's node
}

// newLine makes a mesh with two targets and starts the load.
func newLine(m *mesh, controls ...*stage.Control) *line {
	m.t.Helper()
	m.app("blue")
	m.app("green")
	service := m.service("shop", appPort, map[string]string{"r": weighted("", "blue", 50, "green", 50)})
	l := &line{mesh: m, arn: m.create("VirtualNode", "client", callerSpec(service))}
	client := m.host("client")
	l.sidecar = m.sidecar(client, stage.SidecarOptions{Resource: "client", XDS: controls})
	l.steady = stage.NewSteady(client, fmt.Sprintf("http://%s:%d/", service, appPort), 4, 2*time.Millisecond)
	m.t.Cleanup(l.steady.Stop)
	return l
}

// answered waits for n requests that begin from now on, and returns what came of them.
func (l *line) answered(n int) stage.Tally {
	l.t.Helper()
	ctx, cancel := l.context()
	defer cancel()
	from := time.Now()
	if err := l.steady.Wait(ctx, from, n); err != nil {
		l.t.Fatal(err)
	}
	return l.steady.Count(from, time.Time{})
}

// shift changes the weights and waits for the proxy.
func (l *line) shift(blue, green int) {
	l.t.Helper()
	l.settle(l.put("Update", "Route", "shop", "r", weighted("", "blue", blue, "green", green)))
}

// connected waits until the client's proxy has a stream, begun after since, and returns the replica that has it.
func (l *line) connected(since time.Time) string {
	l.t.Helper()
	replica := ""
	l.until("the proxy is connected again", func(ctx context.Context) bool {
		proxies, err := l.control.Proxies(ctx, l.name)
		if err != nil {
			return false
		}
		for _, p := range proxies {
			if p.State == api.ProxyStateCurrent && p.ConnectedAt.After(since) {
				replica = p.Replica
				return true
			}
		}
		return false
	})
	return replica
}

// unharmed stops the load; not one of its requests may have failed.
func (l *line) unharmed() {
	l.t.Helper()
	l.steady.Stop()
	all := l.steady.Count(time.Time{}, time.Time{})
	l.t.Logf("%d requests, %d failed, the slowest took %v", all.Requests, all.Failed, all.Slowest)
	if all.Failed > 0 || all.Requests == 0 {
		l.t.Errorf("%d of %d requests failed: %v", all.Failed, all.Requests, all.Faults)
	}
}

// TestRestart ends an evermeshd of its own under traffic, by force and in order.
func TestRestart(t *testing.T) {
	onGround(t)
	ctx := t.Context()
	control, err := world.Control(ctx, stage.ControlOptions{Name: "restart", Ports: []int{7080, 7081, 7082}})
	if err != nil {
		t.Fatal(err)
	}
	l := newLine(newMeshOn(t, control, "restart", "DROP_ALL"), control)

	t.Run("EMS-051 proxies go on without the management server", func(t *testing.T) {
		if err := control.Kill(); err != nil {
			t.Fatal(err)
		}
		l.until("Envoy has noticed", func(context.Context) bool { return l.stat(l.sidecar, "control_plane.connected_state") == 0 })
		compare(t, l.answered(500), map[string]float64{"blue": 0.5, "green": 0.5})
	})
	t.Run("EMS-008 EMS-049 its return changes nothing", func(t *testing.T) {
		updates := l.stat(l.sidecar, "listener_manager.listener_modified") + l.stat(l.sidecar, "cluster_manager.cluster_modified") + l.stat(l.sidecar, "cluster_manager.cluster_removed")
		since := time.Now()
		if err := control.Start(ctx); err != nil {
			t.Fatal(err)
		}
		l.connected(since)
		compare(t, l.answered(500), map[string]float64{"blue": 0.5, "green": 0.5})
		if after := l.stat(l.sidecar, "listener_manager.listener_modified") + l.stat(l.sidecar, "cluster_manager.cluster_modified") + l.stat(l.sidecar, "cluster_manager.cluster_removed"); after != updates {
			t.Errorf("listeners and clusters changed %d times before and %d after", updates, after)
		}
		l.shift(100, 0)
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
		l.connected(since)
		l.shift(0, 100)
		compare(t, l.answered(200), map[string]float64{"green": 1})
	})
	l.unharmed()
	if err := control.Kill(); err != nil {
		t.Error(err)
	}
}

// TestReplicas runs two evermeshd on an external etcd.
func TestReplicas(t *testing.T) {
	onGround(t)
	ctx := t.Context()
	endpoint := startEtcd(t)
	key := filepath.Join(world.Dir(), "run", "replicas-master-key")
	if err := os.WriteFile(key, []byte("MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var replicas []*stage.Control
	for n, name := range []string{"replica1", "replica2"} {
		c, err := world.Control(ctx, stage.ControlOptions{
			Name: name, Ports: []int{7090 + 10*n, 7091 + 10*n, 7092 + 10*n},
			Args: []string{"--etcd-endpoints", endpoint, "--master-key-file", key},
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := c.Kill(); err != nil {
				t.Error(err)
			}
		})
		replicas = append(replicas, c)
	}
	one, two := replicas[0], replicas[1]
	l := newLine(newMeshOn(t, one, "replicas", "DROP_ALL"), one, two)

	t.Run("EMS-058 API-023 what one replica wrote the other one reads", func(t *testing.T) {
		for _, c := range replicas {
			ctx, cancel := l.context()
			defer cancel()
			if err := c.Evermesh.Call(ctx, "DescribeVirtualNode", map[string]any{"meshName": l.name, "virtualNodeName": "client"}, nil); err != nil {
				t.Errorf("%s: %v", c.Name, err)
			}
		}
	})
	t.Run("EMS-058 a write on either reaches the proxy", func(t *testing.T) {
		for n, c := range []*stage.Control{one, two, one} {
			l.control = c
			l.shift(100*(n%2), 100-100*(n%2))
			compare(t, l.answered(200), map[string]float64{[]string{"green", "blue"}[n%2]: 1})
		}
	})
	t.Run("EMS-058 the replica that has the stream is lost", func(t *testing.T) {
		// Whichever it is: each is killed once, so the stream's is among them.
		for n, lost := range replicas {
			l.control = replicas[1-n]
			if err := lost.Kill(); err != nil {
				t.Fatal(err)
			}
			killed := time.Now()
			l.until("the proxy has a stream", func(context.Context) bool { return l.stat(l.sidecar, "control_plane.connected_state") == 1 })
			compare(t, l.answered(300), map[string]float64{"green": 1})
			t.Logf("%s lost; the proxy had a stream after %v at most", lost.Name, time.Since(killed))
			if err := lost.Start(ctx); err != nil {
				t.Fatal(err)
			}
		}
		l.shift(50, 50)
		compare(t, l.answered(500), map[string]float64{"blue": 0.5, "green": 0.5})
	})
	t.Run("EMS-058 EMS-007 both are rolled by SIGTERM", func(t *testing.T) {
		for n, c := range replicas {
			l.control = replicas[1-n]
			stop, cancel := l.context()
			defer cancel()
			if err := c.Stop(stop); err != nil {
				t.Errorf("%s, after SIGTERM: %v", c.Name, err)
			}
			l.until("the proxy has a stream", func(context.Context) bool { return l.stat(l.sidecar, "control_plane.connected_state") == 1 })
			if err := c.Start(ctx); err != nil {
				t.Fatal(err)
			}
		}
		l.shift(100, 0)
		compare(t, l.answered(200), map[string]float64{"blue": 1})
	})
	l.unharmed()
}

// startEtcd runs an etcd server in this program, on loopback, and returns its endpoint.
func startEtcd(t *testing.T) string {
	t.Helper()
	c := embed.NewConfig()
	c.Dir = t.TempDir()
	c.LogLevel = "panic"
	local := func(port int) []url.URL { return []url.URL{{Scheme: "http", Host: fmt.Sprintf("127.0.0.1:%d", port)}} }
	c.ListenClientUrls, c.AdvertiseClientUrls = local(2379), local(2379)
	c.ListenPeerUrls, c.AdvertisePeerUrls = local(2380), local(2380)
	c.InitialCluster = c.InitialClusterFromName(c.Name)
	server, err := embed.StartEtcd(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	select {
	case <-server.Server.ReadyNotify():
	case <-time.After(wait):
		t.Fatal("etcd is not ready")
	}
	return c.ListenClientUrls[0].String()
}
