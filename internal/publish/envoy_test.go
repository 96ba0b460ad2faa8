package publish_test

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/ads/adstest"
	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/envoy"
	"github.com/evermesh/evermesh/internal/store/storetest"
	"github.com/evermesh/evermesh/internal/testenv"
)

// socket serves the replica's proxies on a unix socket too; the returned
// function ends that and the replica.
func (r *replica) socket(t *testing.T) (path string, kill func()) {
	t.Helper()
	path = adstest.Socket(t)
	return path, r.listen(t, path)
}

func (r *replica) listen(t *testing.T, path string) (kill func()) {
	t.Helper()
	l, err := net.Listen("unix", path)
	adstest.Must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = r.server.Serve(ctx, l, nil) })
	kill = func() { cancel(); running.Wait(); r.stop() }
	t.Cleanup(kill)
	return kill
}

func (r *replica) current() int { return r.server.States()["CURRENT"] }

func TestRealEnvoyIsKnownByItsNodeID(t *testing.T) {
	s := storetest.New(t)
	write(t, s, colors()...)
	r := newReplica(t, s, nil)
	path, _ := r.socket(t)
	for _, c := range []struct {
		name, id, refused string
	}{
		{"EMS-015 EMS-018 EMS-019 the short form", "mesh/m/virtualNode/front", ""},
		{"EMS-015 an ARN", "arn:aws:appmesh:us-east-1:" + account + ":mesh/m/virtualNode/front", ""},
		{"EMS-016 a shared mesh", "mesh/m@" + account + "/virtualNode/front", ""},
		{"EMS-017 an ARN of another service", "arn:aws:iam::" + account + ":mesh/m/virtualNode/front", `closed: 3, "arn:aws:iam::` + account + `:mesh/m/virtualNode/front" is an ARN of service "iam": want appmesh`},
	} {
		t.Run(c.name, func(t *testing.T) {
			// Its node.cluster is "test", which means nothing.
			e := adstest.StartEnvoy(t, adstest.Options{Node: c.id, Delta: true}, path)
			if c.refused != "" {
				e.Wait(t, "the reason in its log", func() bool { return strings.Contains(e.Log(), c.refused) })
				return
			}
			e.Wait(t, "the clusters of front", func() bool { return strings.Contains(e.Get(t, "/clusters"), "cds_ingress_m_front_http_8080") })
		})
	}
}

func TestRealEnvoyOutlivesAReplica(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		t.Run("EMS-058", func(t *testing.T) {
			stores := storetest.Replicas(t, 2)
			write(t, stores[0], colors()...)
			replicas := map[string]*replica{}
			kills := map[string]func(){}
			var paths []string
			for _, s := range stores {
				r := newReplica(t, s, nil)
				path, kill := r.socket(t)
				replicas[path], kills[path] = r, kill
				paths = append(paths, path)
			}
			e := adstest.StartEnvoy(t, adstest.Options{Node: "mesh/m/virtualNode/front", Instance: "i", Delta: delta}, paths...)
			var here, there string
			testenv.Eventually(t, "Envoy is current somewhere", func() bool {
				for i, p := range paths {
					if replicas[p].current() == 1 {
						here, there = p, paths[1-i]
					}
				}
				return here != ""
			})
			counts := func() [2]int {
				return [2]int{e.Stat(t, "cluster_manager.cds.update_success"), e.Stat(t, "listener_manager.lds.update_success")}
			}
			before := counts()
			kills[here]()
			testenv.Eventually(t, "Envoy is current at the other replica", func() bool { return replicas[there].current() == 1 })
			if after := counts(); after != before {
				t.Errorf("updates of clusters and listeners went from %v to %v", before, after)
			}
			i := 0
			if paths[1] == there {
				i = 1
			}
			write(t, stores[i], node("v3"), route("color", "v1", 1, "v3", 1))
			e.Wait(t, "a change through the other replica", func() bool { return strings.Contains(e.Get(t, "/clusters"), "cds_egress_m_v3_http_8080") })
		})
	})
}

func TestRealEnvoyIsNeverWithoutEndpoints(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		t.Run("EMS-052", func(t *testing.T) {
			const members = "cluster.cds_egress_m_v2_http_8080.membership_total"
			s := storetest.New(t)
			write(t, s, colors()...)
			write(t, s, cloudMapNode("v2", ""))
			source := &found{sets: make(chan []envoy.Endpoint), fail: make(chan error)}
			r := newReplica(t, s, newRegistry(t, s, source))
			path, kill := r.socket(t)
			e := adstest.StartEnvoy(t, adstest.Options{Node: "mesh/m/virtualNode/front", Delta: delta}, path)
			old, young := envoy.Endpoint{Address: "10.0.0.1", Port: 8080}, envoy.Endpoint{Address: "10.0.0.2", Port: 8080}
			source.sets <- []envoy.Endpoint{old}
			has := func(n int) {
				t.Helper()
				e.Wait(t, "its endpoints", func() bool { return e.Stat(t, members) == n })
			}
			has(1)
			// From here on somebody looks all the time.
			least, stop := leastOf(t, e, members)
			source.sets <- []envoy.Endpoint{old, young}
			has(2)
			updates := e.Stat(t, "cluster_manager.cluster_modified")
			write(t, s, cloudMapNode("v2", outliers(5)))
			e.Wait(t, "the changed cluster", func() bool { return e.Stat(t, "cluster_manager.cluster_modified") > updates })
			testenv.Eventually(t, "Envoy is current", func() bool { return r.current() == 1 })
			source.fail <- context.DeadlineExceeded
			source.sets <- []envoy.Endpoint{young}
			has(1)

			kill()
			silent := &found{} // says nothing: what is known is what was remembered
			again := newReplica(t, s, newRegistry(t, s, silent))
			again.listen(t, path)
			testenv.Eventually(t, "Envoy is current at the new control plane", func() bool { return again.current() == 1 })
			write(t, s, cloudMapNode("v2", outliers(6)))
			e.Wait(t, "the cluster changed again", func() bool { return e.Stat(t, "cluster_manager.cluster_modified") > updates+1 })
			testenv.Eventually(t, "Envoy is current", func() bool { return again.current() == 1 })
			stop()
			if *least < 1 {
				t.Error("Envoy was without endpoints for a time")
			}
		})
	})
}

// leastOf watches a gauge of Envoy until stop, and keeps its least value.
func leastOf(t *testing.T, e *adstest.Envoy, name string) (least *int, stop func()) {
	least = new(int)
	*least = e.Stat(t, name)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		for tick := time.NewTicker(2 * time.Millisecond); ; {
			select {
			case <-tick.C:
				*least = min(*least, e.Stat(t, name))
			case <-ctx.Done():
				tick.Stop()
				return
			}
		}
	})
	stop = func() { cancel(); running.Wait() }
	t.Cleanup(stop)
	return least, stop
}

// outliers is a part of a listener that changes the clusters of its callers.
func outliers(errors int) string {
	return fmt.Sprintf(`,"outlierDetection":{"maxServerErrors":%d,"interval":{"unit":"s","value":10},"baseEjectionDuration":{"unit":"s","value":10},"maxEjectionPercent":50}`, errors)
}

// cloudMapNode is a node whose endpoints come by EDS; more is of its listener.
func cloudMapNode(name, more string) change {
	return change{kind: api.KindVirtualNode, name: name, spec: `{"listeners":[{"portMapping":{"port":8080,"protocol":"http"}` + more + `}],` +
		`"serviceDiscovery":{"awsCloudMap":{"namespaceName":"ns","serviceName":"` + name + `"}}}`}
}
