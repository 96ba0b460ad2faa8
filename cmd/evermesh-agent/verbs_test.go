package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestVerbs(t *testing.T) {
	t.Setenv("APPNET_AGENT_ADMIN_MODE", "uds")
	t.Setenv("APPNET_AGENT_ADMIN_UDS_PATH", filepath.Join(t.TempDir(), "nobody"))
	t.Run("each has help, and the help of all names it", func(t *testing.T) {
		for _, v := range verbs() {
			for _, args := range [][]string{{v.name, "--help"}, {v.name, "-h"}, {"help", v.name}} {
				if code, stdout, stderr := call(t, args...); code != 0 || stdout != v.help || stderr != "" {
					t.Errorf("%q: %d %q %q", args, code, stdout, stderr)
				}
			}
			if !strings.Contains(helpText, "  evermesh-agent "+v.name+" ") || !strings.HasPrefix(v.help, "evermesh-agent "+v.name+" ") {
				t.Errorf("%s is not in the help, or its own help does not begin with it", v.name)
			}
		}
	})
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, []byte("#!/bin/sh\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, stderr string
		args         []string
		code         int
	}{
		{"a letter less", `did you mean "intercept"?`, []string{"intercpt"}, 2},
		{"two letters exchanged", `did you mean "status"?`, []string{"statsu"}, 2},
		{"the beginning", `did you mean "preflight"?`, []string{"pre"}, 2},
		{"another word", "is neither a command nor an argument for Envoy; see", []string{"fly"}, 2},
		{"help of no command", `"fly" is neither`, []string{"help", "fly"}, 2},
		{"help of two", "takes one command at most", []string{"help", "wait", "quit"}, 2},
		{"arguments of version", `version: takes no arguments, but got "x"`, []string{"version", "x"}, 2},
		{"arguments of status", "status: takes no arguments", []string{"status", "x"}, 2},
		{"no agent", "it must run with APPNET_AGENT_ADMIN_MODE", []string{"status"}, 1},
		{"no agent to end", "it must run with APPNET_AGENT_ADMIN_MODE", []string{"quit"}, 1},
		{"no agent to wait for", "envoy is not ready after 0s", []string{"wait", "--timeout", "0"}, 1},
		{"no agent, as App Mesh's agent asked", "ask the agent", []string{"-envoyReadiness"}, 1},
		{"a time below nothing", "is no time to wait", []string{"wait", "--timeout", "-1s"}, 2},
		{"a flag of wait that is none", "flag provided but not defined: -tiemout", []string{"wait", "-tiemout", "1s"}, 2},
		{"an end after nothing", "--quit-after takes a command", []string{"wait", "--quit-after"}, 2},
		{"a command that is not there", "cannot run no-such-command", []string{"wait", "--timeout", "0", "--", "no-such-command"}, 127},
		{"a command that cannot be run", "cannot run " + plain, []string{"wait", "--timeout", "0", "--", plain}, 126},
		{"no shell", "completion: takes one shell", []string{"completion"}, 2},
		{"an unknown shell", `"tcsh" is none of bash, zsh and fish`, []string{"completion", "tcsh"}, 2},
		{"a process that cannot be", "-quit-with: -4 is no process", []string{"-quit-with", "-4"}, 2},
		{"no time to preflight", "preflight: --timeout: 0s is no time to try", []string{"preflight", "--timeout", "0"}, 2},
		{"a time below nothing to preflight", "preflight: --timeout: -1s is no time to try", []string{"preflight", "--timeout=-1s"}, 2},
		{"preflight without variables", "APPMESH_RESOURCE_ARN: must name", []string{"preflight"}, 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Setenv("APPMESH_RESOURCE_ARN", "")
			t.Setenv("APPNET_AGENT_POLL_ENVOY_READINESS_INTERVAL_S", "0")
			code, stdout, stderr := call(t, test.args...)
			if code != test.code || stdout != "" || !strings.Contains(stderr, test.stderr) || strings.Count(stderr, "\n") != 1 {
				t.Errorf("got %d\n%s%s", code, stdout, stderr)
			}
		})
	}
}

func TestCompletion(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish"} {
		_, script, _ := call(t, "completion", shell)
		for _, v := range verbs() {
			if !strings.Contains(script, v.name) {
				t.Errorf("%s: no %s", shell, v.name)
			}
		}
		if !strings.Contains(script, "--quit-after") || !strings.Contains(script, "--remove") {
			t.Errorf("%s: no flags in\n%s", shell, script)
		}
	}
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Fatal(err)
	}
	_, script, _ := call(t, "completion", "bash")
	for _, test := range []struct{ typed, want string }{
		{"pre", "preflight"}, {"-env", "-envoyConfigPath -envoyReadiness"}, {"wait --q", "--quit-after"}, {"completion z", "zsh"}, {"help qu", "quit"},
	} {
		words := append([]string{"evermesh-agent"}, strings.Fields(test.typed)...)
		cmd := exec.CommandContext(t.Context(), bash, append([]string{"-c", script + `
COMP_WORDS=("$@"); COMP_CWORD=$(($#-1)); _evermesh_agent; echo "${COMPREPLY[*]}"`, "bash"}, words...)...)
		out, err := cmd.CombinedOutput()
		if got := strings.TrimSpace(string(out)); err != nil || got != test.want {
			t.Errorf("%q: got %q, %v; want %q", test.typed, got, err, test.want)
		}
	}
}

func TestManualPages(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "man")
	if code, _, stderr := call(t, "man", "--out", dir); code != 0 {
		t.Fatal(stderr)
	}
	pages, err := filepath.Glob(filepath.Join(dir, "*.1"))
	if err != nil || len(pages) != len(verbs())+1 {
		t.Errorf("pages: %q, %v", pages, err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "evermesh-agent-wait.1"))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(text), "\n")
	if !strings.HasPrefix(lines[0], `.TH "EVERMESH-AGENT-WAIT" 1`) || !slices.Contains(lines, `evermesh\-agent\-wait \- wait until Envoy is ready, then become a command`) || !strings.Contains(string(text), `\-\-quit\-after`) {
		t.Error(string(text))
	}
}
