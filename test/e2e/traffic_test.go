//go:build linux

package e2e

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/evermesh/evermesh/test/ground"
	"github.com/evermesh/evermesh/test/stage"
)

// weighted is a route with a prefix "/" and weights, with more members of the httpRoute in rest.
func weighted(rest string, weights ...any) string {
	var targets []string
	for i := 0; i < len(weights); i += 2 {
		targets = append(targets, fmt.Sprintf(`{"virtualNode": %q, "weight": %d}`, weights[i], weights[i+1]))
	}
	if rest != "" {
		rest = ", " + rest
	}
	return fmt.Sprintf(`{"httpRoute": {"match": {"prefix": "/"}, "action": {"weightedTargets": [%s]}%s}}`, strings.Join(targets, ", "), rest)
}

// counter gives every request that must be told apart an id.
type counter struct {
	prefix string
	n      int
}

func (c *counter) next() string {
	c.n++
	return fmt.Sprintf("%s-%d", c.prefix, c.n)
}

// TestForwarding shows weights, retries and timeouts, on one client.
func TestForwarding(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "forwarding", "DROP_ALL")
	for _, name := range []string{"blue", "green", "red"} {
		m.app(name)
	}
	m.create("VirtualNode", "gone", m.nodeSpec("gone")) // a name that nobody answers for
	routes := map[string]map[string]string{
		"split":    {"r": weighted("", "blue", 75, "green", 25)},
		"three":    {"r": weighted("", "blue", 5, "green", 3, "red", 2)},
		"zero":     {"r": weighted("", "blue", 1, "green", 0)},
		"nothing":  {"r": weighted("", "blue", 0)},
		"plain":    {"r": weighted("", "blue", 1)},
		"five":     {"r": weighted(`"retryPolicy": {"maxRetries": 5, "perRetryTimeout": {"unit": "s", "value": 10}, "httpRetryEvents": ["server-error"]}`, "blue", 1)},
		"gateway":  {"r": weighted(`"retryPolicy": {"maxRetries": 2, "perRetryTimeout": {"unit": "s", "value": 10}, "httpRetryEvents": ["gateway-error"]}`, "blue", 1)},
		"conflict": {"r": weighted(`"retryPolicy": {"maxRetries": 2, "perRetryTimeout": {"unit": "s", "value": 10}, "httpRetryEvents": ["client-error"]}`, "blue", 1)},
		"stream":   {"r": weighted(`"retryPolicy": {"maxRetries": 2, "perRetryTimeout": {"unit": "s", "value": 10}, "httpRetryEvents": ["stream-error"]}`, "blue", 1)},
		"slow":     {"r": weighted(`"retryPolicy": {"maxRetries": 2, "perRetryTimeout": {"unit": "s", "value": 4}, "httpRetryEvents": ["stream-error"]}`, "blue", 1)},
		"idle":     {"r": weighted(`"timeout": {"idle": {"unit": "s", "value": 1}}`, "blue", 1)},
		"cut": {"r": weighted(`"timeout": {"perRequest": {"unit": "s", "value": 12}},
			"retryPolicy": {"maxRetries": 4, "perRetryTimeout": {"unit": "s", "value": 8}, "httpRetryEvents": ["stream-error"]}`, "blue", 1)},
		"short":     {"r": weighted(`"timeout": {"perRequest": {"unit": "ms", "value": 400}}`, "blue", 1)},
		"long":      {"r": weighted(`"timeout": {"perRequest": {"unit": "s", "value": 40}}`, "blue", 1)},
		"endless":   {"r": weighted(`"timeout": {"perRequest": {"unit": "s", "value": 0}}`, "blue", 1)},
		"unknown":   {"r": weighted("", "gone", 1)},
		"elsewhere": {"r": weighted("", "blue", 1)},
	}
	services := map[string]string{}
	var backends []string
	for name, r := range routes {
		port := appPort
		if name == "elsewhere" {
			port = 8000
		}
		services[name] = m.service(name, port, r)
		backends = append(backends, services[name])
	}
	direct := m.hostname("direct")
	m.DNS().Set(direct, nobody)
	m.create("VirtualService", direct, `{"provider": {"virtualNode": {"virtualNodeName": "red"}}}`)
	m.create("VirtualNode", "client", callerSpec(append(backends, direct)...))
	client := m.host("client")
	sidecar := m.sidecar(client, stage.SidecarOptions{Resource: "client"})
	url := func(name string) string { return fmt.Sprintf("http://%s:%d/", services[name], appPort) }
	ids := counter{prefix: "forwarding"}
	toDirect := fmt.Sprintf("http://%s:%d/", direct, appPort)

	// These take as long as they must, and so wait while the others run. What a timeout is to end the application would
	// answer after an hour; what none is to end, after more than the default.
	type waiting struct {
		answer func(*testing.T) answer
		want   int
		least  time.Duration
	}
	slow, never := map[string]string{"X-Delay": "16s"}, map[string]string{"X-Delay": "1h"}
	waits := map[string]waiting{
		"RT-035 15 s are the default":               {later(t, client, request{URL: url("plain"), Header: never}), http.StatusGatewayTimeout, 15 * time.Second},
		"RT-035 perRequest may be longer":           {later(t, client, request{URL: url("long"), Header: slow}), http.StatusOK, 16 * time.Second},
		"RT-035 perRequest 0 means no end":          {later(t, client, request{URL: url("endless"), Header: slow}), http.StatusOK, 16 * time.Second},
		"VS-011 node providers wait 15 s":           {later(t, client, request{URL: toDirect, Header: never}), http.StatusGatewayTimeout, 15 * time.Second},
		"RT-035 perRequest ends a request with 504": {later(t, client, request{URL: url("short"), Header: never}), http.StatusGatewayTimeout, 400 * time.Millisecond},
		"RT-036 a silent stream ends":               {later(t, client, request{URL: url("idle"), Header: never}), http.StatusGatewayTimeout, time.Second},
	}
	bounded := later(t, client, request{URL: url("slow"), Header: map[string]string{"X-Fail": "bounded,2", "X-Delay": "1h"}})
	cut := later(t, client, request{URL: url("cut"), Header: map[string]string{"X-Fail": "cut,9", "X-Delay": "1h"}})

	t.Run("RT-001 RT-009 weights 75 and 25 split a large sample", func(t *testing.T) {
		shares(t, client, url("split"), map[string]float64{"blue": 0.75, "green": 0.25})
	})
	t.Run("RT-008 weights of three targets are relative", func(t *testing.T) {
		shares(t, client, url("three"), map[string]float64{"blue": 0.5, "green": 0.3, "red": 0.2})
	})
	t.Run("RT-009 weight 0 gets nothing", func(t *testing.T) {
		shares(t, client, url("zero"), map[string]float64{"blue": 1})
	})
	t.Run("RT-008 weights that sum to 0 answer 503", func(t *testing.T) {
		if a := ask(t, client, request{URL: url("nothing")}); a.Status != http.StatusServiceUnavailable {
			t.Errorf("%d %s", a.Status, a.Body)
		}
	})
	t.Run("VR-006 the router's port may differ from the node's", func(t *testing.T) {
		a := ask(t, client, request{URL: fmt.Sprintf("http://%s:8000/", services["elsewhere"])})
		if a.App != "blue" {
			t.Errorf("%d %s", a.Status, a.Body)
		}
	})
	t.Run("VS-010 a node provider gets all", func(t *testing.T) {
		for range 5 {
			if a := ask(t, client, request{URL: toDirect}); a.App != "red" {
				t.Errorf("%d %s", a.Status, a.Body)
			}
		}
	})
	t.Run("EMS-034 a name without addresses answers 503", func(t *testing.T) {
		a := ask(t, client, request{URL: url("unknown")})
		if a.Status != http.StatusServiceUnavailable || !strings.Contains(a.Body, "no healthy upstream") {
			t.Errorf("%d %s, want 503 no healthy upstream", a.Status, a.Body)
		}
	})

	for name, c := range map[string]struct {
		service string
		header  string // of the failing tries
		fails   int
		status  string // of the failing tries
		want    int
		tries   int
	}{
		"EMS-038 EMS-039 two retries by default on 503":  {service: "plain", header: "X-Fail", fails: 2, status: "503", want: 200, tries: 3},
		"EMS-038 no third retry by default":              {service: "plain", header: "X-Fail", fails: 3, status: "503", want: 503, tries: 3},
		"EMS-038 no retry by default on 500":             {service: "plain", header: "X-Fail", fails: 1, status: "500", want: 500, tries: 1},
		"EMS-038 a retry by default on a reset":          {service: "plain", header: "X-Reset", fails: 1, want: 200, tries: 2},
		"RT-034 five retries are honoured":               {service: "five", header: "X-Fail", fails: 5, status: "500", want: 200, tries: 6},
		"RT-029 and not a sixth":                         {service: "five", header: "X-Fail", fails: 6, status: "500", want: 500, tries: 6},
		"EMS-044 server-error means 501 too":             {service: "five", header: "X-Fail", fails: 1, status: "501", want: 200, tries: 2},
		"RT-031 EMS-044 gateway-error means 502":         {service: "gateway", header: "X-Fail", fails: 1, status: "502", want: 200, tries: 2},
		"RT-031 EMS-044 gateway-error does not mean 500": {service: "gateway", header: "X-Fail", fails: 1, status: "500", want: 500, tries: 1},
		"RT-031 EMS-044 client-error means 409":          {service: "conflict", header: "X-Fail", fails: 1, status: "409", want: 200, tries: 2},
		"RT-031 EMS-044 client-error does not mean 503":  {service: "conflict", header: "X-Fail", fails: 1, status: "503", want: 503, tries: 1},
		"RT-031 EMS-044 stream-error means a reset":      {service: "stream", header: "X-Reset", fails: 1, want: 200, tries: 2},
		"RT-039 gateway-error means 503":                 {service: "gateway", header: "X-Fail", fails: 1, status: "503", want: 200, tries: 2},
		"RT-039 server-error means 503":                  {service: "five", header: "X-Fail", fails: 1, status: "503", want: 200, tries: 2},
	} {
		t.Run(name, func(t *testing.T) {
			id := ids.next()
			a := ask(t, client, request{URL: url(c.service), Header: map[string]string{c.header: fmt.Sprintf("%s,%d", id, c.fails), "X-Status": c.status}})
			if a.Status != c.want || a.Seen.Try != c.tries {
				t.Errorf("status %d after %d tries, want %d after %d", a.Status, a.Seen.Try, c.want, c.tries)
			}
		})
	}
	t.Run("VS-011 a node provider has the default retry", func(t *testing.T) {
		a := ask(t, client, request{URL: toDirect, Header: map[string]string{"X-Fail": ids.next() + ",2"}})
		if a.Status != 200 || a.Seen.Try != 3 {
			t.Errorf("status %d after %d tries, want 200 after 3", a.Status, a.Seen.Try)
		}
	})
	t.Run("EMS-041 the default retry is visible in config_dump", func(t *testing.T) {
		dump := m.admin(sidecar, "/config_dump?resource=dynamic_route_configs")
		if !strings.Contains(dump, `"retry_on": "reset,connect-failure,refused-stream,retriable-status-codes"`) && !strings.Contains(dump, `"retry_on": "unavailable,reset,connect-failure,refused-stream,retriable-status-codes"`) {
			t.Errorf("no default retry policy in\n%.3000s", dump)
		}
	})
	t.Run("EMS-042 EMS-043 circuit breakers never open", func(t *testing.T) {
		clusters := m.admin(sidecar, "/clusters")
		for _, limit := range []string{"max_connections", "max_pending_requests", "max_requests", "max_retries"} {
			line := fmt.Sprintf("cds_egress_forwarding_blue_http_%d::default_priority::%s::2147483647", appPort, limit)
			if !strings.Contains(clusters, line) {
				t.Errorf("/clusters lacks %s", line)
			}
		}
	})
	t.Run("RT-030 the per-retry timeout bounds the first try too", func(t *testing.T) {
		// Without it the first try would be answered after an hour, and ended after 15 s.
		if a := bounded(t); a.Status != 200 || a.Seen.Try != 3 {
			t.Errorf("status %d after %d tries, want 200 after 3", a.Status, a.Seen.Try)
		}
	})
	t.Run("RT-037 perRequest cuts retries off", func(t *testing.T) {
		a := cut(t)
		tries := ask(t, client, request{URL: url("plain"), Header: map[string]string{"X-Fail": "cut,0"}}).Seen.Try - 1
		if a.Status != http.StatusGatewayTimeout || a.Took < 11*time.Second || tries != 2 {
			t.Errorf("status %d after %v and %d tries, want 504 after 12 s and a second try, of five", a.Status, a.Took, tries)
		}
	})
	for name, c := range waits {
		t.Run(name, func(t *testing.T) {
			within(t, c.answer(t), c.want, c.least)
		})
	}
}

// within holds that an answer came after the time that it had to take, and, where it is that of a timeout, before the next
// longer one would have given it. How late it may be is the machine's: a busy one is late by seconds.
func within(t *testing.T, a answer, status int, least time.Duration) {
	t.Helper()
	if a.Status != status || a.Took < least-100*time.Millisecond || a.Took > least+10*time.Second {
		t.Errorf("status %d after %v, want %d after %v", a.Status, a.Took, status, least)
	}
}

// admin is what the sidecar's Envoy answers.
func (m *mesh) admin(s *stage.Sidecar, path string) string {
	m.t.Helper()
	ctx, cancel := m.context()
	defer cancel()
	text, err := s.Admin(ctx, path)
	if err != nil {
		m.t.Fatal(err)
	}
	return text
}

// sample is how many requests show a share. A right one is further than 6 standard deviations off twice in a thousand million
// times; there are some twenty shares in all tests.
const (
	sample     = 2200
	deviations = 6
)

// shares sends a sample and compares who answered with what was asked.
func shares(t *testing.T, h *ground.Host, url string, want map[string]float64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	steady := stage.NewSteady(h, url, 4, time.Millisecond)
	defer steady.Stop()
	if err := steady.Wait(ctx, time.Time{}, sample); err != nil {
		t.Fatal(err)
	}
	compare(t, steady.Count(time.Time{}, time.Time{}), want)
}

func compare(t *testing.T, tally stage.Tally, want map[string]float64) {
	t.Helper()
	if tally.Failed > 0 {
		t.Errorf("%d of %d requests failed: %v", tally.Failed, tally.Requests, tally.Faults)
	}
	for app := range tally.ByApp {
		if want[app] == 0 {
			t.Errorf("%s got %d of %d requests, want none", app, tally.ByApp[app], tally.Requests)
		}
	}
	for app, share := range want {
		got := float64(tally.ByApp[app]) / float64(tally.Requests)
		if bound := deviations * math.Sqrt(share*(1-share)/float64(tally.Requests)); math.Abs(got-share) > bound {
			t.Errorf("%s got %.3f of %d requests, want %.3f ± %.3f", app, got, tally.Requests, share, bound)
		}
	}
}
