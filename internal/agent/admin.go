package agent

import (
	"os"
	"strings"

	"github.com/evermesh/evermesh/internal/agent/bootstrap"
	"github.com/evermesh/evermesh/internal/agent/settings"
)

// adminOf is where to ask the Envoy of that bootstrap: where the variables say, unless a file of the user says otherwise.
func adminOf(said settings.Admin, text []byte) settings.Admin {
	found, ok := bootstrap.AdminOf(text)
	if !ok || found.Socket != "" && found.Socket == said.Socket || said.Socket == "" && found.Socket == "" && found.Address == "" && found.Port == said.Port {
		return said
	}
	return found
}

// AdminForClient is where the Envoy of an agent with that environment is asked, for a program that is not the agent: what
// the variables say, or the files of the user that they name. A file that cannot be read says nothing.
func AdminForClient(getenv func(string) string, uid int) settings.Admin {
	admin := settings.ForClient(getenv, uid).Admin
	for _, name := range append(bootstrap.FileVariables(), "ENVOY_CONFIG_FILE") {
		path := strings.TrimSpace(getenv(name))
		if path == "" {
			continue
		}
		if text, err := os.ReadFile(path); err == nil {
			admin = adminOf(admin, text)
		}
	}
	return admin
}
