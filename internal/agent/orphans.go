package agent

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/evermesh/evermesh/internal/agent/owner"
	"github.com/evermesh/evermesh/internal/agent/supervise"
)

// orphanWait is how long a killed process may take to be gone.
const orphanWait = 2 * time.Second

// endOrphans kills the Envoys that were started with a bootstrap in the directory, whose agent is dead. The kernel ends
// an Envoy with its agent; but with hot restart Envoy has itself told by SIGTERM instead, which one that hangs does not
// heed: it would keep its ports and its base id from the next one.
func endOrphans(dir string) {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline") // the pattern is well-formed
	for _, file := range files {
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil || !orphan(pid, dir) {
			continue
		}
		// From here on the number is that process's, whatever ends meanwhile; so it is looked at once more.
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue // gone
		}
		killed := orphan(pid, dir) && unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) == nil
		_ = unix.Close(fd)
		if !killed {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), orphanWait)
		_ = supervise.AwaitExit(ctx, pid) // without it the next Envoy says what is in its way
		cancel()
	}
}

// orphan says whether a process of this user's has its bootstrap in that very directory: another container's has one
// of the same name at most.
func orphan(pid int, dir string) bool {
	proc := filepath.Join("/proc", strconv.Itoa(pid))
	text, err := os.ReadFile(filepath.Join(proc, "cmdline"))
	if err != nil || !bytes.Contains(text, []byte("\x00-c\x00"+dir+"/")) {
		return false
	}
	info, err := os.Stat(proc)
	if err != nil || !owner.Mine(info) {
		return false
	}
	here, err := os.Stat(dir)
	if err != nil {
		return false
	}
	there, err := os.Stat(filepath.Join(proc, "root", dir))
	return err == nil && os.SameFile(here, there)
}
