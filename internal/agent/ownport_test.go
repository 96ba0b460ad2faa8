package agent

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

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
			for file, text := range map[string]string{"lds.yaml": "resources: []\n", "cds.yaml": fmt.Sprintf(dynamicCluster, cds), "envoy.yaml": config} {
				if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			ctx, stop := context.WithCancel(t.Context())
			cmd := exec.CommandContext(ctx, agenttest.Envoys(t)[0], "-c", filepath.Join(dir, "envoy.yaml"), "-l", "off", "--disable-hot-restart", "--concurrency", "1")
			cmd.WaitDelay = time.Second
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { stop(); _ = cmd.Wait() })
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
