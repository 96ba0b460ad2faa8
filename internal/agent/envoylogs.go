package agent

import (
	"fmt"
	"os"

	"github.com/evermesh/evermesh/internal/agent/logs"
	"github.com/evermesh/evermesh/internal/agent/settings"
)

// envoyLogs are the settings with logs that Envoy may write to, which ends otherwise.
func (p Program) envoyLogs(b settings.BootstrapSettings) settings.BootstrapSettings {
	var err error
	if b.AdminAccessLog, err = p.writable(b.AdminAccessLog); err != nil {
		p.Log.Warn("cannot write ENVOY_ADMIN_ACCESS_LOG_FILE: accesses of the administration interface are not logged", "err", err)
	}
	if b.OutlierLog, err = p.writable(b.OutlierLog); err != nil {
		p.Log.Warn("cannot write ENVOY_OUTLIER_DETECTION_EVENT_LOG_PATH: hosts that are ejected are not logged", "err", err)
	}
	return b
}

// writable is the file, if Envoy may write to it; else what takes and loses everything, and why. Envoy opens the path by
// itself, with the agent's rights: so it gets none that leads elsewhere, and none that has it wait.
func (p Program) writable(file string) (string, error) {
	if file == "" {
		return file, nil
	}
	f, err := logs.Open(p.forEnvoy(file))
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		return os.DevNull, err
	}
	return file, nil
}

// forEnvoy is the path by which this process opens what Envoy opens by file: Envoy's standard streams are its own.
func (p Program) forEnvoy(file string) string {
	stream := p.Stdout
	switch file {
	case "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1":
	case "/dev/stderr", "/dev/fd/2", "/proc/self/fd/2":
		stream = p.Stderr
	default:
		return file
	}
	if stream == nil {
		return os.DevNull // as os/exec gives Envoy
	}
	return fmt.Sprintf("/proc/self/fd/%d", stream.Fd())
}
