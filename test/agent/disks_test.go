//go:build linux

package agent

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/evermesh/evermesh/internal/agent/agenttest"
	"github.com/evermesh/evermesh/internal/testenv"
)

// in are the files of the state directory, or of the one of the agent's own in it, where others may write into it.
func in(dir, pattern string) []string {
	given, _ := filepath.Glob(filepath.Join(dir, pattern)) // the patterns are well formed
	own, _ := filepath.Glob(filepath.Join(dir, "evermesh-state-*", pattern))
	return append(given, own...)
}

// lastGood says whether the state directory, as a test sees it, holds a whole file and nothing half written.
func lastGood(dir string) bool {
	whole, half := in(dir, "*.lastgood"), in(dir, "*.new")
	return len(whole) == 1 && len(half) == 0
}

// Disks without a free byte at the start: the agent and its Envoy serve, say what they lack, and take it when there is
// space again.
func TestFullDisks(t *testing.T) {
	t.Parallel()
	envoys := agenttest.Envoys(t)
	t.Run("the one for temporary files: shared memory is used", func(t *testing.T) {
		t.Parallel()
		p := newProxy(t, envoys[0])
		p.room = &room{Small: map[string]string{p.at("tmp"): "512k", "/dev/shm": "16m"}, Full: []string{p.at("tmp")}}
		p.set("ENVOY_ADMIN_ACCESS_LOG_FILE=" + p.at("tmp/admin.log"))
		r := p.start(t)
		signal(t, r.serves(t, 1, "first"), syscall.SIGKILL)
		r.serves(t, 2, "first")
		if !r.says("cannot write to the directory for temporary files: shared memory is used") {
			t.Error("the log does not say where it is")
		}
		r.hurries(t)
	})
	t.Run("that one and shared memory: it says so, and ends", func(t *testing.T) {
		t.Parallel()
		p := newProxy(t, envoys[0])
		p.room = &room{Small: map[string]string{p.at("tmp"): "512k", "/dev/shm": "128k"}, Full: []string{p.at("tmp"), "/dev/shm"}}
		r := p.start(t)
		r.ends(t, 1)
		if n := strings.Count(r.out.String(), "no space left on device"); n != 2 || r.says("envoy started") {
			t.Errorf("%d of 2 places are told to be full", n)
		}
	})
	t.Run("the one that fills while Envoy runs: the next one starts all the same", func(t *testing.T) {
		t.Parallel()
		p := newProxy(t, envoys[len(envoys)-1])
		p.room = &room{Small: map[string]string{p.at("tmp"): "1m", "/dev/shm": "16m"}}
		p.set("ENVOY_ADMIN_ACCESS_LOG_FILE=" + p.at("tmp/admin.log"))
		r := p.start(t)
		pid := r.serves(t, 1, "first")
		must(t, fill(r.inside(p.at("tmp"))))
		p.say("second")
		r.serves(t, 1, "second")
		signal(t, pid, syscall.SIGKILL)
		r.serves(t, 2, "second")
		r.hurries(t)
	})
	t.Run("the one of the last good configuration: the next change is kept when there is space", func(t *testing.T) {
		t.Parallel()
		p := newProxy(t, envoys[0])
		p.room = &room{Small: map[string]string{p.at("state"): "512k"}, Full: []string{p.at("state")}}
		r := p.start(t)
		r.serves(t, 1, "first")
		r.waits(t, "the last good configuration cannot be kept on disk")
		if lastGood(r.inside(p.at("state"))) {
			t.Error("it is kept on a full disk")
		}
		must(t, empty(r.inside(p.at("state"))))
		p.say("second")
		r.serves(t, 1, "second")
		testenv.Eventually(t, "it is kept", func() bool { return lastGood(r.inside(p.at("state"))) })

		// And full again: what was kept stays whole, and an Envoy that is killed has the newest from memory.
		before := kept(t, r.inside(p.at("state")))
		must(t, fill(r.inside(p.at("state"))))
		p.say("third")
		r.serves(t, 1, "third")
		r.waitsFor(t, "the last good configuration cannot be kept on disk", 2)
		if after := kept(t, r.inside(p.at("state"))); after != before {
			t.Error("what was kept was changed")
		}
		p.control.Stop()
		signal(t, r.envoy(t), syscall.SIGKILL)
		r.serves(t, 2, "third")
		r.hurries(t)
	})
	t.Run("the one of the log: what it does not take goes to standard error, until it does", func(t *testing.T) {
		t.Parallel()
		p := newProxy(t, envoys[0])
		p.room = &room{Small: map[string]string{p.at("log"): "512k"}}
		p.set("APPNET_ENVOY_LOG_DESTINATION=" + p.at("log"))
		r := p.start(t)
		file := r.inside(p.at("log/appnet_envoy.log"))
		testenv.Eventually(t, "an Envoy that serves", func() bool { return p.ask(t.Context()) == "first" })
		pid := envoyIn(t, file)
		must(t, fill(r.inside(p.at("log"))))
		signal(t, pid, syscall.SIGKILL)
		r.waits(t, "cannot write to the log file")
		r.waits(t, "starting main dispatch loop") // Envoy's own words
		testenv.Eventually(t, "another Envoy serves", func() bool { return p.ask(t.Context()) == "first" })
		must(t, empty(r.inside(p.at("log"))))
		p.say("second")
		testenv.Eventually(t, "the new word", func() bool { return p.ask(t.Context()) == "second" })
		testenv.Eventually(t, "the file takes lines again", func() bool {
			text, err := os.ReadFile(file)
			return err == nil && strings.Contains(string(text), "lds: add/update listener 'word'") && strings.Count(string(text), "lds: add/update") >= 2
		})
		r.tell(t, syscall.SIGTERM)
		r.tell(t, syscall.SIGTERM)
		r.ends(t, 0)
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// kept is the text of the last good configuration.
func kept(t *testing.T, dir string) string {
	t.Helper()
	files := in(dir, "*.lastgood")
	if len(files) != 1 {
		t.Fatalf("kept: %q", files)
	}
	text, err := os.ReadFile(files[0])
	must(t, err)
	return string(text)
}

func envoyIn(t *testing.T, file string) int {
	t.Helper()
	text, err := os.ReadFile(file)
	must(t, err)
	r := running{out: &testenv.Output{}}
	_, err = r.out.Write(text)
	must(t, err)
	return r.envoy(t)
}

// A root file system that is read-only, as containers have it by readonlyRootFilesystem.
func TestReadOnly(t *testing.T) {
	t.Parallel()
	envoys := agenttest.Envoys(t)
	t.Run("all but shared memory, with a last good configuration and no control plane", func(t *testing.T) {
		t.Parallel()
		p := newProxy(t, envoys[0])
		p.set("APPNET_AGENT_ADMIN_MODE=", "APPNET_ENVOY_LOG_DESTINATION=")
		r := p.start(t)
		r.serves(t, 1, "first")
		testenv.Eventually(t, "it is kept", func() bool { return lastGood(p.at("state")) })
		r.hurries(t)
		p.control.Stop()

		p.room = &room{Small: map[string]string{"/dev/shm": "16m"}, ReadOnly: true}
		p.set("APPNET_ENVOY_LOG_DESTINATION="+p.at("log"), "ENVOY_ADMIN_ACCESS_LOG_FILE="+p.at("admin.log"))
		r = p.start(t)
		signal(t, r.serves(t, 1, "first"), syscall.SIGKILL)
		r.serves(t, 2, "first")
		for _, text := range []string{
			"the last good configuration is served", "no log file in APPNET_ENVOY_LOG_DESTINATION: the standard streams are used",
			"cannot write ENVOY_ADMIN_ACCESS_LOG_FILE", "cannot write to the directory for temporary files: shared memory is used",
		} {
			if !r.says(text) {
				t.Errorf("the log does not say %q", text)
			}
		}
		p.serveAt(t, p.control.Addr)
		p.say("second")
		r.serves(t, 2, "second")
		r.waits(t, "the last good configuration cannot be kept on disk")
		r.hurries(t)
		p.wantNothingLeft(t)
	})
	t.Run("all of it: one line says so", func(t *testing.T) {
		t.Parallel()
		p := newProxy(t, envoys[0])
		p.room = &room{ReadOnly: true}
		r := p.start(t)
		r.ends(t, 1)
		if !r.says("evermesh-agent: make the agent's directory: ") || strings.Count(r.out.String(), "read-only file system") != 2 {
			t.Error("the log does not say why")
		}
		p.wantNothingLeft(t)
	})
	t.Run("a socket of the agent's own that cannot be made is named", func(t *testing.T) {
		t.Parallel()
		p := newProxy(t, envoys[0])
		p.room = &room{Small: map[string]string{"/dev/shm": "16m"}, ReadOnly: true}
		r := p.start(t)
		testenv.Eventually(t, "an end", r.isOver)
		if code := r.cmd.ProcessState.ExitCode(); code != 2 || !r.says("APPNET_AGENT_ADMIN_UDS_PATH") || r.says("envoy started") {
			t.Errorf("exit code %d, or it is not named", code)
		}
		if _, err := os.Stat(p.at("agent.sock")); !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
	})
}
