//go:build linux

package ground_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/evermesh/evermesh/internal/intercept"
	"github.com/evermesh/evermesh/test/ground"
)

func TestEnterGivesNamespacesOfItsOwn(t *testing.T) {
	if !ground.Inside() || os.Getpid() != 1 {
		t.Errorf("inside %v, pid %d: want process 1 of a namespace", ground.Inside(), os.Getpid())
	}
	links, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	if len(links) != 1 || links[0].Name != "lo" {
		t.Errorf("interfaces before a ground: %v, want the loopback alone", links)
	}
}

func TestHostsReachEachOther(t *testing.T) {
	g := newGround(t)
	a, b := newHost(t, g, "a"), newHost(t, g, "b")
	if again := newHost(t, g, "a"); again != a {
		t.Error("the same name gave another host")
	}
	tell(t, b, ":8080", "from b")
	tell(t, a, ":8080", "from a") // the same port, another host
	tell(t, g.Home(), ":8080", "from home")
	g.DNS().Set("b.local", b.Addr(), b.Addr6())

	for name, try := range map[string]struct {
		from *ground.Host
		to   string
		want string
	}{
		"by address":      {a, b.Addr().String() + ":8080", "from b"},
		"by IPv6 address": {a, net.JoinHostPort(b.Addr6().String(), "8080"), "from b"},
		"by name":         {a, "b.local:8080", "from b"},
		"back":            {b, a.Addr().String() + ":8080", "from a"},
		"to home":         {a, g.Home().Addr().String() + ":8080", "from home"},
		"from home":       {g.Home(), "b.local:8080", "from b"},
		"to itself":       {a, "127.0.0.1:8080", "from a"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := hear(t, try.from, try.to); got != try.want {
				t.Errorf("heard %q, want %q", got, try.want)
			}
		})
	}
}

// TestAHostKeepsReachingHomeWhileOthersCome is for what a bridge does by itself: it takes the lowest hardware address
// of its ports, and so another one when a host comes, which those that are there notice after many seconds. That it
// keeps the address is told by looking at it, and not by how long an answer takes.
func TestAHostKeepsReachingHomeWhileOthersCome(t *testing.T) {
	g := newGround(t)
	tell(t, g.Home(), ":8080", "home")
	first := newHost(t, g, "first")
	home := []string{g.Home().Addr().String(), g.Home().Addr6().String()}
	bridge := func() (address string) {
		if err := g.Home().Do(func() error {
			link, err := netlink.LinkByName("br0")
			if err == nil {
				address = link.Attrs().HardwareAddr.String()
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return address
	}
	began := bridge()
	for n := range 20 {
		newHost(t, g, fmt.Sprint("other", n))
		if now := bridge(); now != began {
			t.Fatalf("after %d hosts more the bridge has the address %s, and had %s", n+1, now, began)
		}
		for _, addr := range home {
			if got := hear(t, first, net.JoinHostPort(addr, "8080")); got != "home" {
				t.Fatalf("after %d hosts more: %s said %q", n+1, addr, got)
			}
		}
	}
}

func TestNameServer(t *testing.T) {
	g := newGround(t)
	a := newHost(t, g, "a")
	names := g.DNS()
	names.Set("Service.Local.", netip.MustParseAddr("10.77.0.99"), netip.MustParseAddr("fd77::99"))
	names.Set("empty.local")

	resolve := func(name string) (string, error) { return run(t, g, a, 0, "resolve "+name) }
	if got, err := resolve("service.local"); err != nil || got != "10.77.0.99 fd77::99" && got != "fd77::99 10.77.0.99" {
		t.Errorf("a program on a host resolved service.local to %q, %v", got, err)
	}
	if n := names.Queries("service.local"); n == 0 {
		t.Error("no query was counted")
	}
	for _, name := range []string{"empty.local", "unknown.local"} {
		if got, err := resolve(name); err == nil {
			t.Errorf("%s resolved to %q, want an error", name, got)
		}
	}
	names.Remove("service.local")
	if got, err := resolve("service.local"); err == nil || !strings.Contains(got, "no such host") {
		t.Errorf("a removed name resolved to %q, %v", got, err)
	}

	names.Set("slow.local", netip.MustParseAddr("10.77.0.98"))
	ask := func() (time.Duration, error) {
		begin := time.Now()
		_, err := resolve("slow.local")
		return time.Since(begin), err
	}
	names.Delay("slow.local", 300*time.Millisecond)
	if took, err := ask(); err != nil || took < 300*time.Millisecond {
		t.Errorf("a delayed answer took %v, %v; want 300ms or more", took, err)
	}
	names.Delay("slow.local", 0)
	names.Silence("slow.local", 1500*time.Millisecond) // the resolver asks again after two seconds
	if took, err := ask(); err != nil || took < time.Second {
		t.Errorf("a name silent for 1.5s took %v, %v; want a second try", took, err)
	}
}

// TestRedirection installs the rules of the agent's init container with each tool of the machine, and shows that a
// workload's connection goes to Envoy's port while Envoy's own, recognised by Owner, does not.
func TestRedirection(t *testing.T) {
	t.Setenv("XTABLES_LOCKFILE", filepath.Join(t.TempDir(), "lock")) // the machine's is root's
	tools, err := intercept.Find("auto")
	if err != nil {
		t.Fatal(err)
	}
	for _, tool := range tools {
		t.Run(tool.Name(), func(t *testing.T) {
			g := newGround(t)
			a := newHost(t, g, "a")
			tell(t, g.Home(), ":8080", "direct")
			tell(t, a, ":15001", "redirected")

			vars := map[string]string{"APPMESH_START_ENABLED": "1", "APPMESH_ENVOY_EGRESS_PORT": "15001"}
			for _, v := range g.Owner().Env() {
				name, value, _ := strings.Cut(v, "=")
				vars[name] = value
			}
			cfg, err := intercept.Parse(func(name string) string { return vars[name] })
			if err != nil {
				t.Fatal(err)
			}
			if err := a.Do(func() error { return tool.Apply(t.Context(), cfg) }); err != nil {
				t.Fatal(err)
			}
			target := g.Home().Addr().String() + ":8080"
			if got, err := run(t, g, a, 0, "read "+target); err != nil || got != "redirected" {
				t.Errorf("a workload heard %q, %v, want it redirected", got, err)
			}
			// An address that nobody has, as a virtual service's may be.
			if got, err := run(t, g, a, 0, "read 192.0.2.1:80"); err != nil || got != "redirected" {
				t.Errorf("a workload heard %q, %v from an address of nobody, want it redirected", got, err)
			}
			if uid := g.Owner().UID; uid != 0 {
				if got, err := run(t, g, a, uid, "read "+target); err != nil || got != "direct" {
					t.Errorf("user %d heard %q, %v, want it direct", uid, got, err)
				}
			}
		})
	}
}

func TestRunTellsOutputAndFailure(t *testing.T) {
	g := newGround(t)
	a := newHost(t, g, "a")
	if out, err := run(t, g, a, 0, "read 10.77.0.1:1"); err == nil || !strings.Contains(err.Error(), "refused") || !strings.Contains(out, "refused") {
		t.Errorf("a refused connection gave %q, %v", out, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	tell(t, g.Home(), ":8080", "x")
	socket, _ := holders(t)
	if _, err := a.Run(ctx, ground.Command{Path: "/proc/self/exe", Env: []string{part + "=hold " + socket}}); err == nil {
		t.Error("a program that was killed at the end of its time gave no error")
	}
}

// holders listens on a socket; the channel yields each connection of a "hold" part, and is the way to see its end.
func holders(t *testing.T) (socket string, conns <-chan net.Conn) {
	t.Helper()
	dir, err := os.MkdirTemp("", "ground-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket = filepath.Join(dir, "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(socket, 0o777); err != nil {
		t.Fatal(err)
	}
	accepted := make(chan net.Conn, 8)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { conn.Close() })
			accepted <- conn
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return socket, accepted
}

// held waits for a holder to come.
func held(t *testing.T, conns <-chan net.Conn) net.Conn {
	t.Helper()
	select {
	case conn := <-conns:
		return conn
	case <-time.After(wait):
		t.Fatal("no program came")
		return nil
	}
}

// ended says whether the holder behind conn ends in time.
func ended(conn net.Conn) bool {
	if err := conn.SetReadDeadline(time.Now().Add(wait)); err != nil {
		return false
	}
	_, err := conn.Read(make([]byte, 1))
	return err != nil && !os.IsTimeout(err)
}

func TestProcessesEndWithTheGround(t *testing.T) {
	g, err := ground.New()
	if err != nil {
		t.Fatal(err)
	}
	socket, conns := holders(t)
	a := newHost(t, g, "a")
	var all []*ground.Process
	for range 3 {
		p, err := a.Start(ground.Command{Path: "/proc/self/exe", Env: []string{part + "=hold " + socket}})
		if err != nil {
			t.Fatal(err)
		}
		held(t, conns)
		all = append(all, p)
	}
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	if err := all[0].Stop(ctx); err != nil {
		t.Errorf("stop: %v", err)
	}
	if err := all[1].Kill(); err != nil {
		t.Errorf("kill: %v", err)
	}
	if err := g.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	for i, p := range all {
		if p.Err() == nil {
			t.Errorf("process %d ended by itself", i)
		}
	}
	if _, err := os.Stat(g.Dir()); !os.IsNotExist(err) {
		t.Errorf("the ground's directory is still there: %v", err)
	}
}

func TestBareGroundIsTheMachine(t *testing.T) {
	g, err := ground.Bare()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.Host("a"); err == nil {
		t.Error("a bare ground gave another host")
	}
	if err := bringUpLoopback(); err != nil {
		t.Fatal(err)
	}
	tell(t, g.Home(), "127.0.0.1:8080", "from home")
	if got := hear(t, g.Home(), "127.0.0.1:8080"); got != "from home" {
		t.Errorf("heard %q", got)
	}
	socket, conns := holders(t)
	if _, err := g.Home().Start(ground.Command{Path: "/proc/self/exe", Env: []string{part + "=hold " + socket}}); err != nil {
		t.Fatal(err)
	}
	conn := held(t, conns)
	if err := g.Close(); err != nil {
		t.Error(err)
	}
	if !ended(conn) {
		t.Error("a program outlived its ground")
	}
}

// bringUpLoopback makes these tests' own network, which no ground may have laid yet, a machine's.
func bringUpLoopback() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}

// nested is this program, to enter a ground inside the tests' own.
func nested(t *testing.T, words string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), part+"=enter "+words)
	cmd.Stderr = os.Stderr
	return cmd
}

func TestEnterReturnsTheExitCode(t *testing.T) {
	cmd := nested(t, "exit")
	if err := cmd.Run(); cmd.ProcessState.ExitCode() != 7 {
		t.Errorf("exit code %d, %v; want 7", cmd.ProcessState.ExitCode(), err)
	}
}

func TestInterruptEndsTheProgramInsideBySIGTERM(t *testing.T) {
	cmd := nested(t, "wait")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "waiting\n" {
		t.Fatalf("it said %q, %v", line, err)
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 9 {
		t.Errorf("exit code %d, %v; want 9", cmd.ProcessState.ExitCode(), err)
	}
}

func TestEverythingEndsWhenTheCallerIsKilled(t *testing.T) {
	socket, conns := holders(t)
	cmd := nested(t, "host "+socket)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	conn := held(t, conns)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	if !ended(conn) {
		t.Error("a program on a host outlived the caller of Enter")
	}
}

// TestWithoutRoot runs these tests again as a user without rights, where there is root to come from; otherwise they
// have all run so already.
func TestWithoutRoot(t *testing.T) {
	if os.Geteuid() != 0 || newGround(t).Owner().UID == 0 {
		return
	}
	const nobody = 65534
	cmd := exec.Command("/proc/self/exe", "-test.run", "^Test(Hosts|NameServer|Redirection|Processes|Enter|Everything)", "-test.v")
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "EVERMESH_GROUND=") && !strings.HasPrefix(v, "GOCOVERDIR=") {
			cmd.Env = append(cmd.Env, v)
		}
	}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	out, err := cmd.CombinedOutput()
	switch {
	case err != nil && strings.HasPrefix(string(out), "make namespaces:"):
		t.Skipf("this machine gives user namespaces to root only: %s", out)
	case err != nil:
		t.Errorf("as user %d: %v\n%s", nobody, err, out)
	case !strings.Contains(string(out), "--- PASS: TestRedirection"):
		t.Errorf("as user %d nothing ran:\n%s", nobody, out)
	}
}
