package agent

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/agent/agenttest"
	"github.com/evermesh/evermesh/internal/testenv"
)

// realStub has real Envoys started, with one listener on the port; the control plane answers at once, or never.
func realStub(t *testing.T, silent bool, lines ...string) (s *stub, port int) {
	t.Helper()
	port = testenv.FreePort(t)
	m := &meshOfOne{listener: helloListener(t, port), open: make(chan struct{})}
	if !silent {
		close(m.open)
	}
	c := agenttest.NewControlPlane(t, "")
	c.ServeDelta(m.serve)
	s = newStub(t, "", append([]string{
		"APPMESH_XDS_ENDPOINT=http://" + c.Addr, "ENVOY_PATH=" + agenttest.Envoys(t)[0], "ENVOY_CONCURRENCY=1", "ENVOY_LOG_LEVEL=info",
		"ENVOY_ADMIN_ACCESS_LOG_FILE=/dev/null", "ENVOY_OUTLIER_DETECTION_EVENT_LOG_PATH=/dev/null", "AWS_ACCESS_KEY_ID=k", "AWS_SECRET_ACCESS_KEY=s",
		"HC_POLL_INTERVAL_MS=2000", "EVERMESH_ENVOY_SILENT_POLLS=0", "ENVOY_CONFIG_FILE=",
	}, lines...)...)
	s.lines = append(s.lines, "APPNET_RELAY_LISTENER_UDS_PATH="+filepath.Join(s.dir, "xds.sock"))
	return s, port
}

// serves waits until the n-th Envoy serves, or a later one, and returns its pid.
func (p *played) serves(t *testing.T, n, port int) int {
	t.Helper()
	url := fmt.Sprintf("http://%s/", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	serves := func() bool {
		if strings.Count(p.out.String(), "envoy started") < n {
			return false
		}
		code, _ := askHTTP(t, http.DefaultClient, http.MethodGet, url)
		return code == 200
	}
	for late := time.Now().Add(agenttest.Wait); !serves(); agenttest.Tick(t) { // one that hangs is waited for, too
		if time.Now().After(late) {
			t.Fatalf("not within %s: Envoy %d serves", agenttest.Wait, n)
		}
	}
	children := childrenOf(t, p.cmd.Process.Pid)
	if len(children) != 1 {
		t.Fatalf("children: %q", children)
	}
	return number(t, children[0])
}

func TestRealEnvoyFaults(t *testing.T) {
	t.Parallel()
	t.Run("AGENT-047 one that hangs is ended and started again", func(t *testing.T) {
		t.Parallel()
		// On a busy machine one that does not hang may be silent for two polls, too.
		s, port := realStub(t, false, "APPNET_ENVOY_RESTART_COUNT=10", "EVERMESH_ENVOY_SILENT_POLLS=2")
		p := play(t, s)
		pid := p.serves(t, 1, port)
		for range 250 { // one that has answered once, after 2 s, is waited for less
			agenttest.Tick(t)
		}
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		p.serves(t, 2, port)
		if !strings.Contains(p.out.String(), `status="signal killed"`) {
			t.Error("it cannot say where it hangs, so it is killed")
		}
	})
	s, port := realStub(t, false, "APPNET_ENVOY_RESTART_COUNT=2")
	p := play(t, s)
	t.Run("AGENT-001 TRBL-021 a segmentation fault", func(t *testing.T) {
		pid := p.serves(t, 1, port)
		if err := syscall.Kill(pid, syscall.SIGSEGV); err != nil {
			t.Fatal(err)
		}
		p.serves(t, 2, port)
		if !strings.Contains(p.out.String(), `status="signal segmentation fault"`) || !strings.Contains(p.out.String(), "raise the nofile ulimit") {
			t.Error("the log does not tell it")
		}
	})
	t.Run("AGENT-011 AGENT-047 crashes in a loop end the agent, so that its task is replaced", func(t *testing.T) {
		for n := 2; n <= 3; n++ {
			kill(t, p.serves(t, n, port))
		}
		p.ends(t, 1)
		if got := strings.Count(p.out.String(), "envoy exited"); got != 3 {
			t.Errorf("%d exits are told", got)
		}
	})
	t.Run("the agent killed: Envoy is gone, and the next agent takes over what is left", func(t *testing.T) {
		for range 3 {
			p := play(t, s)
			pid := p.serves(t, 1, port)
			kill(t, p.cmd.Process.Pid)
			testenv.Eventually(t, "Envoy ends with its agent", func() bool { return gone(pid) })
		}
		p := play(t, s)
		p.serves(t, 1, port)
		p.tell(t, syscall.SIGTERM)
		testenv.Eventually(t, "it drains", func() bool { return strings.Contains(p.out.String(), "draining envoy") })
		p.tell(t, syscall.SIGTERM)
		p.ends(t, 0)
		left, err := filepath.Glob(filepath.Join(s.dir, "*"))
		if err != nil || len(left) > 0 {
			t.Errorf("left: %q, %v", left, err)
		}
	})
}

func TestRealEnvoyRefusesToStart(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "resources.yaml")
	if err := os.WriteFile(file, []byte("static_resources: {clusters: [{name: broken, type: STATIC, lb_policy: CLUSTER_PROVIDED}]}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, _ := realStub(t, false, "APPNET_ENVOY_RESTART_COUNT=1", "ENVOY_RESOURCES_CONFIG_FILE="+file)
	p := play(t, s)
	p.ends(t, 1)
	if got := p.out.String(); strings.Count(got, `status="code 1"`) != 2 || !strings.Contains(got, "broken") {
		t.Error("want two exits, and Envoy's own words")
	}
}

// TestEndAtEveryStage tells the agent to end while it starts.
func TestEndAtEveryStage(t *testing.T) {
	t.Parallel()
	for _, stage := range []string{"environment", "envoy started", "starting main dispatch loop"} {
		t.Run("AGENT-046 told to end after \""+stage+"\"", func(t *testing.T) {
			t.Parallel()
			s, _ := realStub(t, true, "LISTENER_DRAIN_WAIT_TIME_S=110")
			p := play(t, s)
			testenv.Eventually(t, stage, func() bool { return strings.Contains(p.out.String(), stage) })
			p.tell(t, syscall.SIGTERM)
			p.ends(t, 0) // it waits for less than that
			left, err := filepath.Glob(filepath.Join(s.dir, "*"))
			if err != nil || len(left) > 0 {
				t.Errorf("left: %q, %v", left, err)
			}
		})
	}
}
