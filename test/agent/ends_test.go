//go:build linux

package agent

import (
	"fmt"
	"math/rand/v2"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/agent/agenttest"
	"github.com/evermesh/evermesh/internal/agent/pause"
	"github.com/evermesh/evermesh/internal/testenv"
)

// silentServer takes connections, and says nothing.
func silentServer(t *testing.T) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.Addr().String()
}

// TestEndAtAnyMoment tells agents to end at random moments of their start.
func TestEndAtAnyMoment(t *testing.T) {
	t.Parallel()
	envoys := agenttest.Envoys(t)
	const rounds = 10
	for i, s := range []struct {
		name  string
		lines func(*proxy) []string
	}{
		{"a control plane that answers", nil},
		{"one that is silent", func(p *proxy) []string { p.silence(true); return nil }},
		{"one that takes connections alone", func(*proxy) []string { return []string{"APPMESH_XDS_ENDPOINT=" + silentServer(t)} }},
		{"a silent metadata service", func(*proxy) []string {
			return []string{"AWS_EC2_METADATA_DISABLED=false", "AWS_EC2_METADATA_SERVICE_ENDPOINT=http://" + silentServer(t), "AWS_ACCESS_KEY_ID=", "AWS_REGION="}
		}},
		{"hot restart", func(*proxy) []string { return []string{"DISABLE_HOT_RESTART=false"} }},
	} {
		t.Run("AGENT-046 "+s.name, func(t *testing.T) {
			t.Parallel()
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			chance := rand.New(rand.NewPCG(seed, 0))
			p := newProxy(t, envoys[i%len(envoys)])
			if s.lines != nil {
				p.set(s.lines(p)...)
			}
			for range rounds {
				r := p.start(t)
				moment := time.Duration(chance.Int64N(int64(3 * time.Second)))
				if chance.IntN(3) == 0 {
					moment /= 20 // where most of it happens
				}
				if err := pause.For(t.Context(), moment); err != nil {
					t.Fatal(err)
				}
				r.tell(t, syscall.SIGTERM)
				testenv.Eventually(t, fmt.Sprintf("an end or a drain, told after %s", moment), func() bool { return r.isOver() || r.says("draining envoy") })
				r.tell(t, syscall.SIGTERM)
				began := time.Now()
				testenv.Eventually(t, "the end", r.isOver)
				if took := time.Since(began); took > 20*time.Second { // 5 s to end by itself, and much for a busy machine
					t.Errorf("told after %s: it took %s", moment, took)
				}
				status, _ := r.cmd.ProcessState.Sys().(syscall.WaitStatus)
				// Before the program has begun, the signal ends it as it ends any program.
				if status.ExitStatus() != 0 && (r.out.String() != "" || !status.Signaled() || status.Signal() != syscall.SIGTERM) {
					t.Errorf("told after %s: %s", moment, r.cmd.ProcessState)
				}
				p.wantNothingLeft(t)
				if t.Failed() {
					break
				}
			}
		})
	}
}
