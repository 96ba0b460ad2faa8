package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/evermesh/evermesh/internal/agent"
	"github.com/evermesh/evermesh/internal/agent/httpapi"
	"github.com/evermesh/evermesh/internal/agent/settings"
)

const helpText = `evermesh-agent runs beside a workload's Envoy, as the agent of App Mesh's Envoy image did.

  evermesh-agent [flags] [-- flags of Envoy]     start Envoy for a virtual node or gateway
  evermesh-agent intercept [flags]               redirect the workload's traffic into Envoy
  evermesh-agent hosts [NAME...]                 print where services are called without interception
  evermesh-agent wait [flags] [-- COMMAND …]     wait until Envoy is ready, then become COMMAND
  evermesh-agent status                          print how a running agent and its Envoy are
  evermesh-agent preflight                       try the way to the control plane, step by step
  evermesh-agent drain                           have a running agent's Envoy drain what arrives
  evermesh-agent quit                            have a running agent drain and end
  evermesh-agent completion bash|zsh|fish        print a script that completes this command line
  evermesh-agent man [--out DIRECTORY]           write the manual pages
  evermesh-agent version                         print the version
  evermesh-agent help [COMMAND]                  print this, or the help of a command

Flags (with one dash or two):
  -envoyConfigPath FILE   Envoy's bootstrap; one that is there and not empty is used as it is
  -logLevel LEVEL         of Envoy and agent: trace, debug, info, warn, error, critical, off
  -envoyReadiness         ask the running agent whether Envoy is ready; exit 0 if it is, else 1
  -quit-with PID          drain and end when that process has ended, such as the main one of a job;
                          it must be seen from here, as in a pod with shareProcessNamespace

The rest is set by environment variables, those of App Mesh's image. The ones that matter most:
  APPMESH_RESOURCE_ARN            whose proxy this is: an ARN, or mesh/<mesh>/virtualNode/<name>
  APPMESH_XDS_ENDPOINT            control planes, separated by commas: host:port (TLS), http://host:port,
                                  xds+unix://path
  APPMESH_XDS_CA_FILE             CA of the control plane, PEM
  AWS_REGION, AWS_ACCESS_KEY_ID,  region and credentials that sign the xDS stream; AWS's other sources of
  AWS_SECRET_ACCESS_KEY           credentials work too
  EVERMESH_TOKEN_FILE             token of a Kubernetes service account, instead of a signature
  APPMESH_XDS_CLIENT_CERT_FILE,   client certificate with a SPIFFE id, PEM
  APPMESH_XDS_CLIENT_KEY_FILE
  EVERMESH_ROLE_ARN               the role that token or certificate stand for
  ENVOY_PATH                      the Envoy binary; else envoy on PATH
  APPNET_AGENT_ADMIN_MODE         tcp or uds: serve /status, by default on port 9902
  APPNET_ENVOY_RESTART_COUNT      how often in a row Envoy is started again (3)
  LISTENER_DRAIN_WAIT_TIME_S      how long connections may take to end after SIGTERM (20)

Signals: SIGTERM, SIGQUIT and SIGINT drain and end; a second one ends at once. SIGHUP starts Envoy anew from
what is at its path, without a lost request, where DISABLE_HOT_RESTART is false.

Exit codes: 0 after SIGTERM and the like, 2 for wrong configuration, 1 when Envoy ended too often and for
anything else.
`

// supervising is evermesh-agent without a verb.
func supervising(ctx context.Context, args []string, std streams, got signals) error {
	flags := flag.NewFlagSet("evermesh-agent", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	var given settings.Flags
	flags.StringVar(&given.ConfigFile, "envoyConfigPath", "", "")
	flags.StringVar(&given.LogLevel, "logLevel", "", "")
	ready := flags.Bool("envoyReadiness", false, "")
	with := flags.Int("quit-with", 0, "")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return say(std.out, helpText)
	} else if err != nil {
		return &exitError{exitUsage, err.Error() + "; see evermesh-agent --help"}
	}
	if word := flags.Arg(0); word != "" && !strings.HasPrefix(word, "-") {
		// Envoy takes none that is not a flag, so it is a verb or a value gone astray.
		return unknown(word)
	}
	if *with < 0 {
		return &exitError{exitUsage, fmt.Sprintf("-quit-with: %d is no process; see evermesh-agent --help", *with)}
	}
	if *ready {
		return httpapi.Readiness(ctx, settings.ForClient(os.Getenv, os.Getuid()))
	}
	asked, err := settings.Parse(os.Getenv, given, os.Getuid())
	if err == nil {
		out := newOutput(asked, std.out, std.err)
		err = agent.Run(ctx, asked, agent.Program{
			Version: version, Args: flags.Args(), Stdout: out.stdout, Stderr: out.stderr, Log: out.log,
			Hurry: got.hurry, HandOver: got.handOver, QuitWith: *with, Harden: true,
		})
		out.close()
	}
	if _, ok := errors.AsType[*settings.ConfigError](err); ok {
		return &exitError{exitUsage, oneLine(err)}
	}
	return err
}
