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
  evermesh-agent intercept [--remove]            redirect the workload's traffic into Envoy
  evermesh-agent version                         print the version

Flags (with one dash or two):
  -envoyConfigPath FILE   Envoy's bootstrap; one that is there and not empty is used as it is
  -logLevel LEVEL         of Envoy and agent: trace, debug, info, warn, error, critical, off
  -envoyReadiness         ask the running agent whether Envoy is ready; exit 0 if it is, else 1

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
  APPNET_ENVOY_RESTART_COUNT      how often Envoy is started again (3)
  LISTENER_DRAIN_WAIT_TIME_S      how long connections may take to end after SIGTERM (20)

Exit codes: 0 after SIGTERM, 2 for wrong configuration, 1 when Envoy ended too often and for anything else.
`

// supervising is evermesh-agent without a verb.
func supervising(ctx context.Context, args []string, stdout, stderr *os.File) error {
	flags := flag.NewFlagSet("evermesh-agent", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	var given settings.Flags
	flags.StringVar(&given.ConfigFile, "envoyConfigPath", "", "")
	flags.StringVar(&given.LogLevel, "logLevel", "", "")
	ready := flags.Bool("envoyReadiness", false, "")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		_, err := fmt.Fprint(stdout, helpText)
		return err
	} else if err != nil {
		return &exitError{exitUsage, err.Error() + "; see evermesh-agent --help"}
	}
	if word := flags.Arg(0); word != "" && !strings.HasPrefix(word, "-") {
		// Envoy takes none that is not a flag, so it is a verb or a value gone astray.
		return &exitError{exitUsage, fmt.Sprintf("%q is neither a command nor an argument for Envoy; see evermesh-agent --help", word)}
	}
	asked, err := settings.Parse(os.Getenv, given, os.Getuid())
	if err == nil && *ready {
		err = httpapi.Readiness(ctx, asked)
	} else if err == nil {
		out := newOutput(asked, stdout, stderr)
		err = agent.Run(ctx, asked, agent.Program{
			Version: version, Args: flags.Args(), Stdout: out.stdout, Stderr: out.stderr, Log: out.log,
		})
		out.close()
	}
	if _, ok := errors.AsType[*settings.ConfigError](err); ok {
		return &exitError{exitUsage, oneLine(err)}
	}
	return err
}
