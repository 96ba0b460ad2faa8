package httpapi

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"

	"github.com/evermesh/evermesh/internal/agent/envoyadmin"
	"github.com/evermesh/evermesh/internal/agent/pause"
	"github.com/evermesh/evermesh/internal/agent/settings"
)

// Readiness asks the /status of the agent that runs with the same settings until it is healthy, for -envoyReadiness.
// An interval or time-out of 0 asks once.
func Readiness(ctx context.Context, s settings.Settings) error {
	client, address := Client(s.Server)
	if client == nil {
		return settings.Wrong("APPNET_AGENT_ADMIN_MODE", "must be tcp or uds: the agent's state is asked over its HTTP interface")
	}
	once := s.ReadinessInterval == 0 || s.ReadinessTimeout == 0
	if !once {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, s.ReadinessTimeout)
		defer cancel()
	}
	var said error
	for {
		err := askHealthy(ctx, client, address)
		if err == nil || once {
			return err
		}
		if said == nil || ctx.Err() == nil { // that the time is over says least
			said = err
		}
		if pause.For(ctx, s.ReadinessInterval) != nil {
			return said
		}
	}
}

// Client reaches the interface of a running agent, and the address of its /status; nil where there is none.
func Client(s settings.Server) (*http.Client, string) {
	dialer := &net.Dialer{}
	network, address := s.Network, s.Address
	switch network {
	case "":
		return nil, ""
	case "tcp":
		if host, port, err := net.SplitHostPort(s.Address); err == nil && everywhere(host) {
			address = net.JoinHostPort("localhost", port)
		}
	}
	return &http.Client{Timeout: envoyadmin.Wait, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, network, address)
		},
	}}, "http://agent/status"
}

// everywhere says that a server that listens on host does so on the loopback, too.
func everywhere(host string) bool {
	a, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return host == "" || (err == nil && a.IsUnspecified())
}

func askHealthy(ctx context.Context, client *http.Client, address string) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return fmt.Errorf("ask the agent: %w", err)
	}
	answer, err := client.Do(r)
	if err != nil {
		return fmt.Errorf("ask the agent: %w", err)
	}
	defer answer.Body.Close()
	var s Status
	if err := json.NewDecoder(answer.Body).Decode(&s); err != nil {
		return fmt.Errorf("ask the agent: %w", err)
	}
	if s.Health != healthy {
		return fmt.Errorf("envoy is %s: state %s, control plane %s", s.Health, s.State, s.ManagementServer)
	}
	return nil
}
