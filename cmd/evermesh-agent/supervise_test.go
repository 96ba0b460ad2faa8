package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/evermesh/evermesh/internal/agent/agenttest"
	"github.com/evermesh/evermesh/internal/testenv"
)

// Capabilities, as in the status of a process.
const (
	netBindService = 1 << 10
	netAdmin       = 1 << 12
)

// The program as it ships gives up what it does not need, in all of its threads, and for Envoy.
func TestPrivileges(t *testing.T) {
	root, err := testenv.Root()
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(root, "bin", "evermesh-agent")
	if _, err := os.Stat(program); err != nil {
		t.Fatalf("%v: make build", err)
	}
	own, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	before, _ := field(string(own), "NoNewPrivs")
	for _, test := range []struct {
		name string
		env  string
		most uint64
		nnp  string
	}{
		{"all but what listeners need", "", netBindService, "1"},
		{"and what a mark needs", "EVERMESH_IGNORE_MARK=0x539", netBindService | netAdmin, "1"},
		{"none when it is told to keep them", "EVERMESH_KEEP_CAPABILITIES=true", 1<<63 - 1, before},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			dir := agenttest.ShortDir(t)
			envoy := filepath.Join(dir, "envoy")
			script := fmt.Sprintf("#!/bin/sh\ncase \"$*\" in *--version*) exit 1;; esac\ncat /proc/self/status > %[1]s/new && mv %[1]s/new %[1]s/status\nexec sleep 1000\n", dir)
			testenv.Script(t, envoy, script)
			cmd := exec.CommandContext(t.Context(), program)
			cmd.Env = []string{
				"PATH=" + os.Getenv("PATH"), "TMPDIR=" + dir, "ENVOY_PATH=" + envoy, "ENVOY_ADMIN_ACCESS_PORT=" + strconv.Itoa(testenv.FreePort(t)), "APPMESH_RESOURCE_ARN=mesh/m/virtualNode/n",
				"APPMESH_XDS_ENDPOINT=http://127.0.0.1:1", "AWS_REGION=us-east-1", "AWS_EC2_METADATA_DISABLED=true", "ENVOY_ADMIN_ACCESS_LOG_FILE=/dev/null", test.env,
			}
			out := &testenv.Output{}
			cmd.Stdout, cmd.Stderr = out, out
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() {
				_ = cmd.Process.Signal(syscall.SIGTERM)
				if err := cmd.Wait(); err != nil {
					t.Errorf("the agent's end: %v", err)
				}
				if t.Failed() {
					t.Log(out)
				}
			}()
			var envoys string
			testenv.Eventually(t, "Envoy runs", func() bool {
				text, err := os.ReadFile(filepath.Join(dir, "status"))
				envoys = string(text)
				return err == nil
			})
			statuses, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", cmd.Process.Pid))
			if err != nil || len(statuses) < 2 {
				t.Fatalf("threads: %q, %v", statuses, err)
			}
			texts := map[string]string{"Envoy": envoys}
			for _, file := range statuses {
				if text, err := os.ReadFile(file); err == nil {
					texts[file] = string(text)
				}
			}
			if _, told := field(envoys, "NoNewPrivs"); !told {
				t.Fatal(envoys)
			}
			for who, text := range texts {
				for _, set := range []string{"CapInh", "CapPrm", "CapEff", "CapAmb", "CapBnd"} {
					value, _ := field(text, set)
					n, err := strconv.ParseUint(value, 16, 64)
					if set == "CapBnd" && os.Getuid() != 0 {
						continue // only who has SETPCAP can
					}
					if err != nil || n&^test.most != 0 {
						t.Errorf("%s: %s is %s, want no more than %x", who, set, value, test.most)
					}
				}
				if value, _ := field(text, "NoNewPrivs"); value != test.nnp {
					t.Errorf("%s: NoNewPrivs is %s", who, value)
				}
			}
		})
	}
}

// field is a line of a process's status.
func field(status, name string) (string, bool) {
	_, rest, found := strings.Cut(status, "\n"+name+":")
	value, _, _ := strings.Cut(rest, "\n")
	return strings.TrimSpace(value), found
}
