package httpapi

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/evermesh/evermesh/internal/agent/agenttest"
	"github.com/evermesh/evermesh/internal/agent/envoyadmin"
	"github.com/evermesh/evermesh/internal/agent/settings"
	"github.com/evermesh/evermesh/internal/testenv"
)

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
	if code, _ := ask("POST", "/stats/prometheus", ""); code != 400 {
		t.Errorf("POST: got %d", code)
	}
	t.Run("Envoy refuses", func(t *testing.T) {
		f.set(503, "not now")
		for _, path := range []string{"", "?filter=metrics_extension"} {
			if code, text := ask("GET", "/stats/prometheus"+path, ""); code != 500 || !strings.Contains(text, "not now") {
				t.Errorf("got %d %s", code, text)
			}
		}
	})
}

// counted is what Envoy says when it has counted that many requests.
func counted(n int) string {
	return fmt.Sprintf("# TYPE envoy_appmesh_RequestCount counter\nenvoy_appmesh_RequestCount{Mesh=\"m\"} %d\n\n", n)
}

func TestSnapshots(t *testing.T) {
	envoy := &running{life: life{7, 0}}
	var kept *Snapshots
	log, text := agenttest.Log(t)
	f, _, ask := newTestServer(t, time.Hour, func(o *ServerOptions) {
		kept = &Snapshots{Envoy: envoy, Admin: o.Admin, Interval: time.Hour, Log: log}
		o.Snapshots = kept
	})
	delta := func(t *testing.T, want int) {
		t.Helper()
		code, got := ask("GET", "/stats/prometheus?usedonly&filter=metrics_extension&delta", "")
		if code != 200 || !strings.HasSuffix(got, fmt.Sprintf("\nRequestCount{Mesh=\"m\"} %d\n", want)) {
			t.Errorf("got %d %s, want %d", code, got, want)
		}
	}
	count := func(n int) { f.set(200, counted(n)); kept.take(t.Context()) }
	t.Run("without any the values themselves", func(t *testing.T) {
		f.set(200, counted(3))
		delta(t, 3)
	})
	t.Run("the first counts as the difference", func(t *testing.T) {
		count(10)
		f.set(200, counted(11)) // since then
		delta(t, 10)
	})
	t.Run("then what came to it", func(t *testing.T) {
		count(25)
		delta(t, 15)
		count(25)
		delta(t, 0)
		if _, got := ask("GET", "/stats/prometheus?usedonly&filter=metrics_extension", ""); !strings.HasSuffix(got, " 25\n") {
			t.Errorf("without delta: %s", got)
		}
	})
	t.Run("an Envoy that is started again begins anew", func(t *testing.T) {
		envoy.set(8, 1)
		f.set(200, counted(30))
		delta(t, 30) // no snapshot of this one yet
		count(31)
		delta(t, 31)
	})
	t.Run("when Envoy does not answer there is none, which is said once", func(t *testing.T) {
		f.set(503, "no")
		kept.take(t.Context())
		kept.take(t.Context())
		f.set(200, counted(40))
		delta(t, 40)
		if n := strings.Count(text.String(), "no snapshot of envoy's statistics"); n != 1 {
			t.Errorf("said %d times", n)
		}
	})
	t.Run("more than is kept is not kept", func(t *testing.T) {
		count(50)
		f.set(200, counted(60)+"envoy_appmesh_RequestCount{Mesh=\""+strings.Repeat("x", 60<<10)+"\"} 1\n"+strings.Repeat("envoy_appmesh_RequestCount{Mesh=\"y\"} 1\n", maxSnapshot/20))
		kept.take(t.Context())
		if _, ok := kept.delta(); ok || len(kept.whole)+len(kept.added) > 0 {
			t.Errorf("kept %d bytes", len(kept.whole))
		}
	})
	t.Run("each minute", func(t *testing.T) {
		kept.Interval = 5 * time.Millisecond
		done := make(chan struct{})
		f.set(200, counted(70))
		ctx := agenttest.Within(t)
		go func() { defer close(done); kept.Run(ctx) }()
		testenv.Eventually(t, "two are kept", func() bool { text, ok := kept.delta(); return ok && strings.HasSuffix(text, " 0\n") })
		t.Cleanup(func() { <-done })
	})
}

// An answer that Envoy breaks off must not pass for a whole one.
func TestBrokenStatistics(t *testing.T) {
	envoy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, strings.Repeat("envoy_server_live{} 1\n", 1000))
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}))
	defer envoy.Close()
	var where settings.Server
	newTestServer(t, time.Hour, func(o *ServerOptions) {
		o.Admin, where = envoyadmin.New(settings.Admin{Port: envoy.Listener.Addr().(*net.TCPAddr).Port}), o.Where
	})
	client, _ := Client(where)
	client.Timeout = 0 // the machine may be busy
	r, err := http.NewRequestWithContext(agenttest.Within(t), http.MethodGet, "http://agent/stats/prometheus", nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := client.Do(r)
	if err == nil {
		defer answer.Body.Close()
		_, err = io.ReadAll(answer.Body)
	}
	if err == nil {
		t.Error("the answer is whole")
	}
}

// Whatever Envoy says, what is kept of it is within the bound, has nothing else in it, and every line once.
func TestAnyStatistics(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		line := rapid.OneOf(
			rapid.StringMatching(`# TYPE (envoy_appmesh_)?[A-Z][a-z]{1,3} (counter|gauge|histogram)`),
			rapid.StringMatching(`(envoy_appmesh_)?[A-Z][a-z]{1,3}\{[a-z"=,]{0,9}\} [0-9]{1,3}`),
			rapid.StringMatching(`[ -~]{0,20}`),
		)
		lines := rapid.SliceOfN(line, 0, 30).Draw(t, "lines")
		limit := rapid.IntRange(0, 400).Draw(t, "limit")
		got, err := extensionFamilies(strings.NewReader(strings.Join(lines, "\n")), limit)
		whole, wholeErr := extensionFamilies(strings.NewReader(strings.Join(lines, "\n")), 1<<20)
		if wholeErr != nil {
			t.Fatal(wholeErr)
		}
		if (err == nil) != (len(whole) <= limit) || (err == nil && got != whole) {
			t.Fatalf("%d bytes of %d with limit %d: %v", len(got), len(whole), limit, err)
		}
		kept, ours := 0, false
		for _, l := range lines {
			if name, ok := strings.CutPrefix(l, "# TYPE "); ok {
				ours = strings.HasPrefix(name, extensionPrefix)
			} else if ours && strings.HasPrefix(l, extensionPrefix) {
				kept++
			}
		}
		samples := 0
		for l := range strings.Lines(whole) {
			if l != "\n" && !strings.HasPrefix(l, "# TYPE ") {
				samples++
			}
		}
		if samples != kept || strings.Contains(whole, "# TYPE "+extensionPrefix) {
			t.Fatalf("%d samples, want %d: %q", samples, kept, whole)
		}
	})
}
