//go:build linux

package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/evermesh/evermesh/internal/agent/agenttest"
	"github.com/evermesh/evermesh/internal/testenv"
)

// newHome is a proxy whose agents share a network with interception and shared memory, which nobody else has. Its control
// plane listens on a socket, which is there for all networks.
func newHome(t *testing.T, envoy string, lines ...string) (p *proxy, home *running) {
	t.Helper()
	p = newProxy(t, envoy, lines...)
	p.control.Stop()
	p.serveAt(t, p.at("control.sock"))
	p.set("APPMESH_XDS_ENDPOINT=xds+unix://" + p.at("control.sock"))
	home = &running{p: p, cmd: exec.Command("sleep", "1000"), out: &testenv.Output{}, ended: make(chan struct{})}
	home.cmd.Args[0] = home.cmd.Path
	home.cmd.Stdout, home.cmd.Stderr = home.out, home.out
	(&room{Small: map[string]string{"/dev/shm": "64m"}, Net: true}).start(t, home.cmd)
	go func() { defer close(home.ended); _ = home.cmd.Wait() }()
	t.Cleanup(func() {
		_ = home.cmd.Process.Kill()
		<-home.ended
	})
	testenv.Eventually(t, "the room is furnished", func() bool {
		name, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", home.pid()))
		return home.isOver() || err == nil && strings.HasSuffix(name, filepath.Base(resolved(home.cmd.Args[1])))
	})
	if home.isOver() {
		t.Fatalf("no room: %s", home.out)
	}
	p.into = []string{"-t", strconv.Itoa(home.pid()), "-m", "-n"}
	if os.Geteuid() != 0 {
		p.into = append(p.into, "-U", "--preserve-credentials")
	}
	return p, home
}

func resolved(path string) string {
	if to, err := filepath.EvalSymlinks(path); err == nil {
		return to
	}
	return path
}

// run runs a command in the proxy's home.
func (p *proxy) run(t *testing.T, env []string, words ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "nsenter", append(append(slices.Clone(p.into), "--"), words...)...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH")}, env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", words, err, out)
	}
	return string(out)
}

// rules are the interception's.
func (p *proxy) rules(t *testing.T) string {
	t.Helper()
	return p.run(t, nil, "nft", "-s", "list", "ruleset")
}

func (p *proxy) intercept(t *testing.T) {
	t.Helper()
	p.run(t, []string{
		"APPMESH_START_ENABLED=1", "APPMESH_IGNORE_UID=1337", "APPMESH_ENVOY_EGRESS_PORT=15001", "APPMESH_ENVOY_INGRESS_PORT=15000", "APPMESH_APP_PORTS=8080",
	}, program(t), "intercept", "--backend", "nft")
}

// files are all in the proxy's directory and in its shared memory.
func (p *proxy) files(t *testing.T, home *running) (names []string) {
	t.Helper()
	for _, dir := range []string{p.dir, home.inside("/dev/shm")} {
		err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil // gone meanwhile
			}
			if name := strings.TrimPrefix(path, dir); name != "" && !strings.HasSuffix(name, ".lastgood") && !strings.HasSuffix(name, ".new") {
				names = append(names, filepath.Base(dir)+name)
			}
			return err
		})
		must(t, err)
	}
	return names
}

func entries(t *testing.T, format string, pid int) int {
	t.Helper()
	e, err := os.ReadDir(fmt.Sprintf(format, pid))
	must(t, err)
	return len(e)
}

// A hundred Envoys that are killed, by ten agents: each agent has what it had before, of descriptors, threads, processes,
// files and rules.
func TestHundredEnvoys(t *testing.T) {
	t.Parallel()
	envoys := agenttest.Envoys(t)
	const each = 10
	for i := range 10 {
		hot := i%2 == 0
		t.Run(fmt.Sprintf("agent %d, hot restart %t", i, hot), func(t *testing.T) {
			t.Parallel()
			p, home := newHome(t, envoys[i/2%len(envoys)], "APPNET_ENVOY_RESTART_COUNT=10", "EVERMESH_ENVOY_RESTART_FORGET_S=0", fmt.Sprintf("DISABLE_HOT_RESTART=%t", !hot))
			p.intercept(t)
			empty := p.files(t, home)
			r := p.start(t)
			settled := func(n int) {
				t.Helper()
				r.waitsFor(t, "all dependencies initialized. starting workers", n)
				testenv.Eventually(t, "it is kept", func() bool { return lastGood(p.at("state")) })
			}
			settled(1)
			files, rules, descriptors, threads := p.files(t, home), p.rules(t), entries(t, "/proc/%d/fd", r.pid()), 0
			if !strings.Contains(rules, "APPMESH") {
				t.Fatalf("there is no interception: %s", rules)
			}
			for n := range each {
				if n == each/2 { // the runtime has by then the threads that it is to have
					threads = entries(t, "/proc/%d/task", r.pid())
				}
				signal(t, r.envoy(t), syscall.SIGKILL)
				settled(n + 2)
			}
			testenv.Eventually(t, "as many descriptors as before", func() bool { return entries(t, "/proc/%d/fd", r.pid()) <= descriptors })
			if n := len(p.processes()); n != 2 {
				t.Errorf("%d processes, want the agent and its Envoy", n)
			}
			if n := entries(t, "/proc/%d/task", r.pid()); n >= threads+each/2 {
				t.Errorf("%d threads, when half of them were killed there were %d", n, threads)
			}
			if diff := cmp.Diff(files, p.files(t, home)); diff != "" {
				t.Errorf("files (-before +after):\n%s", diff)
			}
			r.hurries(t)
			testenv.Eventually(t, "no process is left", func() bool { return len(p.processes()) == 0 })
			if diff := cmp.Diff(empty, p.files(t, home)); diff != "" {
				t.Errorf("left of the agent (-before +after):\n%s", diff)
			}
			if diff := cmp.Diff(rules, p.rules(t)); diff != "" {
				t.Errorf("rules (-before +after):\n%s", diff)
			}
		})
	}
}

// Agents that are killed, wherever they were: Envoy is gone with them, what is left is what the documentation names, the
// next one starts, and one that ends in good order leaves nothing.
func TestKilledAgents(t *testing.T) {
	t.Parallel()
	envoys := agenttest.Envoys(t)
	const rounds = 10
	for i, hot := range []bool{true, false} {
		t.Run(fmt.Sprintf("hot restart %t", hot), func(t *testing.T) {
			t.Parallel()
			p, home := newHome(t, envoys[i%len(envoys)], fmt.Sprintf("DISABLE_HOT_RESTART=%t", !hot), "APPNET_ENVOY_LOG_DESTINATION=")
			p.intercept(t)
			empty, rules := p.files(t, home), p.rules(t)
			for n := range rounds {
				r := p.start(t)
				// A killed one in three moments: while its Envoy stands still, when it serves, and as Envoy starts.
				switch n % 3 {
				case 0:
					r.waits(t, "starting main dispatch loop")
					signal(t, r.envoy(t), syscall.SIGSTOP)
				case 1:
					r.waits(t, "all dependencies initialized. starting workers")
				case 2:
					r.waits(t, "envoy started")
				}
				signal(t, r.pid(), syscall.SIGKILL)
				testenv.Eventually(t, "the agent is gone", r.isOver)
				if hot && n%3 == 0 {
					continue // it stands still until the next agent ends it
				}
				testenv.Eventually(t, "no process is left", func() bool { return len(p.processes()) == 0 })
				var left []string
				for _, name := range p.files(t, home) {
					if !slices.Contains(empty, name) {
						left = append(left, pattern(name))
					}
				}
				if n%3 != 1 {
					continue
				}
				want := []string{"dir/agent.sock", "dir/tmp/evermesh-agent-*", "dir/tmp/evermesh-agent-*/envoy-config.yaml", "dir/tmp/evermesh-agent-*/xds.sock"}
				if hot {
					for _, kind := range []string{"child_", "parent_", "udp_child_", "udp_parent_"} {
						want = slices.Insert(want, len(want)-1, "dir/tmp/evermesh-agent-*/h_"+kind+"*")
					}
					want = append(want, "shm/envoy_shared_memory_*")
				}
				if diff := cmp.Diff(want, left); diff != "" {
					t.Errorf("left of one that was killed (-want +got):\n%s", diff)
				}
			}
			r := p.start(t)
			r.waits(t, "all dependencies initialized. starting workers")
			r.hurries(t)
			testenv.Eventually(t, "no process is left", func() bool { return len(p.processes()) == 0 })
			if diff := cmp.Diff(empty, p.files(t, home)); diff != "" {
				t.Errorf("left of all (-before +after):\n%s", diff)
			}
			if diff := cmp.Diff(rules, p.rules(t)); diff != "" {
				t.Errorf("rules (-before +after):\n%s", diff)
			}
		})
	}
}

// pattern is a file's name without what is another one each time.
func pattern(name string) string {
	parts := strings.Split(name, "/")
	if parts[0] != "shm" {
		parts[0] = "dir"
	}
	for i, part := range parts {
		for _, prefix := range []string{"evermesh-agent-", "h_child_", "h_parent_", "h_udp_child_", "h_udp_parent_", "envoy_shared_memory_"} {
			if strings.HasPrefix(part, prefix) {
				parts[i] = prefix + "*"
			}
		}
	}
	return strings.Join(parts, "/")
}
