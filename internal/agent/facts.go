package agent

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"log/slog"

	"github.com/evermesh/evermesh/internal/agent/bootstrap"
	"github.com/evermesh/evermesh/internal/agent/platform"
	"github.com/evermesh/evermesh/internal/agent/relay"
	"github.com/evermesh/evermesh/internal/agent/settings"
)

// facts asks the machine and its platform, and returns the settings with what only those know. envoy is the binary's
// path. The socket of the relay is not known yet. Who wrote the bootstrap needs no facts, unless signing wants the region.
func facts(ctx context.Context, s settings.Settings, envoy string, log *slog.Logger) (bootstrap.Facts, settings.Settings, error) {
	return factsOf(ctx, platform.Machine{Dialer: relay.NewDialer(s.Mark), Envoy: envoy}, s, log)
}

func factsOf(ctx context.Context, m platform.Machine, s settings.Settings, log *slog.Logger) (bootstrap.Facts, settings.Settings, error) {
	if s.OwnBootstrap() && s.Region != "" && !s.OwnService() {
		return bootstrap.Facts{Instance: newInstance()}, s, nil
	}
	found, err := platform.Ask(ctx, s, m)
	if ctx.Err() != nil {
		return bootstrap.Facts{}, s, fmt.Errorf("ask the platform: %w", ctx.Err())
	}
	if err != nil {
		log.Warn("not everything about the platform is known; that is for information only", "err", err)
	}
	found.Facts.Instance = newInstance()
	s, err = s.Located(found.Facts.Region, found.FIPS)
	if err == nil && s.OwnService() {
		log.Warn("no endpoint is set, App Mesh's own is taken", "endpoint", s.Endpoints[0].String())
	}
	return found.Facts, s, err
}

// newInstance is 128 random bits.
func newInstance() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}
