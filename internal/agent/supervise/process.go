package supervise

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// process is a child that dies with the agent, also when the agent is killed.
type process struct {
	cmd     *exec.Cmd
	epoch   int // of hot restart
	started time.Time
	done    chan struct{}
	err     error // set before done is closed
}

// startProcess starts cmd in a process group of its own: the terminal's interrupt is for the agent, which drains.
func startProcess(cmd *exec.Cmd, capabilities []uintptr) (*process, error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL, AmbientCaps: capabilities}
	p := &process{cmd: cmd, started: time.Now(), done: make(chan struct{})}
	started := make(chan error)
	go func() {
		// The death signal follows the thread that forked: it must live as long as the process.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			p.err = cmd.Wait()
			close(p.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	return p, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

func (p *process) signal(s os.Signal) error {
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal %s: %w", p.cmd.Path, err)
	}
	return nil
}

// end signals the process, and kills it when it is not gone after that time.
func (p *process) end(s os.Signal, patience time.Duration) error {
	if err := p.signal(s); err != nil {
		return err
	}
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case <-p.done:
		return nil
	case <-late.C:
	}
	if err := p.signal(syscall.SIGKILL); err != nil {
		return err
	}
	<-p.done
	return nil
}

// exit says how the process ended: "code 1", "signal killed". It waits for the end.
func (p *process) exit() string {
	<-p.done
	state := p.cmd.ProcessState
	if state == nil {
		return fmt.Sprint(p.err)
	}
	if w, ok := state.Sys().(syscall.WaitStatus); ok && w.Signaled() {
		return "signal " + w.Signal().String()
	}
	return fmt.Sprintf("code %d", state.ExitCode())
}

// segfaulted says whether it ended by a segmentation fault, as a process or as the code that a shell makes of it.
func (p *process) segfaulted() bool {
	<-p.done
	state := p.cmd.ProcessState
	if state == nil {
		return false
	}
	w, ok := state.Sys().(syscall.WaitStatus)
	return ok && (w.Signaled() && w.Signal() == syscall.SIGSEGV || w.ExitStatus() == 128+int(syscall.SIGSEGV))
}
