package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/evermesh/evermesh/internal/intercept"
	"github.com/evermesh/evermesh/internal/testenv"
	"github.com/evermesh/evermesh/test/ground"
)

// part is the variable that makes this test program the agent itself.
const part = "AGENT_TEST_PART"

func TestMain(m *testing.M) {
	if os.Getenv(part) != "" {
		main()
	}
	exit, inside, err := ground.Enter(context.Background())
	if err != nil {
		// Only what touches the kernel needs the ground, and says what is missing.
		fmt.Fprintln(os.Stderr, err)
		os.Exit(m.Run())
	}
	if !inside {
		os.Exit(exit)
	}
	os.Exit(m.Run())
}

// call is run with what it printed.
func call(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var files [2]*os.File
	for i := range files {
		f, err := os.CreateTemp(t.TempDir(), "out")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files[i] = f
	}
	code = run(t.Context(), args, streams{strings.NewReader(""), files[0], files[1]}, signals{})
	var texts [2]string
	for i, f := range files {
		text, err := os.ReadFile(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		texts[i] = string(text)
	}
	return code, texts[0], texts[1]
}

func TestCommandLine(t *testing.T) {
	for _, name := range []string{"APPMESH_RESOURCE_ARN", "APPMESH_RESOURCE_NAME", "APPMESH_VIRTUAL_NODE_NAME", "APPMESH_IGNORE_UID", "APPMESH_IGNORE_GID", "EVERMESH_IGNORE_MARK", "ENVOY_CONFIG_FILE"} {
		t.Setenv(name, "")
	}
	t.Setenv("APPMESH_ENVOY_EGRESS_PORT", "15001")
	for _, test := range []struct {
		name           string
		args           []string
		code           int
		stdout, stderr string
	}{
		{"version", []string{"version"}, 0, "evermesh-agent devel (go", ""},
		{"help", []string{"--help"}, 0, "APPMESH_RESOURCE_ARN", ""},
		{"help of intercept", []string{"intercept", "-h"}, 0, "--remove", ""},
		{"an unknown flag", []string{"-envoyconfigpath", "x"}, 2, "", "flag provided but not defined: -envoyconfigpath"},
		{"a mistyped command", []string{"bogus"}, 2, "", `evermesh-agent: "bogus" is neither a command nor an argument for Envoy; see evermesh-agent --help`},
		{"a word after flags", []string{"-logLevel", "debug", "bogus"}, 2, "", `"bogus" is neither`},
		{"arguments for Envoy", []string{"-logLevel", "debug", "--", "--concurrency", "2"}, 2, "", "evermesh-agent: APPMESH_RESOURCE_ARN: must name"},
		{"AGENT-002 no resource", []string{"-logLevel", "debug"}, 2, "", "evermesh-agent: APPMESH_RESOURCE_ARN: must name"},
		{"ICPT-008 neither user nor group", []string{"intercept"}, 1, "=== Input configuration ===", "Variables APPMESH_IGNORE_UID and/or APPMESH_IGNORE_GID must be set."},
		{"arguments of intercept", []string{"intercept", "now"}, 2, "", "takes no arguments"},
		{"an unknown back end", []string{"intercept", "--backend", "ebpf"}, 2, "", "want auto, nft, iptables"},
		{"a wrong flag of intercept", []string{"intercept", "--now"}, 2, "", "intercept: flag provided but not defined: -now; see evermesh-agent intercept --help"},
		{"both of intercept's ways", []string{"intercept", "--check", "--remove"}, 2, "", "takes one of --check and --remove"},
	} {
		t.Run(test.name, func(t *testing.T) {
			code, stdout, stderr := call(t, test.args...)
			if code != test.code || !strings.Contains(stdout, test.stdout) || !strings.Contains(stderr, test.stderr) || (test.stderr == "") != (stderr == "") {
				t.Errorf("got %d\n%s%s", code, stdout, stderr)
			}
			if test.code == exitUsage && strings.Count(stderr, "\n") != 1 {
				t.Errorf("want one line: %q", stderr)
			}
		})
	}
}

// environmentOf is a getenv of lines "K=V"; of a name that is there twice the first counts.
func environmentOf(env []string) func(string) string {
	return func(name string) string {
		for _, line := range env {
			if value, ok := strings.CutPrefix(line, name+"="); ok {
				return value
			}
		}
		return ""
	}
}

// inNamespace runs intercepting on a host of its own.
func inNamespace(t *testing.T, h *ground.Host, args []string, env []string, stdin io.Reader) string {
	t.Helper()
	var out bytes.Buffer
	if err := h.Do(func() error { return intercepting(t.Context(), args, environmentOf(env), env, stdin, &out) }); err != nil {
		t.Errorf("%v\n%s", err, out.String())
	}
	return out.String()
}

func newGround(t *testing.T) *ground.Ground {
	t.Helper()
	if !ground.Inside() {
		_, _, err := ground.Enter(t.Context())
		t.Skipf("this machine allows no network namespaces with redirection: %v", err)
	}
	t.Setenv("XTABLES_LOCKFILE", filepath.Join(t.TempDir(), "lock")) // the machine's is root's
	g, err := ground.New()
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

func TestIntercept(t *testing.T) {
	g := newGround(t)
	h, err := g.Host("workload")
	if err != nil {
		t.Fatal(err)
	}
	env := append([]string{"APPMESH_ENVOY_EGRESS_PORT=15001", "APPMESH_START_ENABLED=1", "OTHER=secret"}, g.Owner().Env()...)
	none := strings.NewReader("")
	tools, err := intercept.Find("auto")
	if err != nil {
		t.Fatal(err)
	}
	rules := func() map[string]bool {
		there := map[string]bool{}
		for _, tool := range tools {
			if err := h.Do(func() error {
				text, err := tool.Status(t.Context())
				there[tool.Name()] = strings.Contains(text, "-A OUTPUT -p tcp -m addrtype ! --dst-type LOCAL -j APPMESH_EGRESS") || strings.Contains(text, "table ip evermesh")
				return err
			}); err != nil {
				t.Fatal(err)
			}
		}
		return there
	}
	t.Run("ICPT-019 ICPT-020 ICPT-021 what it prints, and the end of input leaves the rules", func(t *testing.T) {
		got := inNamespace(t, h, nil, env, none)
		at := 0
		for _, want := range []string{
			"=== Input configuration ===\n", "APPMESH_ENVOY_EGRESS_PORT=15001\nAPPMESH_", "=== Initializing ===\n",
			"=== Enabling routing ===\n", tools[0].Name() + ", IPv4: ", "=== Entering main loop ===\n> \n",
		} {
			i := strings.Index(got[at:], want)
			if i < 0 {
				t.Fatalf("no %q in order in\n%s", want, got)
			}
			at += i
		}
		if strings.Contains(got, "secret") {
			t.Error("prints what is not its own")
		}
		if !rules()[tools[0].Name()] {
			t.Error("no rules")
		}
	})
	t.Run("ICPT-022 again, and with the other back end, one set of rules is there", func(t *testing.T) {
		for _, tool := range []string{tools[len(tools)-1].Name(), "auto", "auto"} {
			if got := inNamespace(t, h, []string{"--backend", tool}, env, none); strings.Contains(got, "interrupted") {
				t.Errorf("nobody was interrupted:\n%s", got)
			}
			if tool == "auto" {
				tool = tools[0].Name()
			}
			for name, there := range rules() {
				if there != (name == tool) {
					t.Errorf("rules of %s: %t", name, there)
				}
			}
		}
		for _, tool := range tools { // as somebody leaves them who is killed
			if err := h.Do(func() error {
				cfg, err := intercept.Parse(environmentOf(env))
				if err != nil {
					return err
				}
				return tool.Apply(t.Context(), cfg)
			}); err != nil {
				t.Fatal(err)
			}
		}
		if got := inNamespace(t, h, nil, env, none); len(tools) > 1 && !strings.Contains(got, "an earlier run was interrupted: rules were in "+tools[0].Name()+", ") {
			t.Errorf("got\n%s", got)
		}
	})
	t.Run("ICPT-018 commands", func(t *testing.T) {
		got := inNamespace(t, h, nil, env, strings.NewReader("help\nstatus\ndisable\nenable\nquit\nstatus\n"))
		for _, want := range []string{
			"> Available commands: quit, status, enable, disable\n", "APPMESH_EGRESS", "> === Disabling routing ===\n",
			"> === Enabling routing ===\n", "no rules of ours are left",
		} {
			if !strings.Contains(got, want) {
				t.Errorf("no %q in\n%s", want, got)
			}
		}
		if strings.Contains(got[strings.Index(got, "no rules of ours"):], "> ") {
			t.Errorf("goes on after quit:\n%s", got)
		}
	})
	t.Run("where nothing is to be redirected it says so, and does nothing but to remove", func(t *testing.T) {
		without := append([]string{"EVERMESH_INTERCEPTION=none"}, env...)
		for _, args := range [][]string{nil, {"--check"}} {
			if got := inNamespace(t, h, args, without, none); got != notIntercepted+"\n" {
				t.Errorf("%q: got\n%s", args, got)
			}
			if r := rules(); r[tools[0].Name()] {
				t.Errorf("%q: rules: %v", args, r)
			}
		}
		inNamespace(t, h, nil, env, none)
		if inNamespace(t, h, nil, without, none); !rules()[tools[0].Name()] {
			t.Error("it took away what was there")
		}
		if inNamespace(t, h, []string{"--remove"}, without, none); rules()[tools[0].Name()] {
			t.Error("rules are left")
		}
		err := intercepting(t.Context(), nil, environmentOf([]string{"EVERMESH_INTERCEPTION=maybe"}), nil, none, &bytes.Buffer{})
		if err == nil || err.Error() != `EVERMESH_INTERCEPTION: "maybe" is neither redirect nor none` {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a signal has what was there put back", func(t *testing.T) {
		inNamespace(t, h, nil, env, none)
		tool := map[string]string{"nft": "nft"}[tools[0].Name()]
		if tool == "" {
			tool = tools[0].Name() + "-restore"
		}
		path, err := exec.LookPath(tool)
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		// It does its work, says so, and never ends.
		script := fmt.Sprintf("#!/bin/sh\ncase \"$*\" in *-f*|*--noflush*) [ -e %[2]s/hangs ] || { %[1]s \"$@\"; touch %[2]s/hangs; exec sleep 600; };; esac\nexec %[1]s \"$@\"\n", path, dir)
		testenv.Script(t, filepath.Join(dir, tool), script)
		other := append([]string{"APPMESH_ENVOY_EGRESS_PORT=15901", part + "=agent", "PATH=" + dir + ":" + os.Getenv("PATH")}, env...)
		p, err := h.Start(ground.Command{Name: "intercept", Path: "/proc/self/exe", Args: []string{"intercept", "--backend", tools[0].Name()}, Env: unique(other)})
		if err != nil {
			t.Fatal(err)
		}
		testenv.Eventually(t, "the tool hangs", func() bool {
			_, err := os.Stat(filepath.Join(dir, "hangs"))
			return err == nil
		})
		if err := p.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := p.Err(); err == nil {
			t.Error("it ended with 0")
		}
		if err := h.Do(func() error {
			text, err := tools[0].Status(t.Context())
			if strings.Contains(text, "15901") || !strings.Contains(text, "15001") {
				t.Errorf("rules:\n%s", text)
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("--remove, twice", func(t *testing.T) {
		inNamespace(t, h, nil, env, none)
		for range 2 {
			inNamespace(t, h, []string{"--remove"}, nil, none)
		}
		for name, there := range rules() {
			if there {
				t.Errorf("rules of %s are left", name)
			}
		}
	})
}

// unique keeps the first of the variables of one name, as environmentOf does.
func unique(env []string) (out []string) {
	seen := map[string]bool{}
	for _, line := range env {
		name, _, _ := strings.Cut(line, "=")
		if !seen[name] {
			out = append(out, line)
		}
		seen[name] = true
	}
	return out
}
