package agent

import (
	"context"
	"log/slog"
	"time"

	"github.com/evermesh/evermesh/internal/agent/relay"
	"github.com/evermesh/evermesh/internal/agent/settings"
	"github.com/evermesh/evermesh/internal/agent/supervise"
)

// PreflightTime is how long a preflight takes at most, unless asked otherwise.
const PreflightTime = 30 * time.Second

// Preflight tries the way to the control plane that an agent of these settings would go, and starts nothing. It ends
// at the latest when ctx does.
func Preflight(ctx context.Context, s settings.Settings, version string, log *slog.Logger) (relay.Report, error) {
	path, err := supervise.Find(s)
	if err != nil {
		path = "" // it is asked only whether it is a FIPS build
	}
	_, s, err = facts(ctx, s, path, log)
	if err != nil {
		return relay.Report{}, err
	}
	return relay.Preflight(ctx, s, version, log)
}
