package publish_test

import (
	"context"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/evermesh/evermesh/internal/ads/adstest"
	"github.com/evermesh/evermesh/internal/store/storetest"
)

// socket serves the replica's proxies on a unix socket too; the returned
// function ends that and the replica.
func (r *replica) socket(t *testing.T) (path string, kill func()) {
	t.Helper()
	path = adstest.Socket(t)
	l, err := net.Listen("unix", path)
	adstest.Must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = r.server.Serve(ctx, l, nil) })
	kill = func() { cancel(); running.Wait(); r.stop() }
	t.Cleanup(kill)
	return path, kill
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
			eventually(t, "Envoy is current somewhere", func() bool {
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
			eventually(t, "Envoy is current at the other replica", func() bool { return replicas[there].current() == 1 })
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
