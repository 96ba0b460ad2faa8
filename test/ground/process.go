//go:build linux

package ground

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

// Command is a program to run on a host.
type Command struct {
	Name string   // of its log and in errors; "" takes the program's
	Path string   // the program; where UID is not 0 it must be runnable by that user, see Ground.Tool
	Args []string // without the program's name
	Env  []string // "K=V"; nil is the entered program's own environment
	UID  uint32   // user and group; 0 is the ground's own, the only one where Owner has a mark
}

// Process is a program that was started on a host. It ends with the ground at the latest.
type Process struct {
	name string
	log  string
	cmd  *exec.Cmd
	done chan struct{}
	err  error // set before done is closed
}

// Start runs c on the host until it ends, in a process group of its own. Its output is appended to the file Log.
func (h *Host) Start(c Command) (*Process, error) {
	name := h.nameOf(c)
	log, err := os.OpenFile(filepath.Join(h.ground.dir, "log", name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	defer log.Close()
	return h.start(c, log)
}

// nameOf is what a process of the command is called.
func (h *Host) nameOf(c Command) string {
	if c.Name == "" {
		c.Name = filepath.Base(c.Path)
	}
	return h.name + "." + c.Name
}

// start is Start with the file of the output.
func (h *Host) start(c Command, log *os.File) (*Process, error) {
	name := h.nameOf(c)
	p := &Process{name: name, log: log.Name(), done: make(chan struct{})}
	p.cmd = exec.Command(c.Path, c.Args...)
	p.cmd.Env, p.cmd.Stdout, p.cmd.Stderr = c.Env, log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if h.ground.bare {
		p.cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL // nothing else ends it if this program is killed
	}
	if c.UID != 0 {
		p.cmd.SysProcAttr.Credential = &syscall.Credential{Uid: c.UID, Gid: c.UID}
		// A program that logs to /dev/stdout opens this file anew, as that user.
		if err := log.Chown(int(c.UID), int(c.UID)); err != nil {
			return nil, fmt.Errorf("start %s: %w", name, err)
		}
	}
	if err := h.do(p.cmd.Start); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	h.mu.Lock()
	h.processes = append(h.processes, p)
	h.mu.Unlock()
	return p, nil
}

// Run runs c on the host to its end and returns what it printed, to a file of its own: others may run the same at the same
// time. When ctx ends first the program is killed. The error carries the output, and the file stays.
func (h *Host) Run(ctx context.Context, c Command) (string, error) {
	log, err := os.CreateTemp(filepath.Join(h.ground.dir, "log"), h.nameOf(c)+".run-*.log")
	if err != nil {
		return "", fmt.Errorf("run %s: %w", h.nameOf(c), err)
	}
	defer log.Close()
	p, err := h.start(c, log)
	if err != nil {
		return "", err
	}
	select {
	case <-p.done:
	case <-ctx.Done():
		err = errors.Join(ctx.Err(), p.Kill())
	}
	text, readErr := os.ReadFile(p.log)
	out := string(text)
	if err := errors.Join(err, p.err, readErr); err != nil {
		return out, fmt.Errorf("run %s: %w: %s", p.name, err, out)
	}
	return out, os.Remove(p.log)
}

// Stop kills every process of the host, at once.
func (h *Host) Stop() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	var errs []error
	for _, p := range h.processes {
		errs = append(errs, p.Kill())
	}
	h.processes = nil
	return errors.Join(errs...)
}

// Pid is the process's id inside the ground.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Log is the file that holds what the process printed.
func (p *Process) Log() string { return p.log }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err says how the process ended: nil for exit code 0, else an [*exec.ExitError]. It waits for the end.
func (p *Process) Err() error {
	<-p.done
	return p.err
}

// Signal sends a signal to the process; one that has ended already is no error.
func (p *Process) Signal(s os.Signal) error {
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal %s: %w", p.name, err)
	}
	return nil
}

// Stop asks the process to end (SIGTERM) and waits; when ctx ends first the process is killed and the error says so.
func (p *Process) Stop(ctx context.Context) error {
	if err := p.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
		return errors.Join(fmt.Errorf("stop %s: %w", p.name, ctx.Err()), p.Kill())
	}
}

// Kill ends the process and what it started in its process group at once (SIGKILL), and waits for the process.
func (p *Process) Kill() error {
	if err := syscall.Kill(-p.Pid(), syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("kill %s: %w", p.name, err)
	}
	<-p.done
	return nil
}
