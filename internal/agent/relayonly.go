package agent

import (
	"context"
	"time"

	"github.com/evermesh/evermesh/internal/agent/envoyadmin"
	"github.com/evermesh/evermesh/internal/agent/httpapi"
	"github.com/evermesh/evermesh/internal/agent/relay"
	"github.com/evermesh/evermesh/internal/agent/settings"
)

// noEnvoy is the process of an agent that runs none.
type noEnvoy struct{}

func (noEnvoy) Process() (pid, restarted int) { return 0, 0 }

// relayOnly serves the streams of Envoys that others run, until ctx ends: the relay mode of App Mesh's agent.
func relayOnly(ctx context.Context, quit func(), s settings.Settings, found *relay.Search, p Program) error {
	upstream, err := relay.Start(s, found, p.Version, p.Log)
	if err != nil {
		return err
	}
	defer upstream.Close()
	admin := envoyadmin.New(s.Admin)
	h := httpapi.NewHealth(httpapi.HealthOptions{
		Envoy: noEnvoy{}, Admin: admin, Relay: upstream, RelayOnly: true, Limit: s.DisconnectedLimit, Started: time.Now(), Now: time.Now,
	})
	server, err := httpapi.Listen(httpapi.ServerOptions{
		Where: s.Server, Health: h, Admin: admin, Level: s.LogLevel, Reset: s.LoggingReset, Quit: quit, Log: p.Log,
	})
	if err != nil {
		return err
	}
	defer server.Close()
	p.Log.Info("relaying the streams of other envoys", "socket", s.SocketPath)
	<-ctx.Done()
	return nil
}
