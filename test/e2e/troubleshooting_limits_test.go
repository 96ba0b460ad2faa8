//go:build linux

package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/evermesh/evermesh/test/ground"
	"github.com/evermesh/evermesh/test/stage"
)

// envoyOf is the process of the sidecar's Envoy.
func envoyOf(t *testing.T, s *stage.Sidecar) int {
	t.Helper()
	children, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", s.Process.Pid()))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range children {
		for id := range strings.FieldsSeq(read(t, file)) {
			if pid, err := strconv.Atoi(id); err == nil {
				return pid
			}
		}
	}
	t.Fatalf("the agent on %s runs no Envoy", s.Host.Name())
	return 0
}

// script writes a program, by another process: a program that is open for writing cannot be run, and what this process
// starts elsewhere meanwhile has its files for a moment.
func (m *mesh) script(path, text string) {
	m.t.Helper()
	ctx, cancel := m.context()
	defer cancel()
	if _, err := m.Home().Run(ctx, ground.Command{
		Name: "script", Path: "/bin/sh", Args: []string{"-c", `printf %s "$TEXT" >"$FILE" && chmod 755 "$FILE"`}, Env: []string{"PATH=" + os.Getenv("PATH"), "TEXT=" + text, "FILE=" + path},
	}); err != nil {
		m.t.Fatal(err)
	}
}

// TestFewDescriptors has an Envoy that may open fewer files than it gets connections, and one that may open enough.
func TestFewDescriptors(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "descriptors", "DROP_ALL")
	m.create("VirtualNode", "server", m.nodeSpec("server"))
	visitor := m.host("visitor")
	start := func(name string, env ...string) *stage.Sidecar {
		h := m.program(name)
		return m.sidecar(h, stage.SidecarOptions{Resource: "server", AppPorts: fmt.Sprint(appPort), Env: env})
	}
	// answers says whether a request is answered while many connections are open, and by the Envoy that there was.
	answers := func(t *testing.T, s *stage.Sidecar, name string, patience time.Duration) bool {
		t.Helper()
		addr, pid := fmt.Sprintf("%s:%d", m.hostname(name), appPort), envoyOf(t, s)
		for range 60 {
			conn, err := visitor.Dial(t.Context(), "tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
		}
		answered := reachWithin(t, patience, visitor, "http://"+addr+"/", "") == name
		if now := envoyOf(t, s); now != pid {
			t.Errorf("Envoy is process %d and was %d", now, pid)
		}
		return answered
	}
	roomy := start("roomy")
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", envoyOf(t, roomy)))
	if err != nil {
		t.Fatal(err)
	}
	script := filepath.Join(m.Dir(), "envoy-with-few-files")
	text := fmt.Sprintf("#!/bin/sh\nulimit -n %d\nexec %s \"$@\"\n", len(open)+15, m.Programs.Envoy)
	m.script(script, text)
	tight := start("tight", "ENVOY_PATH="+script)
	t.Run("TRBL-021 with few open files what is one too much is not served, and Envoy does not fall", func(t *testing.T) {
		if answers(t, tight, "tight", 3*time.Second) {
			t.Error("a request beside 60 connections is answered: the test shows nothing")
		}
		m.until("it answers again when the connections are gone", func(context.Context) bool {
			return reach(t, visitor, fmt.Sprintf("http://%s:%d/", m.hostname("tight"), appPort), "") == "tight"
		})
	})
	t.Run("TRBL-021 with as many as the agent takes from the hard limit, all are", func(t *testing.T) {
		if !answers(t, roomy, "roomy", wait) {
			t.Error("a request beside 60 connections is not answered")
		}
	})
}
