//go:build linux

package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/testenv"
	"github.com/evermesh/evermesh/test/ground"
	"github.com/evermesh/evermesh/test/stage"
)

// TestShift moves a route to a new version from the command line, as a pipeline does, while a client never stops: to a
// version that is well, and to one that is not.
func TestShift(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "shift", "DROP_ALL")
	for _, name := range []string{"v1", "v2"} {
		m.sidecar(m.app(name), stage.SidecarOptions{Resource: name, AppPorts: fmt.Sprint(appPort)})
	}
	ill := m.host("v3")
	if _, err := m.App(ill, stage.App{Name: "v3", Listen: []string{fmt.Sprintf(":%d", appPort)}, Status: http.StatusInternalServerError}); err != nil {
		t.Fatal(err)
	}
	m.create("VirtualNode", "v3", m.nodeSpec("v3"))
	m.sidecar(ill, stage.SidecarOptions{Resource: "v3", AppPorts: fmt.Sprint(appPort)})
	service := m.service("shop", appPort, map[string]string{"r": weighted(noRetry, "v1", 100)})
	m.create("VirtualNode", "client", callerSpec(service))
	client := m.host("client")
	m.sidecar(client, stage.SidecarOptions{Resource: "client"})
	steady := stage.NewSteady(client, fmt.Sprintf("http://%s:%d/", service, appPort), 4, 5*time.Millisecond)
	defer steady.Stop()
	m.reaches(t, steady, "v1")

	// What a dashboard would say: it is well as long as no request has failed. It looks at some more before it says so: an
	// ill version's share of one in five is among a hundred.
	var since atomic.Pointer[time.Time]
	l, err := world.Home().Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dashboard := &http.Server{ReadHeaderTimeout: wait, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if steady.Wait(r.Context(), time.Now(), 100) != nil {
			return // nobody wants to know any more
		}
		if steady.Count(*since.Load(), time.Time{}).Failed > 0 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})}
	go dashboard.Serve(l)
	defer dashboard.Close()
	root, err := testenv.Root()
	if err != nil {
		t.Fatal(err)
	}
	evermesh, err := m.Tool(filepath.Join(root, "bin", "evermesh"))
	if err != nil {
		t.Fatal(err)
	}
	shift := func(to string) (string, error) {
		now := time.Now()
		since.Store(&now)
		ctx, cancel := m.context()
		defer cancel()
		return world.Home().Run(ctx, ground.Command{Name: "shift", Path: evermesh, Env: []string{"HOME=" + t.TempDir(), "PATH=" + os.Getenv("PATH")}, Args: []string{
			"shift", "mesh/shift/virtualRouter/shop/route/r", "--to", to, "--step", "20", "--every", "300ms",
			"--check-url", "http://" + l.Addr().String() + "/", "--check-every", "10s", "--data-dir", m.control.DataDir,
		}})
	}
	t.Run("ECS-011 to a version that is well: all requests are answered", func(t *testing.T) {
		out, err := shift("v2=100")
		if err != nil || !strings.Contains(out, "has v1=0 v2=100") {
			t.Fatalf("%v\n%s", err, out)
		}
		m.reaches(t, steady, "v2")
		lossless(t, "weights shifted step by step", steady.Count(time.Time{}, time.Time{}))
	})
	t.Run("ECS-011 to one that is not: back, and only its share has failed", func(t *testing.T) {
		out, err := shift("v3=100")
		if err == nil || !strings.Contains(err.Error()+out, "was put back to v1=0 v2=100: the check failed") || strings.Contains(err.Error()+out, "step 2 of 5") {
			t.Fatalf("%v\n%s", err, out)
		}
		after := time.Now()
		m.reaches(t, steady, "v2")
		if got := steady.Count(after.Add(100*time.Millisecond), time.Time{}); got.Failed > 0 {
			t.Errorf("%d requests failed when it was over: %v", got.Failed, got.Faults)
		}
		for fault, n := range steady.Count(*since.Load(), time.Time{}).Faults {
			if !strings.HasPrefix(fault, "500") {
				t.Errorf("%d requests failed with %s", n, fault)
			}
		}
	})
}
