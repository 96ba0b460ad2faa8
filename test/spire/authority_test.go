//go:build linux && spire

package spire

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/evermesh/evermesh/test/ground"
	"github.com/evermesh/evermesh/test/stage"
)

const serverConfig = `
server {
  bind_address = "127.0.0.1"
  bind_port = "8081"
  socket_path = "%[1]s/server.sock"
  trust_domain = "example.org"
  data_dir = "%[1]s/server"
  log_level = "INFO"
}
plugins {
  DataStore "sql" {
    plugin_data {
      database_type = "sqlite3"
      connection_string = "%[1]s/server/datastore.sqlite3"
    }
  }
  NodeAttestor "join_token" { plugin_data {} }
  KeyManager "memory" { plugin_data {} }
}
`

const agentConfig = `
agent {
  data_dir = "%[1]s/agent"
  log_level = "INFO"
  server_address = "127.0.0.1"
  server_port = "8081"
  socket_path = "%[1]s/agent.sock"
  trust_domain = "example.org"
  insecure_bootstrap = true
  experimental { sync_interval = "1s" }
}
plugins {
  NodeAttestor "join_token" { plugin_data {} }
  KeyManager "memory" { plugin_data {} }
  WorkloadAttestor "unix" {
    plugin_data {
      discover_workload_path = true
      workload_size_limit = -1
    }
  }
}
`

// authority is a SPIRE server and the agent of the machine, on the home host.
type authority struct {
	t           *testing.T
	dir, server string
	socket      string // of the agent: SDS
}

// newAuthority starts both; they end with the ground.
func newAuthority(t *testing.T) *authority {
	t.Helper()
	root, err := stage.Root()
	must(t, err)
	programs := os.Getenv("SPIRE_PATH")
	if programs == "" {
		programs = filepath.Join(root, "build/tools/spire")
	}
	a := &authority{t: t, dir: filepath.Join(world.Dir(), "spire"), server: filepath.Join(programs, "spire-server")}
	a.socket = filepath.Join(a.dir, "agent.sock")
	must(t, os.MkdirAll(filepath.Join(a.dir, "server"), 0o755))
	for name, text := range map[string]string{"server.conf": serverConfig, "agent.conf": agentConfig} {
		must(t, os.WriteFile(filepath.Join(a.dir, name), fmt.Appendf(nil, text, a.dir), 0o600))
	}
	a.start(a.server, "run", "-config", filepath.Join(a.dir, "server.conf"))
	a.until("SPIRE's server is healthy", func(ctx context.Context) bool {
		_, err := a.try(ctx, "healthcheck")
		return err == nil
	})
	token := strings.TrimSpace(strings.TrimPrefix(a.run("token", "generate", "-spiffeID", "spiffe://example.org/agent"), "Token: "))
	agent := filepath.Join(programs, "spire-agent")
	a.start(agent, "run", "-config", filepath.Join(a.dir, "agent.conf"), "-joinToken", token)
	a.until("SPIRE's agent is healthy", func(ctx context.Context) bool {
		_, err := world.Home().Run(ctx, ground.Command{Name: "spire-health", Path: agent, Args: []string{"healthcheck", "-socketPath", a.socket}})
		return err == nil
	})
	// Envoy's user may ask it, as every workload on the machine may.
	must(t, os.Chmod(a.socket, 0o777))
	return a
}

// workload registers what runs the program as spiffe://example.org/NAME, with certificates of that many seconds.
func (a *authority) workload(name, program string, seconds int) {
	a.t.Helper()
	a.run("entry", "create", "-parentID", "spiffe://example.org/agent", "-spiffeID", "spiffe://example.org/"+name,
		"-selector", "unix:path:"+program, "-x509SVIDTTL", fmt.Sprint(seconds))
}

func (a *authority) start(path string, args ...string) {
	a.t.Helper()
	_, err := world.Home().Start(ground.Command{Path: path, Args: args})
	must(a.t, err)
}

func (a *authority) try(ctx context.Context, args ...string) (string, error) {
	return world.Home().Run(ctx, ground.Command{Name: "spire-command", Path: a.server, Args: append(args, "-socketPath", filepath.Join(a.dir, "server.sock"))})
}

func (a *authority) run(args ...string) string {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(a.t.Context(), wait)
	defer cancel()
	out, err := a.try(ctx, args...)
	must(a.t, err)
	return out
}

func (a *authority) until(what string, done func(context.Context) bool) {
	a.t.Helper()
	until(a.t, what, done)
}
