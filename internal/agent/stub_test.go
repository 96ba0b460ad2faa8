package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/agent/agenttest"
	"github.com/evermesh/evermesh/internal/agent/settings"
	"github.com/evermesh/evermesh/internal/testenv"
)

// The stub's variables: STUB_DIR takes the file events, one line for each thing that happened to it; STUB_DO is what
// the n-th start does, words separated by commas, the last one for all later ones: run, exit (with code 3), crash (by
// a signal), segfault, deaf (runs without an administration interface), stubborn (runs and ignores SIGTERM), mute (runs,
// and its administration interface falls silent after 3 s), early (is not live), orphan (leaves a process
// behind and exits). STUB_OPEN is a file with the number of open requests; one with .asked behind its name has a dot
// for each time that there were some and that was asked for.
func stubEnvoy() int {
	dir := os.Getenv("STUB_DIR")
	events, err := os.OpenFile(filepath.Join(dir, "events"), os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o644)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer events.Close()
	text, err := os.ReadFile(events.Name())
	if err != nil {
		return 1
	}
	do := strings.Split(os.Getenv("STUB_DO"), ",")
	what := do[min(strings.Count(string(text), "start pid="), len(do)-1)]
	var files syscall.Rlimit
	_ = syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files)
	fmt.Fprintf(events, "start pid=%d files=%t args=%s\n", os.Getpid(), files.Cur == files.Max, strings.Join(os.Args[1:], " "))
	switch what {
	case "exit":
		return 3
	case "crash":
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	case "segfault":
		if err := syscall.Exec("/bin/sh", []string{"sh", "-c", "kill -SEGV $$"}, os.Environ()); err != nil {
			return 1
		}
	case "orphan":
		orphan := exec.Command("/bin/sh", "-c", "sleep 0.2 & echo orphan pid=$! >&3")
		orphan.ExtraFiles = []*os.File{events}
		if err := orphan.Run(); err != nil {
			return 1
		}
		return 3
	case "deaf":
	default:
		l, err := net.Listen("tcp", "127.0.0.1:"+os.Getenv("ENVOY_ADMIN_ACCESS_PORT"))
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		go http.Serve(l, stubAdmin(events, what))
	}
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	fmt.Fprintln(events, "ready")
	for {
		<-term
		fmt.Fprintln(events, "term")
		if what != "stubborn" {
			return 0
		}
	}
}

func stubAdmin(events *os.File, what string) http.Handler {
	started := time.Now()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if what == "mute" && time.Since(started) > 3*time.Second {
			<-r.Context().Done()
			return
		}
		switch r.URL.Path {
		case "/ready":
			if what == "early" {
				fmt.Fprintln(w, "PRE_INITIALIZING")
				return
			}
			fmt.Fprintln(w, "LIVE")
		case "/drain_listeners", "/logging", "/healthcheck/fail":
			fmt.Fprintf(events, "%s %s\n", r.Method, r.URL.RequestURI())
			fmt.Fprintln(w, "OK")
		case "/stats":
			text, _ := os.ReadFile(os.Getenv("STUB_OPEN"))
			n, _ := strconv.Atoi(strings.TrimSpace(string(text)))
			if n > 0 {
				if asked, err := os.OpenFile(os.Getenv("STUB_OPEN")+".asked", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err == nil {
					_, _ = asked.WriteString(".")
					_ = asked.Close()
				}
			}
			fmt.Fprintf(w, `{"stats":[{"name":"http.ingress.downstream_rq_active","value":%d},{"name":"http.admin.downstream_rq_active","value":1}]}`, n)
		default:
			http.NotFound(w, r)
		}
	})
}

// stub is one stub's life as a test sees it.
type stub struct {
	dir   string
	admin int
	lines []string // of the environment
}

func newStub(t *testing.T, do string, lines ...string) *stub {
	t.Helper()
	s := &stub{dir: agenttest.ShortDir(t), admin: testenv.FreePort(t)}
	s.lines = append([]string{
		part + "=envoy", "STUB_DIR=" + s.dir, "STUB_DO=" + do, "ENVOY_PATH=/proc/self/exe",
		"ENVOY_ADMIN_ACCESS_PORT=" + strconv.Itoa(s.admin), "LISTENER_DRAIN_WAIT_TIME_S=5", "TMPDIR=" + s.dir,
		"APPMESH_RESOURCE_ARN=mesh/m/virtualNode/n", "APPMESH_XDS_ENDPOINT=http://127.0.0.1:1", "AWS_REGION=us-east-1", "AWS_EC2_METADATA_DISABLED=true",
		"EVERMESH_ENVOY_RESTART_DELAY_MS=1",
	}, lines...)
	return s
}

// run is Run with the stub's settings, until ctx ends.
func (s *stub) run(ctx context.Context, t *testing.T) (*testenv.Output, error) {
	t.Helper()
	for _, line := range s.lines {
		name, value, _ := strings.Cut(line, "=")
		t.Setenv(name, value)
	}
	settings, err := settings.Parse(os.Getenv, settings.Flags{}, os.Getuid())
	if err != nil {
		t.Fatal(err)
	}
	log, text := agenttest.Log(t)
	return text, Run(ctx, settings, Program{Version: "test", Args: []string{"--extra", "1"}, Stdout: os.Stdout, Stderr: os.Stderr, Log: log})
}

func (s *stub) events() string {
	text, err := os.ReadFile(filepath.Join(s.dir, "events"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err.Error()
	}
	return string(text)
}

// happens calls do once when the events hold that text, and the returned function waits for it.
func (s *stub) happens(t *testing.T, text string, times int, do func()) (waited func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for deadline := time.Now().Add(agenttest.Wait); time.Now().Before(deadline); agenttest.Tick(t) {
			if strings.Count(s.events(), text) >= times {
				do()
				return
			}
		}
		t.Errorf("not in %s: %q %d times, but\n%s", agenttest.Wait, text, times, s.events())
		do()
	}()
	return func() { <-done }
}
