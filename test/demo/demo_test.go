//go:build linux

package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/evermesh/evermesh/test/stage"
)

// asDemo is the variable that makes this test program the demo.
const asDemo = "EVERMESH_DEMO_TEST"

func TestMain(m *testing.M) {
	stage.Play()
	if os.Getenv(asDemo) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

func demo(ctx context.Context, args ...string) (*exec.Cmd, *bytes.Buffer) {
	cmd := exec.CommandContext(ctx, "/proc/self/exe", args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.Env = append(os.Environ(), asDemo+"=1")
	return cmd, &out
}

// wait is how long a demo may take on a machine that is busy.
const wait = 10 * time.Minute

// TestDemo runs the whole demo over small samples, as `make demo` does over large ones.
func TestDemo(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	cmd, out := demo(ctx, "-requests", "440")
	err := cmd.Run()
	t.Logf("\n%s", out)
	if strings.Contains(out.String(), "This machine does not allow the full demo") {
		t.Skip("this machine allows no ground")
	}
	if err != nil || !strings.Contains(out.String(), "OK: ") {
		t.Error(err)
	}
}

// TestInterruptedDemoLeavesNothing interrupts it while traffic flows.
func TestInterruptedDemoLeavesNothing(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	cmd, out := demo(ctx, "-requests", "1000000")
	// Go's directories for tests are closed to other users; the ground wants one that is not.
	dir, err := os.MkdirTemp("/tmp", "evermesh-demo-test-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd.Env = append(cmd.Env, "TMPDIR="+dir)
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	cmd.Stdout, cmd.Stderr = write, write
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	write.Close()
	text := make([]byte, 4096)
	for !strings.Contains(out.String(), "goes on until the end") {
		n, err := read.Read(text)
		out.Write(text[:n])
		if err != nil {
			if strings.Contains(out.String(), "This machine does not allow the full demo") {
				t.Skip("this machine allows no ground")
			}
			t.Fatalf("%v\n%s", err, out)
		}
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // its code is looked at below
	if code := cmd.ProcessState.ExitCode(); code != 130 {
		t.Errorf("exit code %d, want 130", code)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// TestGatewayDemo runs the demo for machines that allow no namespaces.
func TestGatewayDemo(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	cmd, out := demo(ctx, "-requests", "440", "-gateway")
	err := cmd.Run()
	t.Logf("\n%s", out)
	if err != nil || !strings.Contains(out.String(), "OK: ") {
		t.Error(err)
	}
}
