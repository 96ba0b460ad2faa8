package supervise

import (
	"context"
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/evermesh/evermesh/internal/agent/envoyadmin"
	"github.com/evermesh/evermesh/internal/agent/settings"
)

// baseIDScale is what Envoy multiplies a base id with, to leave room for the epochs of its sockets.
const baseIDScale = 10

// baseIDs bounds the base ids, so that a scaled one is a number of 31 bits: Envoy writes what is more as one of 64 into the
// names of its sockets, which then have ten bytes more than a path may have.
const baseIDs = 200_000_000

// baseID is what Envoys that take each other's place name their sockets and their memory by. It follows from the network
// namespace and the place of the administration interface: other Envoys have another of these, and the next agent has the
// same, so that nothing is left by one that was killed.
func (s *Envoy) baseID() int {
	var namespace unix.Stat_t
	_ = unix.Stat("/proc/self/ns/net", &namespace) // without it the port alone tells them apart
	h := fnv.New32a()
	fmt.Fprintf(h, "%d:%d", namespace.Ino, s.Settings.Admin.Port)
	if s.Settings.Admin.Given {
		fmt.Fprintf(h, ":%s:%s", s.Settings.Admin.Address, s.Settings.Admin.Socket)
	}
	return int(h.Sum32() % baseIDs)
}

// SocketRoom is how many bytes the names have, with the slash, that Envoys with these settings and arguments give to
// sockets in Envoy.Sockets, by which they take each other's place; 0 when there are none.
func SocketRoom(s settings.Settings, args []string) int {
	if !s.HotRestart || given(args, "--socket-path") {
		return 0
	}
	return len("/h") + 22
}

// epochArgs say which of the Envoys that take each other's place this is.
func (s *Envoy) epochArgs(epoch int) []string {
	if !s.Settings.HotRestart {
		return nil
	}
	args := []string{"--restart-epoch", strconv.Itoa(epoch), "--parent-shutdown-time-s", strconv.Itoa(int((s.Settings.DrainTime + endWait) / time.Second))}
	if !given(s.Args, "--base-id") {
		args = append(args, "--base-id", strconv.Itoa(s.baseID()))
	}
	if SocketRoom(s.Settings, s.Args) > 0 {
		// By default they are abstract: whoever is in the network namespace may have the listeners' sockets by them.
		// The name is short because a path has 107 bytes, and Envoy puts up to 22 behind it (SocketRoom).
		args = append(args, "--socket-path", filepath.Join(s.Sockets, "h"), "--socket-mode", "600")
	}
	return args
}

// takeOverWait is how long a new Envoy may take to begin, and, when the agent is to end, to finish.
const takeOverWait = 30 * time.Second

// handOver starts a new Envoy, from what is now at the binary's path, which takes over the listeners' sockets from the
// old one when it has its configuration; then the old one drains and ends. It returns the Envoy that serves: the old
// one where the new one ended before it had asked for anything. Where it ended later, the old one is ended as well.
// When ctx ends meanwhile, the one that serves is to drain: what has not begun is given up, what has is waited for.
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
	asking, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	late := time.NewTimer(takeOverWait)
	defer late.Stop()
	for ending := ctx.Done(); ; {
		state, epoch := s.Admin.Epoch(asking)
		begun := state == envoyadmin.Unreachable || epoch != old.epoch // the old one has given its interface up
		switch {
		case ended(p):
			s.notTakenOver(asking, p, old, begun)
			return old
		case begun && state == envoyadmin.Live:
			s.Log.Info("envoy has taken over", "pid", p.pid())
			return p
		case ended(old):
			s.Log.Warn("the old envoy ended before it had handed over", "pid", old.pid(), "status", old.exit())
			return p
		case ending == nil && !begun:
			return s.giveUp(p, old)
		}
		look := time.NewTimer(look)
		select {
		case <-look.C:
		case <-ending:
			ending = nil
			late.Reset(takeOverWait)
		case <-s.Hurry:
			return p
		case <-late.C:
			if !begun {
				s.Log.Error("the new envoy does not begin to take over", "pid", p.pid())
				return s.giveUp(p, old)
			}
			if ending == nil {
				return p
			}
		}
		look.Stop()
	}
}

// notTakenOver tells of a new Envoy that has ended before it was live.
func (s *Envoy) notTakenOver(ctx context.Context, p, old *process, begun bool) {
	s.Log.Error("the new envoy ended before it had taken over", "pid", p.pid(), "status", p.exit())
	s.running(old.pid())
	if !begun {
		return
	}
	// It may have been busy only: now nobody else can answer, and one that has given its interface up refuses at once.
	if s.state(ctx) != envoyadmin.Unreachable {
		return
	}
	// The old one has given up its administration interface, and perhaps its listeners: nobody can tell any more.
	s.Log.Error("the old envoy had begun to hand over: it is ended, and one is started anew", "pid", old.pid())
	if err := old.end(syscall.SIGTERM, endWait); err != nil {
		s.Log.Error("cannot end the old envoy", "err", err)
	}
}

// giveUp ends a new Envoy that has not begun to take over.
func (s *Envoy) giveUp(p, old *process) *process {
	if err := p.end(syscall.SIGKILL, endWait); err != nil {
		s.Log.Error("cannot end the new envoy", "pid", p.pid(), "err", err)
	}
	s.running(old.pid())
	return old
}

// sweep removes the memory that the Envoys shared.
func (s *Envoy) sweep() {
	if s.Settings.HotRestart && !given(s.Args, "--base-id") {
		_ = os.Remove("/dev/shm/envoy_shared_memory_" + strconv.Itoa(s.baseID()*baseIDScale)) // there or not
	}
}
