//go:build linux

package stage

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/testenv"
	"github.com/evermesh/evermesh/test/ground"
)

func TestMain(m *testing.M) {
	Play()
	m.Run()
}

// newApp starts an application as a process of a bare ground and returns its URL.
func newApp(t *testing.T, g *ground.Ground, a App) {
	t.Helper()
	s := &Stage{Ground: g, Programs: Programs{self: "/proc/self/exe"}}
	if _, err := s.App(g.Home(), a); err != nil {
		t.Fatal(err)
	}
}

func bare(t *testing.T) *ground.Ground {
	t.Helper()
	g, err := ground.Bare()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	return g
}

func TestAppDoesAsHeadersSay(t *testing.T) {
	addr := testenv.FreeAddress(t)
	newApp(t, bare(t), App{Name: "blue", Listen: []string{addr}})
	for _, c := range []struct {
		name   string
		header map[string]string
		times  int
		want   []int // statuses; 0 is a broken connection
		tries  []int
	}{
		{name: "nothing", times: 1, want: []int{200}, tries: []int{0}},
		{name: "a status", header: map[string]string{"X-Status": "409"}, times: 1, want: []int{409}, tries: []int{0}},
		{name: "two failures", header: map[string]string{"X-Fail": "a,2"}, times: 3, want: []int{503, 503, 200}, tries: []int{1, 2, 3}},
		{name: "a failure of a kind", header: map[string]string{"X-Fail": "b,1", "X-Status": "500"}, times: 2, want: []int{500, 200}, tries: []int{1, 2}},
		{name: "a broken connection", header: map[string]string{"X-Reset": "c,1"}, times: 2, want: []int{0, 200}, tries: []int{0, 2}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for n := range c.times {
				req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+addr+"/a?b=c", http.NoBody)
				if err != nil {
					t.Fatal(err)
				}
				for name, value := range c.header {
					req.Header.Set(name, value)
				}
				client := &http.Client{Transport: &http.Transport{}}
				resp, err := client.Do(req)
				if (err != nil) != (c.want[n] == 0) {
					t.Fatalf("request %d: %v", n+1, err)
				}
				if err != nil {
					continue
				}
				var seen Seen
				if err := json.NewDecoder(resp.Body).Decode(&seen); err != nil {
					t.Fatal(err)
				}
				resp.Body.Close()
				client.CloseIdleConnections()
				if resp.StatusCode != c.want[n] || seen.Try != c.tries[n] || seen.Path != "/a?b=c" || resp.Header.Get("X-App") != "blue" {
					t.Errorf("request %d: %d %+v, want %d and try %d", n+1, resp.StatusCode, seen, c.want[n], c.tries[n])
				}
			}
		})
	}
}

func TestAppHoldsARequestUntilItIsReleased(t *testing.T) {
	addr := testenv.FreeAddress(t)
	newApp(t, bare(t), App{Name: "blue", Listen: []string{addr}})
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	ask := func(header, id string) (seen Seen) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+addr+"/", http.NoBody)
		if err != nil {
			t.Error(err)
			return seen
		}
		req.Header.Set(header, id)
		resp, err := client.Do(req)
		if err != nil {
			t.Error(err)
			return seen
		}
		defer resp.Body.Close()
		if err := json.NewDecoder(resp.Body).Decode(&seen); err != nil {
			t.Error(err)
		}
		return seen
	}
	answered := make(chan struct{}, 2)
	for range 2 {
		go func() { ask("X-Hold", "a"); answered <- struct{}{} }()
	}
	testenv.Eventually(t, "both are held", func() bool { return ask("X-Release", "b").Delayed == 2 })
	if len(answered) > 0 {
		t.Error("one was answered before")
	}
	ask("X-Release", "a")
	for range 2 {
		<-answered
	}
	ask("X-Hold", "a") // what comes later is not held
}

func TestSteadyCountsWhatACallerPassesOn(t *testing.T) {
	g := bare(t)
	back, front := testenv.FreeAddress(t), testenv.FreeAddress(t)
	newApp(t, g, App{Name: "back", Listen: []string{back}})
	newApp(t, g, App{Name: "front", Listen: []string{front}, Calls: "http://" + back + "/"})

	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	steady := NewSteady(g.Home(), "http://"+front+"/", 2, time.Millisecond)
	defer steady.Stop()
	if err := steady.Wait(ctx, time.Time{}, 50); err != nil {
		t.Fatal(err)
	}
	if c := steady.Count(time.Time{}, time.Time{}); c.Failed > 0 || c.ByApp["front back"] != c.Requests {
		t.Errorf("counted %+v", c)
	}
	// Without the one behind, every answer is a 502, and counted as such.
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	from := time.Now()
	if err := steady.Wait(ctx, from, 10); err != nil {
		t.Fatal(err)
	}
	steady.Stop()
	if c := steady.Count(from, time.Time{}); c.Failed != c.Requests || len(c.ByApp) > 0 {
		t.Errorf("counted %+v", c)
	}
}

func TestAppIsIllForWhoChecksItsHealth(t *testing.T) {
	addr := testenv.FreeAddress(t)
	newApp(t, bare(t), App{Name: "blue", Listen: []string{addr}})
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	for n, c := range []struct {
		path, header string
		want         int
	}{{"/health", "", 200}, {"/", "503", 200}, {"/health", "", 503}, {"/other", "", 200}, {"/", "200", 200}, {"/health", "", 200}} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+addr+c.path, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		if c.header != "" {
			req.Header.Set("X-Health", c.header)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if resp.Body.Close(); resp.StatusCode != c.want {
			t.Errorf("request %d, %+v: %d", n+1, c, resp.StatusCode)
		}
	}
}

// What Steady loses is lost: it sends nothing a second time, neither by itself nor by net/http, which repeats requests
// of other methods when a connection that it kept breaks.
func TestSteadyNeverRepeats(t *testing.T) {
	var arrived, lost atomic.Int64
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			t.Errorf("a %s arrived", r.Method)
		}
		switch n := arrived.Add(1); {
		case n%5 == 0: // after the connection was used, and before it is used again
			lost.Add(1)
			panic(http.ErrAbortHandler)
		case n%7 == 0:
			w.Header().Set("Connection", "close")
		}
	}))
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	server.Start()
	defer server.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	steady := NewSteady(bare(t).Home(), server.URL, 4, time.Millisecond)
	defer steady.Stop()
	if err := steady.Wait(ctx, time.Time{}, 300); err != nil {
		t.Fatal(err)
	}
	steady.Stop()
	c := steady.Count(time.Time{}, time.Time{})
	if int64(c.Requests) != arrived.Load() || int64(c.Failed) != lost.Load() || c.Failed == 0 {
		t.Errorf("counted %d requests and %d failures, of %d that arrived and %d that were lost: %v", c.Requests, c.Failed, arrived.Load(), lost.Load(), c.Faults)
	}
}
