package httpapi

import (
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/agent/agenttest"
	"github.com/evermesh/evermesh/internal/agent/envoyadmin"
	"github.com/evermesh/evermesh/internal/agent/relay"
	"github.com/evermesh/evermesh/internal/agent/settings"
)

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

func TestReadinessWhereItListens(t *testing.T) {
	for _, test := range []struct{ name, address string }{
		{"on all addresses", "[::]:0"},
		{"on all of IPv4", "0.0.0.0:0"},
		{"on one that is not localhost's", "127.0.0.2:0"},
	} {
		t.Run(test.name, func(t *testing.T) {
			server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/status" {
					_, _ = w.Write([]byte(`{"healthStatus": "HEALTHY"}`))
				}
			}))
			l, err := net.Listen("tcp", test.address)
			if err != nil {
				t.Fatal(err)
			}
			server.Listener.Close()
			server.Listener = l
			server.Start()
			defer server.Close()
			host, _, _ := net.SplitHostPort(test.address)
			_, port, _ := net.SplitHostPort(l.Addr().String())
			// Asked again, for the machine may be busy.
			s := settings.Settings{
				Server:            settings.Server{Network: "tcp", Address: net.JoinHostPort(host, port)},
				ReadinessInterval: time.Millisecond, ReadinessTimeout: agenttest.Wait,
			}
			if err := Readiness(agenttest.Within(t), s); err != nil {
				t.Error(err)
			}
		})
	}
}

// What went wrong with the first configuration counts; what goes wrong later leaves Envoy with what it has.
func TestInitialUpdate(t *testing.T) {
	for _, test := range []struct {
		name  string
		stats map[string]int
		want  string
	}{
		{"nothing refused", map[string]int{updateSuccess: 1}, updateSuccessful},
		{"a bootstrap without a control plane", map[string]int{}, updateSuccessful},
		{"a listener that could not be opened", map[string]int{createFailure: 1}, updateFailed},
		{"listeners refused", map[string]int{updateRejected: 1}, updateFailed},
		{"refused, and then taken", map[string]int{createFailure: 1, updateRejected: 1, updateSuccess: 1}, updateSuccessful},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := initialUpdate(test.stats); got != test.want {
				t.Errorf("got %s", got)
			}
		})
	}
}

// An Envoy whose answers come from two lives says nothing about either.
func TestPollAcrossARestart(t *testing.T) {
	envoy := &running{life: life{7, 0}}
	asked := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if asked++; asked == 1 {
			envoy.set(8, 1)
		}
		_, _ = w.Write([]byte("LIVE\n"))
	}))
	defer server.Close()
	h := NewHealth(HealthOptions{Envoy: envoy, Admin: envoyadmin.New(settings.Admin{Port: server.Listener.Addr().(*net.TCPAddr).Port}), Limit: time.Hour, Started: time.Now(), Now: time.Now})
	h.poll(t.Context())
	if got := h.status(); got.State != "UNREACHABLE" || got.Readiness != "NOT_INITIALIZED" {
		t.Errorf("got %+v", got)
	}
	h.poll(t.Context())
	if got := h.status(); got.State != "LIVE" || got.Readiness != "INITIALIZED" || got.Pid != "8" || got.Restarts != "1" {
		t.Errorf("got %+v", got)
	}
}

// Names and words of a status are read by tools: all values are strings, and what is not known is left out.
func TestStatusText(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.FixedZone("", 3600))
	h := NewHealth(HealthOptions{Envoy: &running{}, Limit: time.Hour, Started: now.Add(-90 * time.Second), Now: func() time.Time { return now }})
	w := httptest.NewRecorder()
	(&Server{ServerOptions: ServerOptions{Health: h}}).status(w, nil)
	const want = `{
    "healthStatus": "UNHEALTHY",
    "agentUptime": "90s",
    "envoyPid": "0",
    "envoyState": "UNREACHABLE",
    "envoyRestartCount": "0",
    "managementServerConnectionStatus": "NOT_CONNECTED",
    "managementServerDisconnectedTimestamp": "2026-03-01T11:00:00Z",
    "envoyReadinessState": "NOT_INITIALIZED"
}
`
	if got := w.Body.String(); got != want {
		t.Errorf("got %s", got)
	}
}

func TestStatusTellsTheWay(t *testing.T) {
	failure := &relay.Failure{Endpoint: "https://a:1", Address: "10.0.0.1:1", Step: relay.StepTCP, Reason: "connection refused", Do: "start it"}
	failing := relay.Report{Endpoints: []relay.EndpointReport{{Endpoint: "https://a:1", Tried: true, Failures: []*relay.Failure{failure}}, {Endpoint: "https://b:1"}}}
	const told = "https://a:1 at 10.0.0.1:1: TCP failed: connection refused; do: start it"
	for _, test := range []struct {
		name         string
		up, lastGood bool
		report       relay.Report
		want         Status
	}{
		{"nothing is known yet", false, false, relay.Report{}, Status{}},
		{"the control plane serves", true, false, failing, Status{Source: "CONTROL_PLANE"}},
		{"it does not, and Envoy has what it had", false, true, failing, Status{Source: "LAST_GOOD", LastGoodAge: "90s", Failures: told}},
		{"it does not, and there was nothing", false, false, failing, Status{Failures: told}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var got Status
			if got.tell(test.up, test.lastGood, 90*time.Second, test.report); got != test.want {
				t.Errorf("got %+v", got)
			}
		})
	}
	t.Run("of many failures some", func(t *testing.T) {
		var got Status
		got.tell(false, false, 0, relay.Report{Endpoints: []relay.EndpointReport{{Failures: slices.Repeat([]*relay.Failure{failure}, 9)}}})
		if n := strings.Count(got.Failures, told); n != maxFailures {
			t.Errorf("%d", n)
		}
	})
}
