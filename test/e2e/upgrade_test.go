//go:build linux

package e2e

import (
	"context"
	"fmt"
	"net"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/evermesh/evermesh/test/stage"
)

// TestEnvoysHandOver has the Envoys of both sides taken over by new ones under load, as when their binary is upgraded.
func TestEnvoysHandOver(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "handing-over", "DROP_ALL")
	server, client := m.app("server"), m.host("client")
	service := m.service("to-server", appPort, map[string]string{"r": weighted(noRetry, "server", 1)})
	m.create("VirtualNode", "client", callerSpec(service))
	hot := []string{"DISABLE_HOT_RESTART=false", "ENVOY_LOG_LEVEL=warning"}
	url := fmt.Sprintf("http://%s/", net.JoinHostPort(service, fmt.Sprint(appPort)))
	c := m.sidecar(client, stage.SidecarOptions{Resource: "client", Env: hot})
	s := m.sidecar(server, stage.SidecarOptions{Resource: "server", AppPorts: fmt.Sprint(appPort), Env: hot})
	leaveNoMemory(m, c, s)
	load := stage.NewSteady(client, url, loadWorkers, 5*time.Millisecond)
	defer load.Stop()
	m.reaches(t, load, "server")
	slow := m.slowly(t, client, url, 4, 3*time.Second, server)
	from := time.Now()
	for name, side := range map[string]*stage.Sidecar{"server": s, "client": c} {
		if err := side.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		m.until("a new Envoy has taken over on the "+name, func(ctx context.Context) bool {
			text, err := side.Admin(ctx, "/server_info")
			return err == nil && strings.Contains(text, `"state": "LIVE"`) && strings.Contains(text, `"restart_epoch": 1,`)
		})
	}
	for _, side := range []*stage.Sidecar{s, c} { // the old ones drain and end
		m.until("one Envoy is left", func(ctx context.Context) bool {
			n, err := side.Stat(ctx, "server.parent_connections")
			return err == nil && n == 0
		})
	}
	m.answers(t, load, 500)
	all := load.Count(from, time.Time{})
	add(&all, slow.wait(t))
	dropped(t, "a new binary of Envoy takes over", all)
}

var baseID = regexp.MustCompile(`"base_id": "?(\d+)`)

// leaveNoMemory removes, at the end, the memory that Envoys with hot restart share: their agents, which would, are killed then.
func leaveNoMemory(m *mesh, sides ...*stage.Sidecar) {
	m.t.Helper()
	ctx, cancel := m.context()
	defer cancel()
	for _, side := range sides {
		text, err := side.Admin(ctx, "/server_info")
		id := baseID.FindStringSubmatch(text)
		if err != nil || id == nil {
			m.t.Fatalf("no base id: %v\n%s", err, text)
		}
		file := "/dev/shm/envoy_shared_memory_" + id[1] + "0" // ten for each id
		if _, err := os.Stat(file); err != nil {
			m.t.Error(err)
		}
		m.t.Cleanup(func() { os.Remove(file) })
	}
}
