package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"charm.land/lipgloss/v2"
	"golang.org/x/sys/unix"

	"github.com/evermesh/evermesh/internal/api"
)

// terminal opens a pseudo-terminal: what is written to it can be read from
// screen after it is closed. 0 columns is a terminal that does not say its width.
func terminal(t *testing.T, columns uint16) (tty *os.File, screen func() string) {
	t.Helper()
	master, tty := pseudoTerminal(t, columns)
	var out bytes.Buffer
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(&out, master) // ends with EIO when the other side closes
	}()
	return tty, func() string {
		_ = tty.Close()
		<-done
		return strings.ReplaceAll(out.String(), "\r\n", "\n")
	}
}

// pseudoTerminal opens both sides of one.
func pseudoTerminal(t *testing.T, columns uint16) (master, tty *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = master.Close() })
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(int(master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: columns}); err != nil {
		t.Fatal(err)
	}
	tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return master, tty
}

func TestTableOnATerminal(t *testing.T) {
	t.Parallel()
	tty, screen := terminal(t, 0)
	err := printProxies(tty, api.ListProxiesOutput{Proxies: []api.Proxy{
		proxy("web", "i-1", api.ProxyStateCurrent), proxy("wörld", "i-22", api.ProxyStatePending),
	}})
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(screen()), "\n")
	if len(lines) != 6 || !strings.HasPrefix(lines[0], "╭") || !strings.HasPrefix(lines[5], "╰") || !strings.Contains(lines[4], "│ mesh/shop/virtualNode/wörld") {
		t.Fatalf("not a table of two rows:\n%s", strings.Join(lines, "\n"))
	}
	for i, l := range lines {
		if w := lipgloss.Width(l); w != lipgloss.Width(lines[0]) {
			t.Errorf("line %d is %d wide, the first %d:\n%s", i, w, lipgloss.Width(lines[0]), strings.Join(lines, "\n"))
		}
	}
}

func TestTableOnANarrowTerminal(t *testing.T) {
	t.Parallel()
	tty, screen := terminal(t, 100)
	if err := printProxies(tty, api.ListProxiesOutput{Proxies: []api.Proxy{proxy("web", "i-1", api.ProxyStateCurrent)}}); err != nil {
		t.Fatal(err)
	}
	for _, l := range strings.Split(strings.TrimSpace(screen()), "\n") {
		if w := lipgloss.Width(l); w != 100 {
			t.Errorf("a line is %d wide, the terminal 100: %s", w, l)
		}
	}
}
