package agent

import (
	"log/slog"
	"os"

	"github.com/evermesh/evermesh/internal/agent/logs"
)

// writable is the file, if Envoy may write to it, which ends otherwise; else what takes and loses everything. Envoy opens
// the path by itself, with the agent's rights: so it gets none that leads elsewhere, and none that has it wait.
func writable(file string, log *slog.Logger) string {
	if file == "" {
		return file
	}
	f, err := logs.Open(file)
	if err == nil {
		err = f.Close()
	}
	if err == nil {
		return file
	}
	log.Warn("cannot write ENVOY_ADMIN_ACCESS_LOG_FILE: accesses of the administration interface are not logged", "err", err)
	return os.DevNull
}
