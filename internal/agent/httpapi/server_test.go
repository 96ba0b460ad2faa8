package httpapi

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

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
	client.Timeout = 0 // the machine may be busy
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
	t.Run("AGENT-039 a change lasts for its own time, also when that of the one before comes as it is made", func(t *testing.T) {
		f, s, ask := newTestServer(t, time.Hour)
		ask("POST", "/enableLogging?level=debug", "")
		s.level.mu.Lock()
		before := s.level.pending
		s.level.mu.Unlock()
		ask("POST", "/enableLogging?level=trace", "")
		f.take()
		s.level.back(before)
		if asked := f.take(); asked != "" {
			t.Errorf("Envoy was asked %q", asked)
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
	_, v, ask := newTestServer(t, time.Hour)
	for name, limiter := range map[string]*rate.Limiter{"near": v.doors.near.limiter, "far": v.doors.far.limiter} {
		if limiter.Limit() != 10 || limiter.Burst() != 20 {
			t.Errorf("%s: %v a second, %d at once", name, limiter.Limit(), limiter.Burst())
		}
		limiter.SetLimit(0) // a slow machine does not ask so often
	}
	codes := map[int]int{}
	for range 40 {
		code, _ := ask("GET", "/status", "")
		codes[code]++
	}
	if codes[200] != 20 || codes[429] != 20 {
		t.Errorf("got %v", codes)
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

func TestQuit(t *testing.T) {
	quits := 0
	_, v, ask := newTestServer(t, time.Hour, func(o *ServerOptions) { o.Quit = func() { quits++ } })
	for _, test := range []struct {
		name, method, path, body string
		code                     int
	}{
		{"another method", "GET", "/quit", "", 400},
		{"a body", "POST", "/quit", "now", 400},
		{"a parameter", "POST", "/quit?now", "", 400},
		{"as it is to be asked", "POST", "/quit", "", 200},
	} {
		t.Run(test.name, func(t *testing.T) {
			before := quits
			if code, text := ask(test.method, test.path, test.body); code != test.code || quits-before != map[int]int{200: 1}[test.code] {
				t.Errorf("got %d %s, quit %d times", code, text, quits-before)
			}
		})
	}
	t.Run("over tcp from this host alone", func(t *testing.T) {
		v.Where.Network = "tcp"
		for address, code := range map[string]int{"127.0.0.1:1": 200, "[::1]:1": 200, "[::ffff:127.0.0.1]:1": 200, "10.0.0.1:1": 403, "[fd00::1]:1": 403, "": 403} {
			w := httptest.NewRecorder()
			r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/quit", nil)
			r.RemoteAddr = address
			v.quit(w, r)
			if w.Code != code {
				t.Errorf("%q: got %d", address, w.Code)
			}
		}
	})
	t.Run("not there without a way to end", func(t *testing.T) {
		_, _, ask := newTestServer(t, time.Hour)
		if code, _ := ask("POST", "/quit", ""); code != 404 {
			t.Errorf("got %d", code)
		}
	})
}

// The level of an Envoy that was started again is the first one, whatever was set before.
func TestLevelOfANewEnvoy(t *testing.T) {
	envoy := &running{life: life{7, 0}}
	f, v, ask := newTestServer(t, time.Hour, func(o *ServerOptions) { o.Health.Envoy = envoy })
	set := func(query string, code int, asked string) {
		t.Helper()
		got, text := ask("POST", "/enableLogging?level="+query, "")
		if there := f.take(); got != code || there != asked {
			t.Errorf("%s: got %d %s, Envoy was asked %q", query, got, text, there)
		}
	}
	set("debug", 200, "POST /logging?level=debug appnetClient/1.0")
	set("debug", 304, "")
	envoy.set(8, 1)
	v.level.mu.Lock()
	pending := v.level.timer != nil
	v.level.mu.Unlock()
	if !pending {
		t.Fatal("nothing is pending")
	}
	v.level.back(v.level.pending) // as when its time has come: for an Envoy that is gone
	if asked := f.take(); asked != "" {
		t.Errorf("the new Envoy was asked %q", asked)
	}
	set("info", 304, "")
	set("debug&permanent=true", 200, "POST /logging?level=debug appnetClient/1.0")
}

func TestWhereItListens(t *testing.T) {
	var o ServerOptions
	_, _, _ = newTestServer(t, time.Hour, func(p *ServerOptions) { o = *p })
	t.Run("AGENT-016 the socket is this user's alone, in a directory that was made", func(t *testing.T) {
		info, err := os.Stat(o.Where.Address)
		if err != nil || info.Mode() != os.ModeSocket|0o600 {
			t.Errorf("got %v, %v", info, err)
		}
	})
	t.Run("AGENT-049 on a socket it opens no port, over tcp one", func(t *testing.T) {
		before := listening(t)
		o.Where = settings.Server{Network: "unix", Address: filepath.Join(agenttest.ShortDir(t), "s")}
		s, err := Listen(o)
		if err != nil {
			t.Fatal(err)
		}
		if got := listening(t); got != before {
			t.Errorf("%d ports more", got-before)
		}
		s.Close()
		o.Where = settings.Server{Network: "tcp", Address: "127.0.0.1:0"}
		if s, err = Listen(o); err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if got := listening(t); got != before+1 {
			t.Errorf("%d ports more", got-before)
		}
	})
	t.Run("not where somebody else does", func(t *testing.T) {
		again := o
		again.Where = settings.Server{Network: "unix", Address: filepath.Join(agenttest.ShortDir(t), "s")}
		first, err := Listen(again)
		if err != nil {
			t.Fatal(err)
		}
		defer first.Close()
		if _, err := Listen(again); err == nil || !strings.Contains(err.Error(), "APPNET_AGENT_ADMIN_UDS_PATH: ") {
			t.Errorf("got %v", err)
		}
	})
}

// listening is how many TCP sockets of this process take connections.
func listening(t *testing.T) int {
	t.Helper()
	files, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, file := range files {
		fd, err := strconv.Atoi(filepath.Base(file))
		if err != nil {
			t.Fatal(err)
		}
		domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
		if err != nil || (domain != unix.AF_INET && domain != unix.AF_INET6) {
			continue
		}
		if on, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err == nil && on == 1 {
			n++
		}
	}
	return n
}
