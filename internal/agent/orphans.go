package agent

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/evermesh/evermesh/internal/agent/supervise"
)

// orphanWait is how long a killed process may take to be gone.
const orphanWait = 2 * time.Second

// endOrphans kills the Envoys that were started with a bootstrap in the directory, whose agent is dead. The kernel ends
// an Envoy with its agent, but not every one. With hot restart Envoy has itself told by SIGTERM instead, which one that
// hangs does not heed; and a binary with file capabilities loses the kernel's promise when it is started by another user
// than root. They would keep their ports and their base id from the next one.
func endOrphans(dir string) {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline") // the pattern is well-formed
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil || !bytes.Contains(text, []byte("\x00-c\x00"+dir+"/")) {
			continue // gone, or none of them
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil || syscall.Kill(pid, syscall.SIGKILL) != nil {
			continue // another user's
		}
		ctx, cancel := context.WithTimeout(context.Background(), orphanWait)
		_ = supervise.AwaitExit(ctx, pid) // without it the next Envoy says what is in its way
		cancel()
	}
}
