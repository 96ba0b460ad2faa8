package relay

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/evermesh/evermesh/internal/agent/agenttest"
)

// The other end of a captured connection is a socket of this machine that was not asked for; one that was asked for is no
// capture, nor is what is left of an earlier connection from the same port.
func TestTaker(t *testing.T) {
	t.Parallel()
	const captured = "   0: 0100007F:3A99 %s %s\n"
	l := listen(t, "tcp", "127.0.0.1:0")
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_, own, _ := strings.Cut(conn.LocalAddr().String(), ":")
	_, peer, _ := strings.Cut(l.Addr().String(), ":")
	hex := func(port string) string {
		n, err := strconv.Atoi(port)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("0100007F:%04X", n)
	}
	for name, test := range map[string]struct {
		list string
		port int
	}{
		"captured":                          {fmt.Sprintf(captured, hex(own), "01"), 15001},
		"captured, and closed at once":      {fmt.Sprintf(captured, hex(own), "05"), 15001},
		"left of an earlier connection":     {fmt.Sprintf(captured, hex(own), "06"), 0},
		"an earlier one that nobody closes": {fmt.Sprintf(captured, hex(own), "08"), 0},
		"asked for":                         {"   0: " + hex(peer) + " " + hex(own) + " 01\n", 0},
		"elsewhere":                         {fmt.Sprintf(captured, "0100007F:0001", "01"), 0},
		"another one from the same port":    {fmt.Sprintf(captured, hex(own), "01") + "   1: " + hex(own) + " 0100007F:3A99 01\n", 0},
		"both":                              {fmt.Sprintf(captured, hex(own), "01") + "   1: 0100007F:3A9A " + hex(own) + " 01\n   2: " + hex(own) + " 0100007F:3A9A 01\n", 15001},
		"no list":                           {"", 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCapture()
			c.lists = filepath.Dir(write(t, "tcp", test.list))
			if got := c.taker(conn); got != test.port {
				t.Errorf("got port %d, want %d", got, test.port)
			}
		})
	}
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
