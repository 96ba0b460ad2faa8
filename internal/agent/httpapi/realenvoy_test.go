package httpapi

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/agent/agenttest"
	"github.com/evermesh/evermesh/internal/agent/envoyadmin"
	"github.com/evermesh/evermesh/internal/agent/settings"
	"github.com/evermesh/evermesh/internal/testenv"
)

// realEnvoy runs one whose listeners are in a file; it answers 200 to everything, and counts requests by Envoy's own logger
// where it has that, as proxies with the metrics extension do.
type realEnvoy struct {
	t     *testing.T
	admin int
	dir   string
	cmd   *exec.Cmd
}

func (e *realEnvoy) Process() (pid, restarted int) { return e.cmd.Process.Pid, 0 }

func startEnvoy(t *testing.T, path string, counts bool, ports ...int) *realEnvoy {
	t.Helper()
	e := &realEnvoy{t: t, admin: testenv.FreePort(t), dir: t.TempDir()}
	e.listen(counts, ports...)
	bootstrap := map[string]any{
		"node":              map[string]any{"id": "n", "cluster": "c"},
		"admin":             map[string]any{"address": address(e.admin)},
		"dynamic_resources": map[string]any{"lds_config": map[string]any{"path_config_source": map[string]any{"path": filepath.Join(e.dir, "listeners.json")}}},
	}
	file := filepath.Join(e.dir, "bootstrap.json")
	text, err := json.Marshal(bootstrap)
	if err == nil {
		err = os.WriteFile(file, text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	e.cmd = exec.CommandContext(t.Context(), path, "-c", file, "-l", "critical", "--concurrency", "1", "--disable-hot-restart")
	out := &testenv.Output{}
	e.cmd.Stdout, e.cmd.Stderr = out, out
	if err := e.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = e.cmd.Process.Kill()
		_ = e.cmd.Wait()
		if t.Failed() {
			t.Log(out)
		}
	})
	version, err := exec.Command(path, "--version").Output()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("real envoy: %s", regexp.MustCompile(`\d+\.\d+\.\d+`).Find(version))
	return e
}

func address(port int) map[string]any {
	return map[string]any{"socket_address": map[string]any{"address": "127.0.0.1", "port_value": port}}
}

// listen puts the listeners in place, as a file that Envoy watches is to be changed.
func (e *realEnvoy) listen(counts bool, ports ...int) {
	e.t.Helper()
	const extensions = "type.googleapis.com/envoy.extensions."
	manager := map[string]any{
		"@type": extensions + "filters.network.http_connection_manager.v3.HttpConnectionManager", "stat_prefix": "x",
		"route_config": map[string]any{"virtual_hosts": []any{map[string]any{
			"name": "all", "domains": []string{"*"},
			"routes": []any{map[string]any{"match": map[string]any{"prefix": "/"}, "direct_response": map[string]any{"status": 200}}},
		}}},
		"http_filters": []any{map[string]any{"name": "router", "typed_config": map[string]any{"@type": extensions + "filters.http.router.v3.Router"}}},
	}
	if counts {
		stat := map[string]any{"stat": map[string]any{"name": "RequestCount", "tags": []any{map[string]any{"name": "Mesh", "value_format": "m"}}}, "value_fixed": "1"}
		manager["access_log"] = []any{map[string]any{"name": "stats", "typed_config": map[string]any{
			"@type": extensions + "access_loggers.stats.v3.Config", "stat_prefix": "appmesh", "counters": []any{stat},
		}}}
	}
	var listeners []any
	for _, port := range ports {
		listeners = append(listeners, map[string]any{
			"@type": "type.googleapis.com/envoy.config.listener.v3.Listener", "name": strconv.Itoa(port), "address": address(port),
			"filter_chains": []any{map[string]any{"filters": []any{map[string]any{"name": "http", "typed_config": manager}}}},
		})
	}
	text, err := json.Marshal(map[string]any{"resources": listeners, "version_info": fmt.Sprint(ports)})
	next := filepath.Join(e.dir, "next")
	if err == nil {
		err = os.WriteFile(next, text, 0o600)
	}
	if err == nil {
		err = os.Rename(next, filepath.Join(e.dir, "listeners.json"))
	}
	if err != nil {
		e.t.Fatal(err)
	}
}

func (e *realEnvoy) client() *envoyadmin.Client { return envoyadmin.New(settings.Admin{Port: e.admin}) }

// App Mesh's agent meant to tell that a listener could not be opened, and asked for a statistic that its own filter hid.
func TestFailedFirstConfiguration(t *testing.T) {
	for _, path := range agenttest.Envoys(t) {
		t.Run(filepath.Base(filepath.Dir(path)), func(t *testing.T) {
			t.Parallel()
			busy, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer busy.Close()
			free, taken := testenv.FreePort(t), busy.Addr().(*net.TCPAddr).Port
			e := startEnvoy(t, path, false, free, taken)
			h := NewHealth(HealthOptions{Envoy: e, Admin: e.client(), Limit: time.Hour, Started: time.Now(), Now: time.Now})
			until := func(what string, ok func(Status) bool) {
				t.Helper()
				testenv.Eventually(t, what, func() bool { h.poll(t.Context()); return ok(h.status()) })
			}
			until("the failure is told", func(s Status) bool {
				return s.State == "LIVE" && s.InitialUpdate == "UPDATE_FAILED" && s.Health == "UNHEALTHY" && s.Readiness == "INITIALIZED"
			})
			e.listen(false, free)
			until("it heals with what Envoy takes", func(s Status) bool { return s.InitialUpdate == "UPDATE_SUCCESSFUL" && s.Health == "HEALTHY" })
			e.listen(false, free, taken)
			testenv.Eventually(t, "Envoy refuses again", func() bool {
				stats, err := e.client().Stats(t.Context(), updateRejected)
				return err == nil && stats[updateRejected] >= 2
			})
			until("what is refused later is no ill health", func(s Status) bool { return s.InitialUpdate == "UPDATE_SUCCESSFUL" && s.Health == "HEALTHY" })
		})
	}
}

func TestDeltaOfARealEnvoy(t *testing.T) {
	port := testenv.FreePort(t)
	e := startEnvoy(t, agenttest.Envoys(t)[0], true, port) // older ones have no such logger
	var kept *Snapshots
	_, _, ask := newTestServer(t, time.Hour, func(o *ServerOptions) {
		o.Admin = e.client()
		kept = &Snapshots{Envoy: e, Admin: o.Admin, Interval: time.Hour, Log: o.Log}
		o.Snapshots = kept
	})
	request := func() bool {
		answer, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/", port))
		if err != nil {
			return false
		}
		answer.Body.Close()
		return answer.StatusCode == http.StatusOK
	}
	// Envoy counts a request after it has answered.
	areCounted := func(want int) {
		t.Helper()
		testenv.Eventually(t, "all are counted", func() bool {
			text, err := readExtension(t.Context(), e.client(), statsQuery{extension: true}, maxSnapshot)
			return err == nil && strings.HasSuffix(text, fmt.Sprintf(" %d\n", want))
		})
	}
	take := func() (ok bool) { kept.take(t.Context()); _, ok = kept.delta(); return ok }
	testenv.Eventually(t, "Envoy answers", request)
	areCounted(1)
	counted := func(query string) int {
		t.Helper()
		code, text := ask("GET", "/stats/prometheus?usedonly&filter=metrics_extension"+query, "")
		_, number, ok := strings.Cut(text, "\n# TYPE RequestCount counter\nRequestCount{Mesh=\"m\"} ")
		n, err := strconv.Atoi(strings.TrimSpace(number))
		if code != 200 || !ok || err != nil {
			t.Fatalf("got %d %q", code, text)
		}
		return n
	}
	first, n := counted(""), 1
	seven := func() {
		t.Helper()
		for range 7 {
			if !request() {
				t.Fatal("Envoy does not answer")
			}
		}
		n += 7
	}
	testenv.Eventually(t, "a snapshot", take)
	seven()
	if got := counted("&delta"); got != first {
		t.Errorf("the first snapshot: got %d, want %d", got, first)
	}
	areCounted(n)
	for !take() { // a busy Envoy did not answer in time, and the one before is forgotten
		testenv.Eventually(t, "a snapshot", take)
		seven()
		areCounted(n)
	}
	if got := counted("&delta"); got != 7 {
		t.Errorf("the second: got %d, want 7", got)
	}
}
