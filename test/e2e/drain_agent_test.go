//go:build linux

package e2e

import (
	"fmt"
	"net"
	"net/http"
	"syscall"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/discovery/cloudmap/cloudmaptest"
	"github.com/evermesh/evermesh/test/ground"
	"github.com/evermesh/evermesh/test/stage"
)

// drainTime is that of the replicas: longer than the checks of the checked node need, and than what is asked slowly.
const drainTime = 20

// cloudMapControl is a control plane that asks a Cloud Map of the test's, every second; ports are three from this one on.
func cloudMapControl(t *testing.T, name string, port int) (*stage.Control, *cloudmaptest.Registry) {
	t.Helper()
	registry := cloudmaptest.New()
	l, err := world.Home().Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: registry, ReadHeaderTimeout: wait}
	served := make(chan struct{})
	go func() { defer close(served); _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close(); <-served })
	control, err := world.Control(t.Context(), stage.ControlOptions{
		Name: name, Ports: []int{port, port + 1, port + 2},
		Args: []string{"--cloudmap-endpoint", "http://" + l.Addr().String(), "--cloudmap-poll", "1s"},
		Env:  []string{"AWS_ACCESS_KEY_ID=key", "AWS_SECRET_ACCESS_KEY=secret"},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := control.Kill(); err != nil {
			t.Error(err)
		}
	})
	return control, registry
}

// TestAgentsDrain has one of two replicas leave for which nobody but its agent says so: the registry and the name
// server go on naming it, and its application goes on passing its checks.
func TestAgentsDrain(t *testing.T) {
	t.Parallel()
	onGround(t)
	control, registry := cloudMapControl(t, "agents-drain", 7120)
	m := newMeshOn(t, control, "leaving", "DROP_ALL")
	hosts, sidecars := map[string]*ground.Host{}, map[string]*stage.Sidecar{}
	for _, name := range []string{"one", "two", "three", "four"} {
		hosts[name] = m.program(name)
	}
	var instances []cloudmaptest.Instance
	for _, name := range []string{"one", "two"} {
		instances = append(instances, cloudmaptest.At(hosts[name].Addr().String(), fmt.Sprint(appPort)))
	}
	registry.Set("apps", "leaving", instances...)
	m.DNS().Set(m.hostname("checked"), hosts["three"].Addr(), hosts["four"].Addr())
	m.create("VirtualNode", "pool", fmt.Sprintf(`{"listeners": [%s], "serviceDiscovery": {"awsCloudMap": {"namespaceName": "apps", "serviceName": "leaving"}}}`, listener(appPort, "")))
	m.create("VirtualNode", "checked", fmt.Sprintf(`{"listeners": [%s], "serviceDiscovery": {"dns": {"hostname": %q, "responseType": "ENDPOINTS"}}}`, listener(appPort,
		`, "healthCheck": {"protocol": "http", "path": "/health", "intervalMillis": 5000, "timeoutMillis": 2000, "healthyThreshold": 2, "unhealthyThreshold": 2}`), m.hostname("checked")))
	services := map[string]string{}
	for _, node := range []string{"pool", "checked"} {
		services[node] = m.service("to-"+node, appPort, map[string]string{"r": weighted(noRetry, node, 1)})
	}
	m.create("VirtualNode", "client", callerSpec(services["pool"], services["checked"]))
	for name, node := range map[string]string{"one": "pool", "two": "pool", "three": "checked", "four": "checked"} {
		sidecars[name] = m.sidecar(hosts[name], stage.SidecarOptions{Resource: node, AppPorts: fmt.Sprint(appPort), Env: []string{fmt.Sprint("LISTENER_DRAIN_WAIT_TIME_S=", drainTime)}})
	}
	h := m.host("client")
	client := m.sidecar(h, stage.SidecarOptions{Resource: "client"})
	for _, test := range []struct {
		name, node    string
		leaves, stays string
		early         bool
	}{
		{"EMS-052 AGENT-046 found by Cloud Map, which still names it", "pool", "one", "two", true},
		{"AGENT-046 BP-001 found by a name that still leads to it, with a health check that its application passes", "checked", "three", "four", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			url := fmt.Sprintf("http://%s/", net.JoinHostPort(services[test.node], fmt.Sprint(appPort)))
			load := stage.NewSteady(h, url, loadWorkers, 5*time.Millisecond)
			defer load.Stop()
			m.reaches(t, load, test.leaves, test.stays)
			slow := m.slowly(t, h, url, 4, 3*time.Second, hosts[test.leaves], hosts[test.stays])
			from := time.Now()
			s := sidecars[test.leaves]
			if err := s.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := m.context()
			defer cancel()
			select {
			case <-s.Process.Done():
			case <-ctx.Done():
				t.Fatal("the agent does not end")
			}
			took := time.Since(from)
			if err := s.Process.Err(); err != nil {
				t.Errorf("the agent: %v", err)
			}
			if early := took < drainTime*time.Second*3/4; early != test.early {
				t.Errorf("the agent ended after %s of %d s", took, drainTime)
			}
			m.answers(t, load, 200) // without it
			all := load.Count(from, time.Time{})
			add(&all, slow.wait(t))
			t.Logf("the agent ended after %s", took)
			if test.node == "pool" {
				dropped(t, "one of two replicas told to end, Cloud Map", all)
			} else {
				dropped(t, "one of two replicas told to end, health check", all)
			}
			if n := m.stat(client, fmt.Sprintf("cluster.cds_egress_%s_%s_http_%d.upstream_rq_retry", m.name, test.node, appPort)); n > 0 {
				t.Errorf("%d requests were repeated", n)
			}
			if err := s.Start(); err != nil {
				t.Fatal(err)
			}
			if err := s.WaitLive(ctx); err != nil {
				t.Fatal(err)
			}
			m.reaches(t, load, test.leaves, test.stays)
			lossless(t, "and started again: "+test.node, load.Count(from, time.Time{}))
		})
	}
}
