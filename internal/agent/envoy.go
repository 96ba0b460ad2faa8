package agent

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
)

// endWait is how long Envoy may take to end after SIGTERM before it is killed.
const endWait = 5 * time.Second

// ErrExhausted means that Envoy ended and was started again as often as allowed.
var ErrExhausted = errors.New("envoy ended and has used up its restarts")

// supervisor keeps one Envoy running.
type supervisor struct {
	path           string
	args           []string
	stdout, stderr *os.File
	restarts       int // allowed
	drainTime      time.Duration
	admin          *adminClient
	log            *slog.Logger

	mu        sync.Mutex
	pid       int // 0 between two
	restarted int
}

// arguments are Envoy's, as App Mesh's agent gave them.
func (s Settings) arguments(bootstrap string, extra []string) []string {
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

// findEnvoy is ENVOY_PATH, else envoy on PATH, else where the image has it.
func (s Settings) findEnvoy() (string, error) {
	if s.EnvoyPath != "" {
		if _, err := os.Stat(s.EnvoyPath); err != nil {
			return "", wrong("ENVOY_PATH", "%v", err)
		}
		return s.EnvoyPath, nil
	}
	if path, err := exec.LookPath("envoy"); err == nil {
		return path, nil
	}
	const image = "/usr/bin/envoy"
	if _, err := os.Stat(image); err != nil {
		return "", wrong("ENVOY_PATH", "must name the Envoy binary: it is neither on PATH nor %s", image)
	}
	return image, nil
}

// run starts Envoy, and again whenever it ends (AGENT-001, AGENT-011, AGENT-047), until ctx ends: then it drains,
// stops it and returns nil.
func (s *supervisor) run(ctx context.Context) error {
	for {
		cmd := exec.Command(s.path, s.args...)
		cmd.Stdout, cmd.Stderr = s.stdout, s.stderr
		p, err := startProcess(cmd)
		if err != nil {
			return err
		}
		s.log.Info("envoy started", "pid", p.pid())
		s.running(p.pid())
		select {
		case <-p.done:
		case <-ctx.Done():
			defer s.running(0)
			return s.stop(p)
		}
		s.running(0)
		s.log.Error("envoy exited", "pid", p.pid(), "status", p.exit())
		if !s.mayRestart() {
			return fmt.Errorf("%w (APPNET_ENVOY_RESTART_COUNT=%d): last exit %s", ErrExhausted, s.restarts, p.exit())
		}
	}
}

// stop lets Envoy's listeners drain while connections end, then ends it (AGENT-046). When draining cannot be asked
// for it is ended at once.
func (s *supervisor) stop(p *process) error {
	ctx, cancel := context.WithTimeout(context.Background(), s.drainTime)
	defer cancel()
	if err := s.admin.drain(ctx); err != nil {
		s.log.Warn("cannot drain envoy", "err", err)
	} else {
		s.log.Info("draining envoy", "seconds", int(s.drainTime/time.Second))
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
	s.log.Info("envoy stopped", "pid", p.pid(), "status", p.exit())
	return nil
}

func (s *supervisor) running(pid int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pid = pid
}

func (s *supervisor) mayRestart() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.restarted == s.restarts {
		return false
	}
	s.restarted++
	return true
}

// process is Envoy's pid, 0 when it does not run, and how often it was started again.
func (s *supervisor) process() (pid, restarted int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pid, s.restarted
}
