package agent

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/evermesh/evermesh/internal/testenv"
)

// part is the variable that makes this test program play a part: "envoy", a stub that takes Envoy's arguments, or
// "agent", an agent that may be killed.
const part = "AGENT_TEST_PART"

// wait bounds everything that is expected to happen at once.
const wait = 20 * time.Second

func TestMain(m *testing.M) {
	switch os.Getenv(part) {
	case "envoy":
		os.Exit(stubEnvoy())
	case "agent":
		os.Exit(playAgent())
	}
	goleak.VerifyTestMain(m)
}

// playAgent is the program without its command line; its Envoy is the stub, unless ENVOY_PATH says otherwise.
func playAgent() int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	s, err := Parse(os.Getenv, Flags{}, os.Getuid())
	if err == nil {
		if s.EnvoyPath == "/proc/self/exe" {
			os.Setenv(part, "envoy")
		}
		err = Run(ctx, s, Program{Version: "test", Stdout: os.Stdout, Stderr: os.Stderr, Log: NewLog(os.Stderr, s.LogLevel)})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func pause(t *testing.T) {
	timer := time.NewTimer(10 * time.Millisecond)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.Context().Done():
	}
}

// within is a context that ends what hangs.
func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	t.Cleanup(cancel)
	return ctx
}

// envoys are the real ones on this machine, by version; the first is the one to run.
func envoys(t *testing.T) []string {
	t.Helper()
	found := []string{testenv.Envoy(t)}
	root := filepath.Join("..", "..", "build", "tools")
	others, err := filepath.Glob(filepath.Join(root, "envoy-*", "envoy"))
	if err != nil {
		t.Fatal(err)
	}
	for i, path := range append(found, others...) {
		absolute, err := filepath.Abs(path)
		if err != nil {
			t.Fatal(err)
		}
		if i < len(found) {
			found[i] = absolute
		} else {
			found = append(found, absolute)
		}
	}
	return found
}

// freePort is one that nobody listens on now.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// shortDir is a directory whose path leaves room for a socket's name.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "agent")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// newTestLog is a log that the test's output shows when it fails, and whose lines the test may look at.
func newTestLog(t *testing.T) (*slog.Logger, *testenv.Output) {
	l := &testenv.Output{}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(l.String())
		}
	})
	return NewLog(l, "debug"), l
}

// environment is a getenv of lines "K=V".
func environment(lines ...string) func(string) string {
	m := map[string]string{}
	for _, line := range lines {
		name, value, _ := strings.Cut(line, "=")
		m[name] = value
	}
	return func(name string) string { return m[name] }
}

func number(t *testing.T, s string) int {
	t.Helper()
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
