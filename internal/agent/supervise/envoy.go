// Package supervise keeps one Envoy running: it starts it, starts it again when it ends, and drains and stops it.
package supervise

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/evermesh/evermesh/internal/agent/envoyadmin"
	"github.com/evermesh/evermesh/internal/agent/settings"
)

// endWait is how long Envoy may take to end after SIGTERM before it is killed.
const endWait = 5 * time.Second

// ErrExhausted means that Envoy ended and was started again as often as allowed.
var ErrExhausted = errors.New("envoy ended and has used up its restarts")

// Envoy keeps one Envoy running.
type Envoy struct {
	Path           string
	Args           []string
	Stdout, Stderr *os.File
	Restarts       int // allowed
	DrainTime      time.Duration
	Admin          *envoyadmin.Client
	Log            *slog.Logger

	mu        sync.Mutex
	pid       int // 0 between two
	restarted int
}

// Arguments are Envoy's, as App Mesh's agent gave them.
func Arguments(s settings.Settings, bootstrap string, extra []string) []string {
	args := []string{"-c", bootstrap, "-l", s.LogLevel}
	if s.Concurrency >= 0 {
		args = append(args, "--concurrency", strconv.Itoa(s.Concurrency))
	}
	args = append(args, "--drain-time-s", strconv.Itoa(int(s.DrainTime/time.Second)))
	if !s.HotRestart {
		args = append(args, "--disable-hot-restart")
	}
	if !s.KeepDeprecated {
		args = append(args, "--skip-deprecated-logs")
	}
	return append(args, extra...)
}

// Find is ENVOY_PATH, else envoy on PATH, else where the image has it.
func Find(s settings.Settings) (string, error) {
	if s.EnvoyPath != "" {
		if _, err := os.Stat(s.EnvoyPath); err != nil {
			return "", settings.Wrong("ENVOY_PATH", "%v", err)
		}
		return s.EnvoyPath, nil
	}
	if path, err := exec.LookPath("envoy"); err == nil {
		return path, nil
	}
	const image = "/usr/bin/envoy"
	if _, err := os.Stat(image); err != nil {
		return "", settings.Wrong("ENVOY_PATH", "must name the Envoy binary: it is neither on PATH nor %s", image)
	}
	return image, nil
}

// Run starts Envoy, and again whenever it ends (AGENT-001, AGENT-011, AGENT-047), until ctx ends: then it drains,
// stops it and returns nil.
func (s *Envoy) Run(ctx context.Context) error {
	for {
		cmd := exec.Command(s.Path, s.Args...)
		cmd.Stdout, cmd.Stderr = s.Stdout, s.Stderr
		p, err := startProcess(cmd)
		if err != nil {
			return err
		}
		s.Log.Info("envoy started", "pid", p.pid())
		s.running(p.pid())
		select {
		case <-p.done:
		case <-ctx.Done():
			defer s.running(0)
			return s.stop(p)
		}
		s.running(0)
		s.Log.Error("envoy exited", "pid", p.pid(), "status", p.exit())
		if !s.mayRestart() {
			return fmt.Errorf("%w (APPNET_ENVOY_RESTART_COUNT=%d): last exit %s", ErrExhausted, s.Restarts, p.exit())
		}
	}
}

// stop lets Envoy's listeners drain while connections end, then ends it (AGENT-046). When draining cannot be asked
// for it is ended at once.
func (s *Envoy) stop(p *process) error {
	ctx, cancel := context.WithTimeout(context.Background(), s.DrainTime)
	defer cancel()
	if err := s.Admin.Drain(ctx); err != nil {
		s.Log.Warn("cannot drain envoy", "err", err)
	} else {
		s.Log.Info("draining envoy", "seconds", int(s.DrainTime/time.Second))
		select {
		case <-ctx.Done():
		case <-p.done:
		}
	}
	if err := p.signal(syscall.SIGTERM); err != nil {
		return err
	}
	late := time.NewTimer(endWait)
	defer late.Stop()
	select {
	case <-p.done:
	case <-late.C:
		if err := p.signal(syscall.SIGKILL); err != nil {
			return err
		}
	}
	s.Log.Info("envoy stopped", "pid", p.pid(), "status", p.exit())
	return nil
}

func (s *Envoy) running(pid int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pid = pid
}

func (s *Envoy) mayRestart() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.restarted == s.Restarts {
		return false
	}
	s.restarted++
	return true
}

// Process is Envoy's pid, 0 when it does not run, and how often it was started again.
func (s *Envoy) Process() (pid, restarted int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pid, s.restarted
}
