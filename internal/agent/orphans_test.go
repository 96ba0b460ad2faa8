package agent

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/evermesh/evermesh/internal/testenv"
)

// What has its bootstrap in a directory that an agent left is ended; what has it in that of one that lives is not, nor
// what only names it.
func TestOrphansAreEnded(t *testing.T) {
	root := t.TempDir()
	script := filepath.Join(root, "envoy")
	if err := os.WriteFile(script, []byte("#!/bin/sh\nread wait\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	mine, err := placeIn(root)
	if err != nil {
		t.Fatal(err)
	}
	defer mine.remove()
	left := filepath.Join(root, placePrefix+"left")
	if err := os.Mkdir(left, 0o700); err != nil {
		t.Fatal(err)
	}
	start := func(args ...string) (over func() bool) {
		cmd := exec.Command("/bin/sh", append([]string{script}, args...)...)
		input, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() { defer close(ended); _ = cmd.Wait() }()
		t.Cleanup(func() { _ = input.Close(); <-ended })
		return func() bool {
			select {
			case <-ended:
				return cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL
			default:
				return false
			}
		}
	}
	orphan := start("--restart-epoch", "0", "-c", filepath.Join(left, "envoy-config.yaml"), "-l", "info")
	others := map[string]func() bool{
		"of an agent that lives":  start("-c", filepath.Join(mine.dir, "envoy-config.yaml")),
		"of a longer name":        start("-c", left+"over/envoy-config.yaml"),
		"named by something else": start("--log-path", filepath.Join(left, "log")),
	}
	sweepPlaces(root)
	testenv.Eventually(t, "the orphan is killed", orphan)
	for name, over := range others {
		if over() {
			t.Errorf("one %s was killed", name)
		}
	}
}
