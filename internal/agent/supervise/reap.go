package supervise

import (
	"context"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/evermesh/evermesh/internal/agent/pause"
)

// unclaimed is how long an ended child may lie before it counts as nobody's. Children that this program started are
// collected by who started them, at once; taking one from there would lose its exit status.
const unclaimed = time.Second

// Reap collects ended processes that were left to this one, until ctx ends: as PID 1 of a container all orphans are,
// and as a subreaper those that Envoy or a process of the agent's leaves. It looks when a child has ended, at most once
// in every interval.
func Reap(ctx context.Context, interval time.Duration) {
	_ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) // from Linux 3.4 on
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGCHLD)
	defer signal.Stop(ended)
	since := map[int]time.Time{} // the zombies of the last round
	for {
		since = collect(since, time.Now())
		if len(since) > 0 { // look again when they are due
			if pause.For(ctx, unclaimed) != nil {
				return
			}
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-ended:
		}
		if pause.For(ctx, interval) != nil {
			return
		}
	}
}

// collect takes the zombies that are there for long enough, and returns the others.
func collect(since map[int]time.Time, now time.Time) map[int]time.Time {
	left := map[int]time.Time{}
	for _, pid := range zombies() {
		first, known := since[pid]
		switch {
		case !known:
			left[pid] = now
		case now.Sub(first) < unclaimed:
			left[pid] = first
		default:
			_, _ = syscall.Wait4(pid, nil, syscall.WNOHANG, nil)
		}
	}
	return left
}

// zombies are this process's children that have ended and were not waited for.
func zombies() (pids []int) {
	if !childEnded() {
		return nil
	}
	self := strconv.Itoa(os.Getpid())
	files, _ := filepath.Glob("/proc/[0-9]*/stat") // the pattern is well-formed
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // gone meanwhile
		}
		// pid (name) state ppid …; the name may hold anything.
		fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
		if len(fields) < 2 || fields[0] != "Z" || fields[1] != self {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file))); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// childEnded says whether any child waits to be collected, and leaves it there.
func childEnded() bool {
	var info unix.Siginfo
	err := unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
	return err == nil && info.Signo != 0
}
