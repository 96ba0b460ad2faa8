package httpapi

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/agent/agenttest"
	"github.com/evermesh/evermesh/internal/agent/envoyadmin"
	"github.com/evermesh/evermesh/internal/agent/settings"
	"github.com/evermesh/evermesh/internal/testenv"
)

// fakeAdmin is an administration interface that keeps what it was asked.
type fakeAdmin struct {
	mu     sync.Mutex
	asked  []string
	code   int
	answer string
}

func (f *fakeAdmin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, r.Method+" "+r.URL.RequestURI()+" "+r.UserAgent())
	w.WriteHeader(f.code)
	fmt.Fprint(w, f.answer)
}

func (f *fakeAdmin) take() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	asked := strings.Join(f.asked, "\n")
	f.asked = nil
	return asked
}

func (f *fakeAdmin) set(code int, answer string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.code, f.answer = code, answer
}

// newTestServer serves on a socket, in front of a fake Envoy; its requests are sent by ask.
func newTestServer(t *testing.T, reset time.Duration, with ...func(*ServerOptions)) (f *fakeAdmin, s *Server, ask func(method, path, body string) (int, string)) {
	t.Helper()
	f = &fakeAdmin{code: 200, answer: "OK\n"}
	envoy := httptest.NewServer(f)
	t.Cleanup(envoy.Close)
	admin := envoyadmin.New(settings.Admin{Port: envoy.Listener.Addr().(*net.TCPAddr).Port})
	log, _ := agenttest.Log(t)
	o := ServerOptions{
		Where: settings.Server{Network: "unix", Address: filepath.Join(agenttest.ShortDir(t), "made", "agent.sock")},
		Admin: admin, Level: "info", Reset: reset, Log: log,
	}
	o.Health = NewHealth(HealthOptions{Envoy: &running{}, Admin: admin, Now: time.Now, Started: time.Now(), Limit: time.Hour})
	for _, f := range with {
		f(&o)
	}
	s, err := Listen(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	client, _ := Client(o.Where)
	return f, s, func(method, path, body string) (int, string) {
		r, err := http.NewRequestWithContext(agenttest.Within(t), method, "http://agent"+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		answer, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		text, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Fatal(err)
		}
		return answer.StatusCode, string(text)
	}
}

func TestDrainListeners(t *testing.T) {
	f, _, ask := newTestServer(t, time.Hour)
	for _, test := range []struct {
		name, method, path, body string
		code                     int
	}{
		{"AGENT-038 as the guide has it", "POST", "/drain_listeners", "", 200},
		{"AGENT-038 as the agent had it", "POST", "/drain_listeners?inboundonly", "", 200},
		{"another parameter", "POST", "/drain_listeners?graceful", "", 400},
		{"a body", "POST", "/drain_listeners", "x", 400},
		{"another method", "GET", "/drain_listeners", "", 400},
	} {
		t.Run(test.name, func(t *testing.T) {
			code, text := ask(test.method, test.path, test.body)
			asked := f.take()
			want := ""
			if test.code == 200 {
				want = "POST /drain_listeners?inboundonly appnetClient/1.0"
			}
			if code != test.code || asked != want {
				t.Errorf("got %d %s; Envoy was asked %q", code, text, asked)
			}
		})
	}
	t.Run("Envoy refuses", func(t *testing.T) {
		f.set(503, "no")
		if code, _ := ask("POST", "/drain_listeners", ""); code != 500 {
			t.Errorf("got %d", code)
		}
	})
}

func TestEnableLogging(t *testing.T) {
	t.Run("AGENT-039 goes back after the time", func(t *testing.T) {
		f, _, ask := newTestServer(t, 50*time.Millisecond)
		if code, text := ask("POST", "/enableLogging?level=debug", ""); code != 200 || !strings.Contains(text, "from info to debug") {
			t.Errorf("got %d %s", code, text)
		}
		all := ""
		testenv.Eventually(t, "the level goes back", func() bool { all += f.take(); return strings.Contains(all, "level=info") })
		if !strings.HasPrefix(all, "POST /logging?level=debug") {
			t.Errorf("Envoy was asked %q", all)
		}
	})
	t.Run("AGENT-039 stays when it is permanent", func(t *testing.T) {
		_, s, ask := newTestServer(t, time.Millisecond)
		if code, _ := ask("POST", "/enableLogging?level=debug&permanent=true", ""); code != 200 {
			t.Errorf("got %d", code)
		}
		s.level.mu.Lock()
		defer s.level.mu.Unlock()
		if s.level.timer != nil || s.level.current != "debug" {
			t.Error("goes back")
		}
	})
	t.Run("two changes go back to the first", func(t *testing.T) {
		_, s, ask := newTestServer(t, time.Hour)
		ask("POST", "/enableLogging?level=debug", "")
		ask("POST", "/enableLogging?level=trace", "")
		s.level.mu.Lock()
		defer s.level.mu.Unlock()
		if s.level.before != "info" || s.level.current != "trace" {
			t.Errorf("from %s back to %s", s.level.current, s.level.before)
		}
	})
	t.Run("Envoy refuses", func(t *testing.T) {
		f, _, ask := newTestServer(t, time.Hour)
		f.set(500, "no")
		if code, _ := ask("POST", "/enableLogging?level=debug", ""); code != 500 {
			t.Errorf("got %d", code)
		}
		f.set(200, "")
		if code, _ := ask("POST", "/enableLogging?level=debug", ""); code != 200 {
			t.Errorf("a refused level counts as set: %d", code)
		}
	})
}

func TestRateLimit(t *testing.T) {
	_, _, ask := newTestServer(t, time.Hour)
	codes := map[int]int{}
	for range 40 {
		code, _ := ask("GET", "/status", "")
		codes[code]++
	}
	if codes[200] < 20 || codes[429] == 0 || codes[200]+codes[429] != 40 {
		t.Errorf("got %v", codes)
	}
}

func TestMetricsExtension(t *testing.T) {
	f, _, ask := newTestServer(t, time.Hour)
	f.set(200, `# TYPE envoy_appmesh_RequestCount counter
envoy_appmesh_RequestCount{Mesh="m"} 7

# TYPE envoy_cluster_upstream_rq counter
envoy_cluster_upstream_rq{} 1

# TYPE envoy_appmesh_ActiveConnectionCount gauge
envoy_appmesh_ActiveConnectionCount{Mesh="m"} 1
envoy_appmesh_ActiveConnectionCount{Mesh="n"} 2

`)
	code, got := ask("GET", "/stats/prometheus?filter=metrics_extension&usedonly", "")
	want := `
# TYPE ActiveConnectionCount gauge
ActiveConnectionCount{Mesh="m"} 1
ActiveConnectionCount{Mesh="n"} 2

# TYPE RequestCount counter
RequestCount{Mesh="m"} 7
`
	if code != 200 || got != want {
		t.Errorf("got %d %s", code, got)
	}
	if asked := f.take(); asked != "GET /stats?format=prometheus&filter=appmesh&usedonly appnetClient/1.0" {
		t.Errorf("Envoy was asked %q", asked)
	}
	for _, path := range []string{"?delta", "?delta&usedonly", "?delta&filter=metrics_extension", "?filter=other", "?usedonly&usedonly", "?usedonly=1", "?x"} {
		if code, _ := ask("GET", "/stats/prometheus"+path, ""); code != 400 {
			t.Errorf("%s: got %d", path, code)
		}
	}
}

// running is an Envoy's process, and how often it was started again.
type running struct {
	mu sync.Mutex
	life
}

func (r *running) Process() (pid, restarted int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.pid, r.restarted
}

func (r *running) set(pid, restarted int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.life = life{pid, restarted}
}

// A lost control plane is no ill health, until HC_DISCONNECTED_TIMEOUT_S has passed.
func TestHealth(t *testing.T) {
	start := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for _, test := range []struct {
		name, state string
		lost        time.Duration // 0 is connected
		pid         int
		want        Status
	}{
		{"live and connected", "LIVE", 0, 7, Status{Health: "HEALTHY", ManagementServer: "CONNECTED", State: "LIVE"}},
		{"disconnected for less than the limit", "LIVE", time.Hour - time.Second, 7, Status{Health: "HEALTHY", ManagementServer: "NOT_CONNECTED", State: "LIVE"}},
		{"and for longer", "LIVE", time.Hour, 7, Status{Health: "UNHEALTHY", ManagementServer: "NOT_CONNECTED", State: "LIVE"}},
		{"draining", "DRAINING", 0, 7, Status{Health: "UNHEALTHY", ManagementServer: "CONNECTED", State: "DRAINING"}},
		{"started again since it was asked", "LIVE", 0, 8, Status{Health: "UNHEALTHY", ManagementServer: "CONNECTED", State: "UNREACHABLE"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			now := start.Add(2 * time.Hour)
			h := &Health{HealthOptions: HealthOptions{Envoy: &running{life: life{test.pid, 2}}, Limit: time.Hour, Started: start, Now: func() time.Time { return now }}, of: life{7, 2}, state: test.state, live: true, initial: updateSuccessful}
			if test.lost > 0 {
				h.disconnected = now.Add(-test.lost)
			}
			got := h.status()
			if got.Health != test.want.Health || got.ManagementServer != test.want.ManagementServer || got.State != test.want.State {
				t.Errorf("got %+v", got)
			}
			if (got.Disconnected != nil) != (test.lost > 0) || got.Uptime != "7200s" || got.Restarts != "2" {
				t.Errorf("got %+v", got)
			}
			if initial := got.InitialUpdate != ""; initial != (test.pid == 7) {
				t.Errorf("got %+v", got)
			}
		})
	}
}

func TestReadiness(t *testing.T) {
	t.Run("without an interface", func(t *testing.T) {
		if err := Readiness(t.Context(), settings.Settings{}); err == nil || !strings.Contains(err.Error(), "APPNET_AGENT_ADMIN_MODE") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("until the time-out", func(t *testing.T) {
		s := settings.Settings{Server: settings.Server{Network: "unix", Address: filepath.Join(agenttest.ShortDir(t), "nobody")}, ReadinessInterval: 10 * time.Millisecond, ReadinessTimeout: 50 * time.Millisecond}
		if err := Readiness(t.Context(), s); err == nil || !strings.Contains(err.Error(), "ask the agent") {
			t.Errorf("got %v", err)
		}
	})
}
