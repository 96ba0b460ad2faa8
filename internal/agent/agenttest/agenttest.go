// Package agenttest is what the tests of the agent's packages share.
package agenttest

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/agent/logs"
	"github.com/evermesh/evermesh/internal/agent/pause"
	"github.com/evermesh/evermesh/internal/testenv"
)

// Wait bounds what is expected to end by itself, such as an agent that drains for some seconds.
const Wait = 2 * testenv.Patience

// Within is a context that ends what hangs.
func Within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), Wait)
	t.Cleanup(cancel)
	return ctx
}

// Tick waits a moment between two looks at what is expected to happen.
func Tick(t testing.TB) { _ = pause.For(t.Context(), 10*time.Millisecond) }

// Envoys are the real ones on this machine, by version; the first is the one to run.
func Envoys(t testing.TB) []string {
	t.Helper()
	first, err := filepath.Abs(testenv.Envoy(t))
	if err != nil {
		t.Fatal(err)
	}
	root, err := testenv.Root()
	if err != nil {
		t.Fatal(err)
	}
	others, err := filepath.Glob(filepath.Join(root, "build", "tools", "envoy-*", "envoy"))
	if err != nil {
		t.Fatal(err)
	}
	return append([]string{first}, others...)
}

// ShortDir is a directory whose path leaves room for a socket's name.
func ShortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "agent")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// Log is a log that the test's output shows when it fails, and whose lines the test may look at.
func Log(t testing.TB) (*slog.Logger, *testenv.Output) {
	l := &testenv.Output{}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(l.String())
		}
	})
	return logs.New(l, "debug"), l
}

// Environment is a getenv of lines "K=V".
func Environment(lines ...string) func(string) string {
	m := map[string]string{}
	for _, line := range lines {
		name, value, _ := strings.Cut(line, "=")
		m[name] = value
	}
	return func(name string) string { return m[name] }
}
