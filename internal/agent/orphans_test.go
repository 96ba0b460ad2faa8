package agent

import (
	"bufio"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"syscall"
	"testing"
)

// What is killed is this user's, and has its bootstrap in that very directory.
func TestOrphans(t *testing.T) {
	for _, test := range []struct {
		name, script string
		attr         syscall.SysProcAttr
		killed       bool
	}{
		{"this user's", "", syscall.SysProcAttr{}, true},
		{"another user's", "", syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}, false},
		{"with a directory of that name that is another one", "mount -t tmpfs none $2 || exit 1; ", syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			const script = "/proc/self/fd/3"
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := w.WriteString("set -- $1 ${2%/*}; " + test.script + "echo ready; read x\n"); err != nil {
				t.Fatal(err)
			}
			_ = w.Close()
			if test.attr.Credential != nil {
				_ = r.Chown(65534, 65534) // it is skipped without
			}
			cmd := exec.CommandContext(t.Context(), "/bin/sh", script, "-c", dir+"/envoy-config.yaml")
			cmd.ExtraFiles, cmd.SysProcAttr, cmd.Dir = []*os.File{r}, &test.attr, "/"
			in, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); errors.Is(err, fs.ErrPermission) {
				t.Skip("only root may do that")
			} else if err != nil {
				t.Fatal(err)
			}
			_ = r.Close()
			if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
				_ = cmd.Wait()
				t.Skipf("it cannot be started so: %q, %v", line, err)
			}
			endOrphans(dir)
			_ = in.Close() // one that was left ends with 1, as there is nothing to read
			_ = cmd.Wait()
			status, _ := cmd.ProcessState.Sys().(syscall.WaitStatus)
			if status.Signaled() != test.killed {
				t.Errorf("killed: %t, want %t", status.Signaled(), test.killed)
			}
		})
	}
}
