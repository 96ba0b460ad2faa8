package agent

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/agent/agenttest"
	"github.com/evermesh/evermesh/internal/testenv"
)

// untilEpoch waits until the interface at that port is of a live Envoy that so many came before.
func untilEpoch(t *testing.T, admin, want int) {
	t.Helper()
	testenv.Eventually(t, fmt.Sprintf("an Envoy of epoch %d is live", want), func() bool {
		_, text := askEnvoy(t, admin, "/server_info")
		return strings.Contains(text, `"state": "LIVE"`) && strings.Contains(text, fmt.Sprintf(`"restart_epoch": %d,`, want))
	})
}

// TestHandOver upgrades the binary of a real Envoy under load.
func TestHandOver(t *testing.T) {
	t.Parallel()
	port, dir := testenv.FreePort(t), agenttest.ShortDir(t)
	open := make(chan struct{})
	close(open)
	m := &meshOfOne{listener: helloListener(t, port), open: open}
	c := agenttest.NewControlPlane(t, "")
	c.ServeDelta(m.serve)
	binary := filepath.Join(dir, "envoy")
	install := func(from string) { // as package managers do it
		t.Helper()
		if err := os.Symlink(from, binary+".new"); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(binary+".new", binary); err != nil {
			t.Fatal(err)
		}
	}
	envoys := agenttest.Envoys(t)
	newest, oldest := envoys[0], envoys[len(envoys)-1]
	install(oldest)
	s := newStub(t, "", "APPMESH_XDS_ENDPOINT=http://"+c.Addr, "ENVOY_PATH="+binary, "DISABLE_HOT_RESTART=false", "ENVOY_CONCURRENCY=1", "ENVOY_LOG_LEVEL=info",
		"ENVOY_ADMIN_ACCESS_LOG_FILE=/dev/null", "ENVOY_OUTLIER_DETECTION_EVENT_LOG_PATH=/dev/null", "AWS_ACCESS_KEY_ID=k", "AWS_SECRET_ACCESS_KEY=s", "HC_POLL_INTERVAL_MS=2000")
	p := play(t, s)
	untilEpoch(t, s.admin, 0)
	url := fmt.Sprintf("http://%s/", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	var wg sync.WaitGroup
	var asked, failed atomic.Int64
	stop := make(chan struct{})
	for range 2 {
		client := &http.Client{Transport: &http.Transport{}, Timeout: agenttest.Wait}
		wg.Go(func() {
			defer client.CloseIdleConnections()
			for {
				select {
				case <-stop:
					return
				default:
				}
				answer, err := client.Post(url, "text/plain", strings.NewReader("x"))
				asked.Add(1)
				if err != nil || answer.StatusCode != 200 || answer.Body.Close() != nil {
					failed.Add(1)
					t.Log(err)
				}
				agenttest.Tick(t)
			}
		})
	}
	first := childrenOf(t, p.cmd.Process.Pid)
	t.Run("a new binary takes over, and the old Envoy ends when it has drained", func(t *testing.T) {
		install(newest)
		p.tell(t, syscall.SIGHUP)
		untilEpoch(t, s.admin, 1)
		testenv.Eventually(t, "the old Envoy has ended", func() bool { return gone(number(t, first[0])) })
		testenv.Eventually(t, "one Envoy is left", func() bool { return len(childrenOf(t, p.cmd.Process.Pid)) == 1 })
	})
	t.Run("one that does not start changes nothing for requests, and the next one takes over", func(t *testing.T) {
		testenv.Script(t, filepath.Join(dir, "broken"), "#!/bin/sh\nexit 9\n")
		install(filepath.Join(dir, "broken"))
		p.tell(t, syscall.SIGHUP)
		testenv.Eventually(t, "the log tells it", func() bool { return strings.Contains(p.out.String(), "the new envoy ended before it had taken over") })
		untilEpoch(t, s.admin, 1)
		install(newest)
		p.tell(t, syscall.SIGHUP)
		untilEpoch(t, s.admin, 2)
	})
	t.Run("nobody else gets the listeners: no socket of Envoy's is abstract", func(t *testing.T) {
		text, err := os.ReadFile("/proc/net/unix")
		if err != nil {
			t.Fatal(err)
		}
		// Envoys of other tests may have such: those of our base id count, which Envoy scales, and whose sign it extends.
		_, id, _ := strings.Cut(p.out.String(), "(base id=")
		id, _, _ = strings.Cut(id, ",")
		for _, base := range []int{number(t, id), 10 * number(t, id)} {
			for n := range 10 {
				for _, name := range []string{fmt.Sprintf("_%d", base+n), fmt.Sprintf("_%d", uint64(int64(int32(uint32(base+n)))))} {
					for line := range strings.Lines(string(text)) {
						if strings.Contains(line, "@envoy_domain_socket") && strings.HasSuffix(strings.TrimRight(line, "@\n"), name) {
							t.Errorf("there is %s", line)
						}
					}
				}
			}
		}
		sockets, err := filepath.Glob(filepath.Join(s.dir, placePrefix+"*", "h_*"))
		if err != nil || len(sockets) < 2 {
			t.Fatalf("sockets: %q, %v", sockets, err)
		}
		for _, name := range sockets {
			for at, want := range map[string]os.FileMode{name: 0o600, filepath.Dir(name): 0o700} {
				if info, err := os.Stat(at); err != nil || info.Mode().Perm() != want {
					t.Errorf("%s: %v, %v", at, info, err)
				}
			}
		}
	})
	testenv.Eventually(t, "there was load", func() bool { return asked.Load() >= 500 })
	close(stop)
	wg.Wait()
	t.Logf("handed over twice: %d requests, %d failed", asked.Load(), failed.Load())
	if failed.Load() > 0 {
		t.Errorf("%d of %d requests failed", failed.Load(), asked.Load())
	}
	t.Run("killed, it starts anew from the first epoch", func(t *testing.T) {
		log := p.out.String() // the old one may still drain: the agent ends it
		_, pid, _ := strings.Cut(log[strings.LastIndex(log, "envoy started"):], "pid=")
		pid, _, _ = strings.Cut(pid, "\n")
		kill(t, number(t, strings.TrimSpace(pid)))
		untilEpoch(t, s.admin, 0)
	})
	p.tell(t, syscall.SIGTERM)
	if took := p.ends(t, 0); took < 4*time.Second {
		t.Errorf("drained for %s only", took)
	}
	_, id, _ := strings.Cut(p.out.String(), "(base id=")
	id, _, found := strings.Cut(id, ",")
	if left, _ := filepath.Glob("/dev/shm/envoy_shared_memory_" + id + "*"); !found || len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}
