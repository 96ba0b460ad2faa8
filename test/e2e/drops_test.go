//go:build linux

package e2e

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/evermesh/evermesh/test/ground"
	"github.com/evermesh/evermesh/test/stage"
)

// What is changed here while requests are under way is in docs/drops.md, a row for each change. The requests are POST,
// which nobody repeats: not the client, and, where a row does not say otherwise, not its Envoy.

// dropped prints the row of a change; not one of its requests may have failed. A test in internal holds the names of
// changes, here and where else rows are printed, against the document.
func dropped(t *testing.T, change string, all stage.Tally) {
	t.Helper()
	lossless(t, "drops: "+change, all)
}

// lossless prints how many requests there were; not one may have failed.
func lossless(t *testing.T, what string, all stage.Tally) {
	t.Helper()
	t.Logf("%s: %d requests, %d failed", what, all.Requests, all.Failed)
	if all.Failed > 0 || all.Requests == 0 {
		t.Errorf("%s: %d of %d requests failed: %v", what, all.Failed, all.Requests, all.Faults)
	}
}

// during makes a change under a load, waits for so many more requests, and prints the change's row.
func (m *mesh) during(t *testing.T, s *stage.Steady, change string, more int, do func()) {
	t.Helper()
	from := time.Now()
	do()
	m.answers(t, s, more)
	dropped(t, change, s.Count(from, time.Time{}))
}

// answers waits for so many requests that begin from now on, and tells what came of them.
func (m *mesh) answers(t *testing.T, s *stage.Steady, n int) stage.Tally {
	t.Helper()
	ctx, cancel := m.context()
	defer cancel()
	from := time.Now()
	if err := s.Wait(ctx, from, n); err != nil {
		t.Fatal(err)
	}
	return s.Count(from, time.Time{})
}

// reaches waits until the requests of a load go to these apps alone, and to each of them.
func (m *mesh) reaches(t *testing.T, s *stage.Steady, apps ...string) {
	t.Helper()
	m.until(fmt.Sprintf("requests go to %v alone", apps), func(context.Context) bool {
		got := m.answers(t, s, 40).ByApp
		return len(got) == len(apps) && !slices.ContainsFunc(apps, func(app string) bool { return got[app] == 0 })
	})
}

// unrepeated says that the sidecar's Envoy has sent nothing a second time.
func (m *mesh) unrepeated(t *testing.T, s *stage.Sidecar) {
	t.Helper()
	for line := range strings.Lines(m.admin(s, "/stats?filter=upstream_rq_retry$")) {
		if !strings.HasSuffix(strings.TrimSpace(line), ": 0") {
			t.Errorf("%s repeated requests: %s", s.Host.Name(), line)
		}
	}
}

// slow is a load of requests that take long.
type slow struct {
	answers []func(*testing.T) answer
	release func(*testing.T) // lets go what is held; nil where nothing is
}

// slowly sends n requests that the applications on these hosts answer after the delay, and returns when they have them.
func (m *mesh) slowly(t *testing.T, h *ground.Host, url string, n int, delay time.Duration, apps ...*ground.Host) *slow {
	t.Helper()
	return m.late(t, h, url, n, "X-Delay", delay.String(), apps...)
}

// hold is slowly for requests that are answered when they are waited for, or released: they are under way until then,
// however slow the machine is.
func (m *mesh) hold(t *testing.T, h *ground.Host, url string, n int, apps ...*ground.Host) *slow {
	t.Helper()
	id := rand.Text()
	s := m.late(t, h, url, n, "X-Hold", id, apps...)
	s.release = func(t *testing.T) {
		t.Helper()
		for _, app := range apps {
			askApp(t, app, "X-Release", id)
		}
	}
	return s
}

// late sends n requests with a header that has them answered late, and returns when the applications have them.
func (m *mesh) late(t *testing.T, h *ground.Host, url string, n int, header, value string, apps ...*ground.Host) *slow {
	t.Helper()
	delayed := func() (sum int) {
		for _, app := range apps {
			sum += askApp(t, app, "", "").Delayed
		}
		return sum
	}
	before := delayed()
	s := &slow{}
	for range n {
		s.answers = append(s.answers, later(t, h, request{Method: http.MethodPost, URL: url, Header: map[string]string{header: value}}))
	}
	m.until("the slow requests are under way", func(context.Context) bool { return delayed() >= before+n })
	return s
}

// askApp sends a request to the application on the host, past its proxy.
func askApp(t *testing.T, app *ground.Host, header, value string) stage.Seen {
	t.Helper()
	r := request{URL: "http://" + net.JoinHostPort("127.0.0.1", fmt.Sprint(appPort)) + "/"}
	if header != "" {
		r.Header = map[string]string{header: value}
	}
	return ask(t, app, r).Seen
}

// wait waits for the answers and adds them up.
func (s *slow) wait(t *testing.T) stage.Tally {
	t.Helper()
	if s.release != nil {
		s.release(t)
	}
	all := stage.Tally{Faults: map[string]int{}, ByApp: map[string]int{}}
	for _, answer := range s.answers {
		a := answer(t)
		if all.Requests++; a.Status != http.StatusOK {
			all.Failed++
			all.Faults[fmt.Sprintf("%d %.80s", a.Status, a.Body)]++
			continue
		}
		all.ByApp[a.App]++
		all.Slowest = max(all.Slowest, a.Took)
	}
	return all
}
