package agent

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/evermesh/evermesh/internal/agent/agenttest"
	"github.com/evermesh/evermesh/internal/agent/envoyadmin"
	"github.com/evermesh/evermesh/internal/agent/settings"
	"github.com/evermesh/evermesh/internal/testenv"
)

// A node's listener on the agent's own port lets the node's clients reach the agent, whatever the port of Envoy's
// administration interface is.
func TestOwnPort(t *testing.T) {
	t.Parallel()
	for name, inTheMesh := range map[string]bool{"a node's listener has it": true, "no listener has it": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, own, cds := agenttest.ShortDir(t), testenv.FreePort(t), 1
			if inTheMesh {
				cds = own
			}
			admin := filepath.Join(dir, "admin.sock")
			config := strings.Replace(fmt.Sprintf(dynamic, 1, dir), "{socket_address: {address: 0.0.0.0, port_value: 1}}", "{pipe: {path: "+admin+"}}", 1)
			runDynamic(t, dir, config, "resources: []\n", cds)
			s := onPort(t, 9901)
			s.Admin = settings.Admin{Socket: admin}
			s.Server = settings.Server{Network: "tcp", Address: fmt.Sprintf("[::]:%d", own)}
			log, written := agenttest.Log(t)
			watchPorts(agenttest.Within(t), envoyadmin.New(s.Admin), s, log)
			if said := strings.Contains(written.String(), "a listener has the port of the agent's own interface"); said != inTheMesh {
				t.Errorf("got %q", written)
			}
		})
	}
}
