//go:build linux

package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/evermesh/evermesh/internal/agent/agenttest"
	"github.com/evermesh/evermesh/internal/testenv"
)

// proxy is what a test starts agents of: one node, one directory, one control plane.
type proxy struct {
	*words
	control *agenttest.ControlPlane
	dir     string // holds tmp, state, log and the sockets
	admin   int
	room    *room
	into    []string // nsenter's arguments, for the room of another process
	lines   []string // of the environment
}

// newProxy has a control plane that says "first".
func newProxy(t *testing.T, envoy string, lines ...string) *proxy {
	t.Helper()
	p := &proxy{dir: agenttest.ShortDir(t), admin: testenv.FreePort(t), words: newWords(testenv.FreePort(t), "first")}
	p.serveAt(t, "")
	for _, dir := range []string{"tmp", "state", "log"} {
		if err := os.Mkdir(p.at(dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	p.lines = append([]string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + p.dir, "TMPDIR=" + p.at("tmp"), "EVERMESH_STATE_DIR=" + p.at("state"),
		"APPNET_AGENT_ADMIN_MODE=uds", "APPNET_AGENT_ADMIN_UDS_PATH=" + p.at("agent.sock"),
		"APPMESH_RESOURCE_ARN=mesh/m/virtualNode/n", "APPMESH_XDS_ENDPOINT=http://" + p.control.Addr, "AWS_REGION=us-east-1", "AWS_EC2_METADATA_DISABLED=true",
		"AWS_ACCESS_KEY_ID=k", "AWS_SECRET_ACCESS_KEY=s",
		"ENVOY_PATH=" + envoy, "ENVOY_CONCURRENCY=1", "ENVOY_LOG_LEVEL=info", "ENVOY_ADMIN_ACCESS_PORT=" + strconv.Itoa(p.admin),
		"ENVOY_ADMIN_ACCESS_LOG_FILE=/dev/null", "ENVOY_OUTLIER_DETECTION_EVENT_LOG_PATH=/dev/null",
		"LISTENER_DRAIN_WAIT_TIME_S=5", "HC_POLL_INTERVAL_MS=2000", "EVERMESH_ENVOY_RESTART_DELAY_MS=1",
	}, lines...)
	return p
}

// serveAt has the control plane serve, at the address of the one before.
func (p *proxy) serveAt(t *testing.T, address string, options ...grpc.ServerOption) {
	t.Helper()
	p.control = agenttest.NewControlPlane(t, address, options...)
	p.control.ServeDelta(p.serve)
}

func (p *proxy) at(name string) string { return filepath.Join(p.dir, name) }

// set adds to the environment; the last line of a name counts.
func (p *proxy) set(lines ...string) { p.lines = append(p.lines, lines...) }

// program is evermesh-agent as it ships.
func program(t *testing.T) string {
	t.Helper()
	root, err := testenv.Root()
	must(t, err)
	file := filepath.Join(root, "bin", "evermesh-agent")
	if _, err := os.Stat(file); err != nil {
		t.Fatalf("%v: make build", err)
	}
	return file
}

// running is one evermesh-agent.
type running struct {
	p     *proxy
	cmd   *exec.Cmd
	out   *testenv.Output
	ended chan struct{}
}

// start starts an agent, which is gone when the test ends.
func (p *proxy) start(t *testing.T, args ...string) *running {
	t.Helper()
	words := append([]string{program(t)}, args...)
	if p.into != nil {
		words = append(append(append([]string{"nsenter"}, p.into...), "--"), words...)
	}
	r := &running{p: p, cmd: exec.Command(words[0], words[1:]...), out: &testenv.Output{}, ended: make(chan struct{})}
	r.cmd.Env = p.lines
	r.cmd.Stdout, r.cmd.Stderr = r.out, r.out
	r.cmd.WaitDelay = time.Second
	p.room.start(t, r.cmd)
	go func() { defer close(r.ended); _ = r.cmd.Wait() }()
	t.Cleanup(func() {
		_ = r.cmd.Process.Kill()
		<-r.ended
		if t.Failed() {
			lines := strings.Split(r.out.String(), "\n")
			t.Logf("the agent said:\n%s", strings.Join(slices.DeleteFunc(lines, func(l string) bool { return strings.Contains(l, "[main] [source/server/server.cc:4") }), "\n"))
		}
	})
	return r
}

func (r *running) pid() int { return r.cmd.Process.Pid }

// inside is a path as the agent sees it, in its room.
func (r *running) inside(path string) string { return fmt.Sprintf("/proc/%d/root%s", r.pid(), path) }

func (r *running) tell(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := r.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatal(err)
	}
}

func (r *running) says(text string) bool { return strings.Contains(r.out.String(), text) }

// waits until the agent, or its Envoy, has said that.
func (r *running) waits(t *testing.T, text string) {
	t.Helper()
	r.waitsFor(t, text, 1)
}

func (r *running) waitsFor(t *testing.T, text string, times int) {
	t.Helper()
	testenv.Eventually(t, text, func() bool { return strings.Count(r.out.String(), text) >= times || r.isOver() })
	if n := strings.Count(r.out.String(), text); n < times {
		t.Fatalf("it ended, and said %q %d times", text, n)
	}
}

func (r *running) isOver() bool {
	select {
	case <-r.ended:
		return true
	default:
		return false
	}
}

// ends waits for the agent's end, and wants that exit code.
func (r *running) ends(t *testing.T, code int) (took time.Duration) {
	t.Helper()
	began := time.Now()
	testenv.Eventually(t, "the agent's end", r.isOver)
	if got := r.cmd.ProcessState.ExitCode(); got != code {
		t.Errorf("%s, want exit code %d", r.cmd.ProcessState, code)
	}
	return time.Since(began)
}

// hurries ends the agent without a drain.
func (r *running) hurries(t *testing.T) {
	t.Helper()
	r.tell(t, syscall.SIGTERM)
	testenv.Eventually(t, "it drains, or has nothing to drain", func() bool { return r.says("draining envoy") || r.isOver() })
	r.tell(t, syscall.SIGTERM)
	r.ends(t, 0)
}

// word is what a request is answered with, "" when it fails.
func (p *proxy) ask(ctx context.Context) string {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/", p.port), nil)
	if err != nil {
		return ""
	}
	r.Close = true
	answer, err := (&http.Client{Transport: &http.Transport{}, Timeout: agenttest.Wait}).Do(r)
	if err != nil {
		return ""
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK {
		return ""
	}
	return string(text)
}

// serves waits until the n-th Envoy of the agent answers with the word, or a later one, and returns its pid.
func (r *running) serves(t *testing.T, n int, word string) int {
	t.Helper()
	testenv.Eventually(t, "an Envoy that says "+word, func() bool {
		return r.isOver() || strings.Count(r.out.String(), "envoy started") >= n && r.p.ask(t.Context()) == word
	})
	if r.isOver() {
		t.Fatalf("the agent ended: %s", r.cmd.ProcessState)
	}
	return r.envoy(t)
}

// envoy is the pid of the Envoy that was started last.
func (r *running) envoy(t *testing.T) (pid int) {
	t.Helper()
	text := r.out.String()
	_, rest, found := strings.Cut(text[max(strings.LastIndex(text, "envoy started"), 0):], "pid=")
	if _, err := fmt.Sscanf(rest, "%d", &pid); !found || err != nil {
		t.Fatalf("no Envoy was started: %v", err)
	}
	return pid
}

func signal(t *testing.T, pid int, s syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(pid, s); err != nil {
		t.Fatal(err)
	}
}

// processes are those of agents of this proxy, whoever is their parent by now: their environment names its directory.
func (p *proxy) processes() (pids []int) {
	files, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil || !bytes.Contains(text, []byte("HOME="+p.dir+"\x00")) {
			continue // gone, or another's
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(f))); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// left are the files in the proxy's directory, but for those that are to stay: the last good configuration.
func (p *proxy) left(t *testing.T) (files []string) {
	t.Helper()
	err := filepath.WalkDir(p.dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name, _ := filepath.Rel(p.dir, path); !d.IsDir() && !strings.HasSuffix(name, ".lastgood") || strings.HasPrefix(name, "tmp/") {
			files = append(files, name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// wantNothingLeft wants no process and no file of agents that have ended.
func (p *proxy) wantNothingLeft(t *testing.T) {
	t.Helper()
	testenv.Eventually(t, "no process is left", func() bool { return len(p.processes()) == 0 })
	if files := p.left(t); len(files) > 0 {
		t.Errorf("left: %q", files)
	}
}
