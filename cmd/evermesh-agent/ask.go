package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"strings"

	"github.com/evermesh/evermesh/internal/agent"
	"github.com/evermesh/evermesh/internal/agent/httpapi"
	"github.com/evermesh/evermesh/internal/agent/logs"
	"github.com/evermesh/evermesh/internal/agent/settings"
)

const (
	statusHelp = `evermesh-agent status prints how a running agent and its Envoy are, as JSON: what GET /status answers.
` + whereHelp
	drainHelp = `evermesh-agent drain has a running agent's Envoy drain its listeners for arriving traffic: POST /drain_listeners.
The agent and Envoy go on. To take a proxy out of what its clients are sent, use "evermesh drain".
` + whereHelp
	quitHelp = `evermesh-agent quit has a running agent drain and end with 0, as SIGTERM does: POST /quit. It returns at once.
For jobs, whose main container has ended.
` + whereHelp
	whereHelp = `
The agent is asked over its HTTP interface, which it has with APPNET_AGENT_ADMIN_MODE. The same variables say here
where that is: APPNET_AGENT_ADMIN_MODE (tcp), APPNET_AGENT_HTTP_PORT (9902), APPNET_AGENT_ADMIN_UDS_PATH.

Exit codes: 0 done, 1 the agent is not there or refuses, 2 wrong use.
`
	preflightHelp = `evermesh-agent preflight goes the way to the control plane that Envoy's stream goes, to every address of every
endpoint, and says in a line for each how far it came: credentials, name, connection, TLS, permission. It takes the
variables of the agent, and starts nothing.

  --timeout D   how long to try (30s)

Exit codes: 0 an endpoint serves, 1 none does, 2 wrong use or wrong variables.
`
)

// asking is a verb that makes one request of a running agent.
func asking(name string) func(context.Context, []string, streams) error {
	return func(ctx context.Context, args []string, std streams) error {
		if err := noArguments(name, args); err != nil {
			return err
		}
		method, path := http.MethodPost, "/"+name
		switch name {
		case "status":
			method = http.MethodGet
		case "drain":
			path = "/drain_listeners?inboundonly"
		}
		text, err := ask(ctx, settings.ForClient(os.Getenv, os.Getuid()), method, path)
		if err != nil {
			return err
		}
		return say(std.out, text)
	}
}

// maxAnswer bounds what is read of an agent's answer.
const maxAnswer = 1 << 20

// ask makes one request of a running agent.
func ask(ctx context.Context, s settings.Settings, method, path string) (string, error) {
	client, status := httpapi.Client(s.Server)
	r, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(status, "/status")+path, nil)
	if err != nil {
		return "", fmt.Errorf("ask the agent: %w", err)
	}
	answer, err := client.Do(r)
	if err != nil {
		return "", fmt.Errorf("ask the agent at %s: %w; it must run with APPNET_AGENT_ADMIN_MODE", s.Server.Address, err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer))
	if err != nil {
		return "", fmt.Errorf("ask the agent: %w", err)
	}
	if answer.StatusCode != http.StatusOK {
		return "", fmt.Errorf("ask the agent: %s: %.200s", answer.Status, strings.TrimSpace(string(text)))
	}
	return string(text), nil
}

func preflight(ctx context.Context, args []string, std streams) error {
	flags := flag.NewFlagSet("preflight", flag.ContinueOnError)
	timeout := flags.Duration("timeout", agent.PreflightTime, "")
	if err := parse("preflight", flags, args); err != nil {
		return err
	}
	if err := noArguments("preflight", flags.Args()); err != nil {
		return err
	}
	if *timeout <= 0 {
		return usage("preflight", fmt.Errorf("--timeout: %s is no time to try", *timeout))
	}
	s, err := settings.Parse(os.Getenv, settings.Flags{}, os.Getuid())
	if err != nil {
		return &exitError{exitUsage, oneLine(err)}
	}
	ctx, cancel := context.WithTimeout(ctx, *timeout)
	defer cancel()
	report, err := agent.Preflight(ctx, s, version, logs.New(io.Discard, "off"))
	if err != nil {
		return err
	}
	if err := say(std.out, strings.Join(report.Lines(), "\n")+"\n"); err != nil {
		return err
	}
	if !report.OK() {
		return &exitError{exitFailure, "no endpoint of the control plane serves this proxy"}
	}
	return nil
}

// pin keeps the calling goroutine on its thread, which a child's death signal follows.
func pin() (unpin func()) {
	runtime.LockOSThread()
	return runtime.UnlockOSThread
}
