// Package supervise keeps one Envoy running: it starts it, starts it again when it ends or hangs, hands over to a new
// one, and drains and stops it. [Envoy.Run] is that life. Beside it are [Reap] for processes that nobody waits for,
// and what is done before anything is started: [DropPrivileges] and [RaiseFileLimit].
package supervise

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/evermesh/evermesh/internal/agent/envoyadmin"
	"github.com/evermesh/evermesh/internal/agent/pause"
	"github.com/evermesh/evermesh/internal/agent/settings"
)

// ErrExhausted means that Envoy ended and was started again as often as allowed.
var ErrExhausted = errors.New("envoy ended and has used up its restarts")

// Envoy keeps one Envoy running.
type Envoy struct {
	Path           string
	Args           []string
	Stdout, Stderr *os.File
	Settings       settings.Settings
	Watch          Watch
	Admin          *envoyadmin.Client
	Log            *slog.Logger

	// Tell tells the control plane that this proxy drains, and returns who may still choose it; nil where there is none.
	Tell func(context.Context) (Left, error)
	// Hurry ends a drain, HandOver starts a new Envoy that takes the old one's place; nil for neither.
	Hurry    <-chan struct{}
	HandOver <-chan struct{}
	// Sockets is a directory of this agent's own, for those by which Envoys take each other's place.
	Sockets string

	mu        sync.Mutex
	pid       int // 0 between two
	restarted int
}

// hangWait is how long a hanging Envoy may take to tell where it hangs, as it does on SIGABRT.
const hangWait = 2 * time.Second

// Run starts Envoy, and again whenever it ends (AGENT-001, AGENT-011, AGENT-047), until ctx ends: then it drains,
// stops it and returns nil.
func (s *Envoy) Run(ctx context.Context) error {
	row := budget{allowed: s.Settings.Restarts, delay: s.Settings.Supervision.Delay, forget: s.Settings.Supervision.Forget}
	defer s.sweep()
	for ctx.Err() == nil {
		ran, exit, err := s.once(ctx)
		if exit == "" {
			return err
		}
		if ctx.Err() != nil { // it ended by itself when it was to end
			return nil
		}
		wait, ok := row.next(ran)
		if !ok {
			return fmt.Errorf("%w (APPNET_ENVOY_RESTART_COUNT=%d): last exit %s", ErrExhausted, s.Settings.Restarts, exit)
		}
		if wait > 0 {
			s.Log.Info("envoy is started again after a pause", "wait", wait, "left", row.allowed-row.used)
		}
		if pause.For(ctx, wait) != nil || ctx.Err() != nil {
			return nil
		}
		s.restarts()
	}
	return nil
}

// once runs Envoy, and those that take its place, until one ends by itself: exit is how, and ran for how long it did.
// exit is "" when ctx has ended and the Envoy was stopped.
func (s *Envoy) once(ctx context.Context) (ran time.Duration, exit string, err error) {
	p, err := s.start(0)
	if err != nil {
		s.Log.Error("envoy does not start", "err", err)
		return 0, err.Error(), nil
	}
	var old []*process
	defer func() { // the memory that they share is made anew by the next one
		s.running(0)
		for _, o := range old {
			_ = o.end(syscall.SIGKILL, endWait) // gone already, mostly
		}
	}()
	for {
		watching, stop := context.WithCancel(ctx)
		hangs := make(chan int, 1)
		go func() { hangs <- s.Watch.hangs(watching, s.Admin.State, s.Log) }()
		next := p
		select {
		case <-p.done:
		case <-ctx.Done():
			stop()
			<-hangs
			return 0, "", s.stop(p)
		case polls := <-hangs:
			hangs <- 0
			if polls > 0 {
				s.Log.Error("envoy does not answer: it is ended", "pid", p.pid(), "polls", polls)
				err = p.end(syscall.SIGABRT, hangWait)
			}
		case <-s.HandOver:
			next = s.handOver(ctx, p)
		}
		stop()
		<-hangs
		if err != nil {
			return 0, "", err
		}
		if next != p {
			old = append(slices.DeleteFunc(old, ended), p)
			p = next
			continue
		}
		if !ended(p) {
			continue
		}
		s.Log.Error("envoy exited", "pid", p.pid(), "status", p.exit())
		if p.segfaulted() {
			s.hintFiles()
		}
		return time.Since(p.started), p.exit(), nil
	}
}

func ended(p *process) bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// start starts an Envoy of that epoch of hot restarts.
func (s *Envoy) start(epoch int) (*process, error) {
	cmd := exec.Command(s.Path, append(s.epochArgs(epoch), s.Args...)...)
	cmd.Stdout, cmd.Stderr = s.Stdout, s.Stderr
	cmd.Env = append(os.Environ(), s.Settings.Bootstrap.EnvoyEnvironment()...)
	p, err := startProcess(cmd, ambient(s.Settings))
	if err != nil {
		return nil, err
	}
	p.epoch = epoch
	s.Log.Info("envoy started", "pid", p.pid())
	s.running(p.pid())
	return p, nil
}

// hintFiles says what is behind many segmentation faults of Envoy under load (TRBL-021).
func (s *Envoy) hintFiles() {
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) == nil {
		s.Log.Warn("envoy had a segmentation fault: under load that is often a limit of open files that is too low; raise the nofile ulimit of the container", "nofile", limit.Cur)
	}
}

func (s *Envoy) running(pid int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pid = pid
}

func (s *Envoy) restarts() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.restarted++
}

// Process is Envoy's pid, 0 when it does not run, and how often it was started again because it had ended.
func (s *Envoy) Process() (pid, restarted int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pid, s.restarted
}
