//go:build linux

package e2e

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/discovery/cloudmap/cloudmaptest"
	"github.com/evermesh/evermesh/test/ground"
	"github.com/evermesh/evermesh/test/stage"
)

// pairs are targets of two replicas each, one for every way in which clients learn that a replica goes, and a client
// that never stops calling them all.
type pairs struct {
	*mesh
	registry *cloudmaptest.Registry
	hosts    map[string]*ground.Host
	sidecars map[string]*stage.Sidecar
	client   *stage.Sidecar
	url      map[string]string        // of the services, by node
	loads    map[string]*stage.Steady // by node
}

// loadWorkers are those of each load.
const loadWorkers = 2

// replicaHosts are the hosts of the replicas, with what they are replicas of. The last two are found in several ways.
var replicaHosts = map[string]string{"one": "pool", "two": "pool", "three": "checked", "four": "checked"}

func newPairs(t *testing.T) *pairs {
	t.Helper()
	onGround(t)
	control, registry := cloudMapControl(t, "cloudmap", 7110)
	p := &pairs{
		mesh: newMeshOn(t, control, "pairing", "DROP_ALL"), registry: registry, hosts: map[string]*ground.Host{},
		sidecars: map[string]*stage.Sidecar{}, url: map[string]string{}, loads: map[string]*stage.Steady{},
	}
	for name := range replicaHosts {
		p.hosts[name] = p.program(name)
	}
	p.register("one")
	p.DNS().Set(p.hostname("checked"), p.hosts["three"].Addr(), p.hosts["four"].Addr())
	p.DNS().Set(p.hostname("plain"), p.hosts["three"].Addr())
	p.DNS().Set(p.hostname("stale"), p.hosts["three"].Addr(), p.hosts["four"].Addr())
	for node, spec := range map[string]struct{ more, discovery string }{
		"pool": {"", `"awsCloudMap": {"namespaceName": "apps", "serviceName": "pool"}`},
		"checked": {
			`, "healthCheck": {"protocol": "http", "path": "/health", "intervalMillis": 5000, "timeoutMillis": 2000, "healthyThreshold": 2, "unhealthyThreshold": 2}`,
			p.byName("checked"),
		},
		"plain": {"", p.byName("plain")}, "stale": {"", p.byName("stale")},
	} {
		p.create("VirtualNode", node, fmt.Sprintf(`{"listeners": [%s], "serviceDiscovery": {%s}}`, listener(appPort, spec.more), spec.discovery))
	}
	var backends []string
	for name, route := range map[string]string{
		"pool": weighted(noRetry, "pool", 1), "checked": weighted(noRetry, "checked", 1), "plain": weighted(noRetry, "plain", 1),
		"stale": weighted("", "stale", 1),
		"once":  weighted(`"retryPolicy": {"maxRetries": 2, "perRetryTimeout": {"unit": "s", "value": 15}, "tcpRetryEvents": ["connection-error"]}`, "stale", 1),
	} {
		service := p.service("to-"+name, appPort, map[string]string{"r": route})
		p.url[name] = fmt.Sprintf("http://%s:%d/", service, appPort)
		backends = append(backends, service)
	}
	p.create("VirtualNode", "client", callerSpec(backends...))
	for name, node := range replicaHosts {
		seconds := "10" // longer than clients take to hear from Cloud Map, and what was sent before
		if node == "checked" {
			seconds = "20" // longer than two checks take, and what was sent before the second one
		}
		p.sidecars[name] = p.sidecar(p.hosts[name], stage.SidecarOptions{Resource: node, AppPorts: fmt.Sprint(appPort), Env: []string{"LISTENER_DRAIN_WAIT_TIME_S=" + seconds}})
	}
	h := p.host("client")
	p.client = p.sidecar(h, stage.SidecarOptions{Resource: "client"})
	p.hosts["client"] = h
	for name := range p.url {
		p.loads[name] = stage.NewSteady(h, p.url[name], loadWorkers, 10*time.Millisecond)
		t.Cleanup(p.loads[name].Stop)
	}
	return p
}

// replicas are the hosts of all applications.
func (p *pairs) replicas() (out []*ground.Host) {
	for name := range replicaHosts {
		out = append(out, p.hosts[name])
	}
	return out
}

// register makes these hosts the instances of the pool in Cloud Map.
func (p *pairs) register(hosts ...string) {
	var all []cloudmaptest.Instance
	for _, name := range hosts {
		all = append(all, cloudmaptest.At(p.hosts[name].Addr().String(), fmt.Sprint(appPort)))
	}
	p.registry.Set("apps", "pool", all...)
}

func (p *pairs) byName(name string) string {
	return fmt.Sprintf(`"dns": {"hostname": %q, "responseType": "ENDPOINTS"}`, p.hostname(name))
}

// health makes the application on the host answer checks of its health with this status.
func (p *pairs) health(t *testing.T, host string, status int) {
	t.Helper()
	ask(t, p.hosts[host], request{URL: "http://" + net.JoinHostPort("127.0.0.1", fmt.Sprint(appPort)) + "/", Header: map[string]string{"X-Health": fmt.Sprint(status)}})
}

// again waits for the end of a proxy that was told to end, and starts it.
func (p *pairs) again(t *testing.T, host string) {
	t.Helper()
	s := p.sidecars[host]
	ctx, cancel := p.context()
	defer cancel()
	select {
	case <-s.Process.Done():
	case <-ctx.Done():
		t.Fatalf("the agent on %s does not end", host)
	}
	if err := s.Process.Err(); err != nil {
		t.Errorf("the agent on %s: %v", host, err)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	if err := s.WaitLive(ctx); err != nil {
		t.Fatal(err)
	}
}

// row prints the row of what became of a load since from, with the slow requests of the time.
func (p *pairs) row(t *testing.T, change, load string, from time.Time, others *slow) {
	t.Helper()
	p.answers(t, p.loads[load], 100)
	all := p.loads[load].Count(from, time.Time{})
	if others != nil {
		add(&all, others.wait(t))
	}
	dropped(t, change, all)
}

// TestEndpointsComeAndGo adds replicas of targets, has them leave in order, and kills one.
func TestEndpointsComeAndGo(t *testing.T) {
	t.Parallel()
	p := newPairs(t)
	p.reaches(t, p.loads["pool"], "one")
	p.reaches(t, p.loads["plain"], "three")
	p.reaches(t, p.loads["checked"], "three", "four")

	t.Run("EMS-052 DISC-010 TRBL-020 replicas come", func(t *testing.T) {
		from := time.Now()
		p.register("one", "two")
		p.DNS().Set(p.hostname("plain"), p.hosts["three"].Addr(), p.hosts["four"].Addr())
		p.reaches(t, p.loads["pool"], "one", "two")
		p.reaches(t, p.loads["plain"], "three", "four")
		p.row(t, "endpoint added, Cloud Map", "pool", from, nil)
		p.row(t, "endpoint added, DNS", "plain", from, nil)
	})
	t.Run("EMS-052 AGENT-046 BP-005 replicas leave when others have come, and come back", func(t *testing.T) {
		slow := map[string]*slow{}
		for name, url := range p.url {
			slow[name] = p.slowly(t, p.hosts["client"], url, 4, 3*time.Second, p.replicas()...)
		}
		from := time.Now()
		// What an orchestrator does when it ends a replica, all at once: it tells Cloud Map or the name server, it tells
		// the application, which fails its checks from then on, and it tells the agent.
		p.register("two")
		p.DNS().Set(p.hostname("plain"), p.hosts["four"].Addr())
		p.health(t, "three", http.StatusServiceUnavailable)
		for _, host := range []string{"one", "three"} {
			if err := p.sidecars[host].Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
		}
		p.again(t, "one")
		p.register("one", "two")
		p.reaches(t, p.loads["pool"], "one", "two")
		p.row(t, "one of two replicas drained and started again, Cloud Map", "pool", from, slow["pool"])

		p.again(t, "three")
		p.health(t, "three", http.StatusOK)
		p.DNS().Set(p.hostname("plain"), p.hosts["three"].Addr(), p.hosts["four"].Addr())
		p.reaches(t, p.loads["plain"], "three", "four")
		p.reaches(t, p.loads["checked"], "three", "four")
		p.row(t, "one of two replicas drained and started again, DNS that says so", "plain", from, slow["plain"])
		p.row(t, "one of two replicas drained and started again, health check", "checked", from, slow["checked"])
		p.row(t, "one of two replicas drained and started again, DNS that does not say so, default retry", "stale", from, slow["stale"])
		if n := p.repeated(t, "stale"); n == 0 {
			t.Error("nothing was repeated: no request met the replica that was gone")
		}
	})
	for _, name := range []string{"pool", "plain", "checked"} {
		p.loads[name].Stop()
		lossless(t, "all of these changes, "+name, p.loads[name].Count(time.Time{}, time.Time{}))
		if n := p.repeated(t, name); n > 0 {
			t.Errorf("%d requests to %s were repeated", n, name)
		}
	}
	t.Run("EMS-052 EMS-066 a replica's Envoy is killed", func(t *testing.T) { p.killed(t) })
}

// killed kills the Envoy of a replica. Who may repeat nothing but connections that were not made loses what that Envoy
// was at; who has the default retry policy, nothing.
func (p *pairs) killed(t *testing.T) {
	four, client := p.sidecars["four"], p.hosts["client"]
	// While a killed Envoy's connections are closed the kernel still makes new ones for it, and loses what comes over them.
	// So nobody asks without a retry from before the signal until it is dead, but for those whose number is known.
	p.loads["once"].Stop()
	arrived := func() int { return askApp(t, p.hosts["four"], "", "").Delayed }
	lost := -arrived()
	once := p.hold(t, client, p.url["once"], 8, p.replicas()...)
	lost += arrived()
	stale := p.hold(t, client, p.url["stale"], 8, p.replicas()...)
	before, err := four.Envoys()
	if err != nil {
		t.Fatal(err)
	}
	from := time.Now()
	if err := four.KillEnvoy(); err != nil {
		t.Fatal(err)
	}
	p.until("it is dead", func(context.Context) bool {
		now, err := four.Envoys()
		return err == nil && !slices.ContainsFunc(now, func(pid int) bool { return slices.Contains(before, pid) })
	})
	load := stage.NewSteady(client, p.url["once"], loadWorkers, 10*time.Millisecond)
	defer load.Stop()
	once.release(t)
	stale.release(t)
	ctx, cancel := p.context()
	defer cancel()
	if err := four.NextEnvoy(ctx, before); err != nil {
		t.Fatal(err)
	}
	p.reaches(t, p.loads["stale"], "three", "four")
	p.row(t, "kill, default retry", "stale", from, stale)

	p.answers(t, load, 100)
	all := load.Count(from, time.Time{})
	add(&all, once.wait(t))
	t.Logf("drops: kill: %d requests, %d failed, %d were under way", all.Requests, all.Failed, lost)
	if all.Failed != lost || lost == 0 {
		t.Errorf("%d of %d requests failed, want the %d that were under way: %v", all.Failed, all.Requests, lost, all.Faults)
	}
}

// repeated is how many requests the client's Envoy has sent to the node more than once.
func (p *pairs) repeated(t *testing.T, node string) int {
	t.Helper()
	return p.stat(p.client, fmt.Sprintf("cluster.cds_egress_pairing_%s_http_%d.upstream_rq_retry", node, appPort))
}
