package supervise

import (
	"context"
	"os"
	"strconv"
	"time"

	"github.com/evermesh/evermesh/internal/agent/pause"
)

// baseIDScale is what Envoy multiplies a base id with, to leave room for the epochs of its sockets.
const baseIDScale = 10

// epochArgs are what Envoys that take each other's place have in common, and which of them this is. The base id is
// the administration port: what shares a network namespace, and so the names of Envoy's sockets, has different ones.
func (s *Envoy) epochArgs(epoch int) []string {
	if !s.Settings.HotRestart {
		return nil
	}
	args := []string{"--restart-epoch", strconv.Itoa(epoch), "--parent-shutdown-time-s", strconv.Itoa(int((s.Settings.DrainTime + endWait) / time.Second))}
	if !given(s.Args, "--base-id") {
		args = append(args, "--base-id", strconv.Itoa(s.Settings.Admin.Port))
	}
	return args
}

// handOver starts a new Envoy, from what is now at the binary's path, which takes over the listeners' sockets from the
// old one when it has its configuration; then the old one drains and ends. It returns the Envoy that serves: the old
// one where the new one ended before that.
func (s *Envoy) handOver(ctx context.Context, old *process) *process {
	if !s.Settings.HotRestart {
		s.Log.Warn("asked to hand over to a new envoy, but hot restart is off: set DISABLE_HOT_RESTART=false")
		return old
	}
	p, err := s.start(old.epoch + 1)
	if err != nil {
		s.Log.Error("envoy is not handed over", "err", err)
		return old
	}
	s.Log.Info("envoy hands over", "from", old.pid(), "to", p.pid())
	for pause.For(ctx, look) == nil {
		switch {
		case ended(p):
			s.Log.Error("the new envoy ended before it had taken over; the old one goes on, without its administration interface", "pid", p.pid(), "status", p.exit())
			s.running(old.pid())
			return old
		case s.Admin.State(ctx) == "LIVE":
			s.Log.Info("envoy has taken over", "pid", p.pid())
			return p
		case ended(old):
			s.Log.Warn("the old envoy ended before it had handed over", "pid", old.pid(), "status", old.exit())
			return p
		}
	}
	return p
}

// sweep removes the memory that the Envoys shared.
func (s *Envoy) sweep() {
	if s.Settings.HotRestart && !given(s.Args, "--base-id") {
		_ = os.Remove("/dev/shm/envoy_shared_memory_" + strconv.Itoa(s.Settings.Admin.Port*baseIDScale)) // there or not
	}
}
