package agent

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/evermesh/evermesh/internal/agent/agenttest"
	"github.com/evermesh/evermesh/internal/agent/settings"
	"github.com/evermesh/evermesh/internal/sockets"
)

// Two agents in one network namespace would share the ports of redirected traffic: that is said before the start, of nodes
// with interception alone, and of sockets that listen.
func TestRedirectedPortsThatAreTaken(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp4", "127.0.0.1:0") // a socket that is seen with its process, under the number of another port
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	inode := ""
	if err := sockets.Each(sockets.OfProcess, func(s sockets.Socket) bool {
		if s.Listens() && s.Local.String() == l.Addr().String() {
			inode = s.Inode
		}
		return inode == ""
	}); err != nil || inode == "" {
		t.Fatalf("the kernel does not list the socket: %v", err)
	}
	line := func(port int, state, inode string) string {
		return fmt.Sprintf("   0: 00000000:%04X 00000000:0000 %s 00000000:00000000 00:00000000 00000000  1337        0 %s 1 0 100 0 0 10 0\n", port, state, inode)
	}
	const warning, none = "another process listens where envoy is to take redirected traffic", "EVERMESH_INTERCEPTION=none"
	own := filepath.Join(t.TempDir(), "envoy.yaml")
	if err := os.WriteFile(own, []byte("admin: {}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		list, variable string
		gateway        bool
		want           []string // beside the warning; nil for silence
	}{
		"a process that is seen":       {line(15001, "0A", inode), "", false, []string{"port=15001", "pid="}},
		"one that is not":              {line(15000, "0A", "1"), "", false, []string{"port=15000"}},
		"a connection at such a port":  {line(15001, "01", inode), "", false, nil},
		"other ports":                  {line(15002, "0A", inode) + line(8080, "0A", inode), "", false, nil},
		"a node without interception":  {line(15001, "0A", inode), none, false, nil},
		"a gateway":                    {line(15000, "0A", inode), "", true, nil},
		"an Envoy with a user's file":  {line(15001, "0A", inode), "ENVOY_CONFIG_FILE=" + own, false, nil},
		"nothing that could be looked": {"", "", false, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			lists := t.TempDir()
			if c.list != "" {
				if err := os.WriteFile(filepath.Join(lists, "tcp"), []byte("  sl  local_address\n"+c.list), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			arn := "APPMESH_RESOURCE_ARN=mesh/m/virtualNode/n"
			if c.gateway {
				arn = "APPMESH_RESOURCE_ARN=mesh/m/virtualGateway/g"
			}
			s, err := settings.Parse(agenttest.Environment(arn, "APPMESH_XDS_ENDPOINT=c:1", c.variable), settings.Flags{}, 0)
			if err != nil {
				t.Fatal(err)
			}
			log, written := agenttest.Log(t)
			checkRedirected(lists, s, log)
			got := written.String()
			if said := strings.Contains(got, warning); said != (c.want != nil) {
				t.Errorf("got %q", got)
			}
			for _, w := range c.want {
				if !strings.Contains(got, w) {
					t.Errorf("got %q, want %s", got, w)
				}
			}
			if name == "one that is not" && strings.Contains(got, "pid=") {
				t.Errorf("got %q", got)
			}
		})
	}
}
