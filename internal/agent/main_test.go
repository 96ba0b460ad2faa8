package agent

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"testing"

	"github.com/evermesh/evermesh/internal/agent/logs"
	"github.com/evermesh/evermesh/internal/agent/settings"
	"github.com/evermesh/evermesh/internal/testenv"
)

// part is the variable that makes this test program play a part: "envoy", a stub that takes Envoy's arguments, or
// "agent", an agent that may be killed.
const part = "AGENT_TEST_PART"

func TestMain(m *testing.M) {
	switch os.Getenv(part) {
	case "envoy":
		os.Exit(stubEnvoy())
	case "agent":
		os.Exit(playAgent())
	}
	testenv.VerifyTestMain(m)
}

// playAgent is the program without its command line; its Envoy is the stub, unless ENVOY_PATH says otherwise.
// AGENT_TEST_WITH is a process with which it ends.
func playAgent() int {
	ctx, end := context.WithCancel(context.Background())
	hurry, handOver := make(chan struct{}), make(chan struct{}, 1)
	got := make(chan os.Signal, 1)
	signal.Notify(got, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		for times := 0; ; {
			if <-got == syscall.SIGHUP {
				handOver <- struct{}{}
				continue
			}
			end()
			if times++; times == 2 {
				close(hurry)
			}
		}
	}()
	s, err := settings.Parse(os.Getenv, settings.Flags{}, os.Getuid())
	if err == nil {
		if s.EnvoyPath == "/proc/self/exe" {
			os.Setenv(part, "envoy")
		}
		with, _ := strconv.Atoi(os.Getenv("AGENT_TEST_WITH"))
		err = Run(ctx, s, Program{
			Version: "test", Stdout: os.Stdout, Stderr: os.Stderr, Log: logs.New(os.Stderr, s.LogLevel),
			Hurry: hurry, HandOver: handOver, QuitWith: with,
		})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func number(t *testing.T, s string) int {
	t.Helper()
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
