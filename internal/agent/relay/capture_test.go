package relay

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/evermesh/evermesh/internal/agent/agenttest"
)

// What the kernel's tables look like on a machine whose order is not that of the network, as nearly all have it.
const (
	tcpTable = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:3A99 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1337        0 1 1 0 100 0 0 10 0
   1: 0A00000A:C001 0700000A:1B9F 01 00000000:00000000 00:00000000 00000000     0        0 2 1 0 20 4 30 10 -1
   2: 0100007F:3A99 0A00000A:C001 01 00000000:00000000 00:00000000 00000000  1337        0 3 1 0 20 4 30 10 -1
   3: 0700000A:1B9F 0A00000A:C002 01 00000000:00000000 00:00000000 00000000     0        0 4 1 0 20 4 30 10 -1
   4: broken
`
	tcp6Table = `  sl  local_address                         remote_address                        st
   0: 00000000000000000000000001000000:3A99 B80D0120000000000000000001000000:C003 01
   1: 0000000000000000FFFF00000100007F:3A99 0000000000000000FFFF00000A00000A:C004 01
`
)

// The other end of a captured connection is a socket of this machine that was not asked for; one on this machine that
// was asked for is no capture.
func TestOtherEnd(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, table, own, peer string
		port                   int
	}{
		{"captured", tcpTable, "10.0.0.10:49153", "10.0.0.7:7071", 15001},
		{"asked for", tcpTable, "10.0.0.10:49154", "10.0.0.7:7071", 0},
		{"elsewhere", tcpTable, "10.0.0.10:49160", "10.0.0.7:7071", 0},
		{"captured over IPv6", tcp6Table, "[2001:db8::1]:49155", "[2001:db8::7]:7071", 15001},
		{"captured by a socket of both families", tcp6Table, "10.0.0.10:49156", "10.0.0.7:7071", 15001},
		{"no table", "", "10.0.0.10:49153", "10.0.0.7:7071", 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if got := otherEnd(strings.NewReader(test.table), netip.MustParseAddrPort(test.own), netip.MustParseAddrPort(test.peer)); got != test.port {
				t.Errorf("got port %d, want %d", got, test.port)
			}
		})
	}
}

func FuzzOtherEnd(f *testing.F) {
	for _, seed := range []string{tcpTable, tcp6Table, "", "0: 0:0 0:0 01", ": : : :"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, table string) {
		if got := otherEnd(strings.NewReader(table), netip.MustParseAddrPort("10.0.0.10:49153"), netip.MustParseAddrPort("10.0.0.7:7071")); got < 0 || got > 65535 {
			t.Errorf("got port %d", got)
		}
	})
}

// Connections of this machine to itself are looked for in the kernel's own tables, and not taken for captured ones.
func TestNotCaptured(t *testing.T) {
	t.Parallel()
	c := agenttest.NewControlPlane(t, "")
	for _, why := range []suspicion{taken, refused} {
		if got := newCapture().look(t.Context(), newDialer(0), c.Addr, why); got != "" {
			t.Errorf("%s: %s", why, got)
		}
	}
}

func TestNameServersInWords(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"search x\nnameserver 10.0.0.2\nnameserver fd00::2\n": "name server 10.0.0.2, fd00::2",
		"# nothing\n": "no name server in ",
	} {
		if got := nameServers(write(t, "resolv.conf", text)); !strings.HasPrefix(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if got := nameServers(filepath.Join(os.TempDir(), "nowhere", "resolv.conf")); !strings.HasPrefix(got, "no name server (") {
		t.Error(got)
	}
}
