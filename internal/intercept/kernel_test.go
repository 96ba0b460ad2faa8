package intercept_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/evermesh/evermesh/internal/intercept"
	"github.com/evermesh/evermesh/internal/testenv"
	"github.com/evermesh/evermesh/test/ground"
)

// part is the variable that makes this test program connect to its value and print what it hears, as a program of
// another user or with the mark of markVariable.
const (
	part         = "INTERCEPT_TEST_DIAL"
	markVariable = "INTERCEPT_TEST_MARK"
	wait         = 2 * testenv.Patience
)

func TestMain(m *testing.M) {
	if addr := os.Getenv(part); addr != "" {
		text, err := dial(addr, os.Getenv(markVariable))
		fmt.Print(text)
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	for variable, program := range map[string]func(string) error{installs: killed, asks: asked} {
		if value := os.Getenv(variable); value != "" {
			if err := program(value); err != nil {
				fmt.Println(err)
				os.Exit(1)
			}
			os.Exit(0)
		}
	}
	if slices.ContainsFunc(os.Args, func(arg string) bool {
		return strings.HasPrefix(arg, "-test.fuzz=") || arg == "-test.fuzzworker"
	}) {
		os.Exit(m.Run()) // whose workers are started by a program that must be their parent
	}
	exit, inside, err := ground.Enter(context.Background())
	if err != nil {
		// The pure tests run anywhere; those that need the ground say what is missing.
		fmt.Fprintln(os.Stderr, err)
		os.Exit(m.Run())
	}
	if !inside {
		os.Exit(exit)
	}
	os.Exit(m.Run())
}

// dial returns what a connection to addr says.
func dial(addr, mark string) (string, error) {
	d := net.Dialer{Timeout: wait}
	if n, err := strconv.Atoi(mark); err == nil {
		d.Control = func(_, _ string, c syscall.RawConn) error {
			var failed error
			err := c.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, n) })
			return errors.Join(err, failed)
		}
	}
	conn, err := d.Dial("tcp", addr)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	text, err := io.ReadAll(conn)
	return string(text), err
}

// scene is a workload with an Envoy's ports, and another host.
type scene struct {
	ground          *ground.Ground
	workload, other *ground.Host
}

func newScene(t *testing.T) *scene {
	t.Helper()
	if !ground.Inside() {
		t.Skip("this machine allows no network namespaces with redirection: " + missing())
	}
	g, err := ground.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	s := &scene{ground: g}
	for name, host := range map[string]**ground.Host{"workload": &s.workload, "other": &s.other} {
		if *host, err = g.Host(name); err != nil {
			t.Fatal(err)
		}
	}
	for port, text := range map[string]string{"15001": "egress", "15000": "ingress", "8080": "app", "8081": "unmodelled"} {
		tell(t, s.workload, ":"+port, text)
	}
	for _, port := range []string{"9080", "2049", "22"} {
		tell(t, s.other, ":"+port, "other:"+port)
	}
	tell(t, g.Home(), ":9080", "home:9080")
	return s
}

func missing() string {
	_, _, err := ground.Enter(context.Background())
	return fmt.Sprint(err)
}

// tell listens on the host and tells every connection text, until the test ends.
func tell(t *testing.T, h *ground.Host, addr, text string) {
	t.Helper()
	stop, err := h.Greet(addr, text)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
}

// hears checks what a connection from one host to an address of another says.
func hears(t *testing.T, from *ground.Host, to netip.Addr, port, want string) {
	t.Helper()
	var got string
	err := from.Do(func() (err error) {
		got, err = dial(net.JoinHostPort(to.String(), port), "")
		return err
	})
	if err != nil || got != want {
		t.Errorf("from %s to %s port %s: got %q, %v; want %q", from.Name(), to, port, got, err, want)
	}
}

// envoyHears is hears for a connection of Envoy itself.
func (s *scene) envoyHears(t *testing.T, to netip.Addr, port, want string) {
	t.Helper()
	self, err := s.ground.Tool("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	owner := s.ground.Owner()
	env := []string{part + "=" + net.JoinHostPort(to.String(), port)}
	if owner.Mark != 0 {
		env = append(env, fmt.Sprintf("%s=%d", markVariable, owner.Mark))
	}
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	got, err := s.workload.Run(ctx, ground.Command{Name: "envoy", Path: self, Env: env, UID: owner.UID})
	if err != nil || got != want {
		t.Errorf("Envoy to %s port %s: got %q, %v; want %q", to, port, got, err, want)
	}
}

// apply parses the variables and installs the rules on the workload.
func (s *scene) apply(t *testing.T, b intercept.Backend, lines ...string) {
	t.Helper()
	m := map[string]string{"APPMESH_ENVOY_EGRESS_PORT": "15001", "APPMESH_ENVOY_INGRESS_PORT": "15000"}
	for _, line := range append(lines, s.ground.Owner().Env()...) {
		name, value, _ := strings.Cut(line, "=")
		m[name] = value
	}
	cfg, err := intercept.Parse(func(name string) string { return m[name] })
	if err != nil {
		t.Fatal(err)
	}
	if err := s.workload.Do(func() error { return b.Apply(t.Context(), cfg) }); err != nil {
		t.Fatal(err)
	}
}

func TestKernel(t *testing.T) {
	for _, b := range variants(t) {
		t.Run(b.Name(), func(t *testing.T) { kernel(t, newScene(t), b) })
	}
}

// kernel follows one installation from the first rule to the last.
func kernel(t *testing.T, s *scene, b intercept.Backend) {
	here, there, third := s.workload.Addr(), s.other.Addr(), s.ground.Home().Addr()
	full := []string{
		"APPMESH_START_ENABLED=1", "APPMESH_APP_PORTS=8080", "APPMESH_EGRESS_IGNORED_PORTS=2049",
		"APPMESH_EGRESS_IGNORED_IP=169.254.169.254,fd00:ec2::254," + third.String(),
	}
	hears(t, s.workload, there, "9080", "other:9080")
	s.apply(t, b, full...)
	s.apply(t, b, full...)
	t.Run("ICPT-014 ICPT-029 arriving connections go to the ingress port", func(t *testing.T) {
		hears(t, s.other, here, "8080", "ingress")
	})
	t.Run("ICPT-003 ICPT-028 other ports bypass Envoy", func(t *testing.T) {
		hears(t, s.other, here, "8081", "unmodelled")
	})
	t.Run("ICPT-013 ICPT-022 after two runs, connections to others go to the egress port", func(t *testing.T) {
		hears(t, s.workload, there, "9080", "egress")
		hears(t, s.workload, netip.MustParseAddr("10.77.0.251"), "80", "egress") // an address that nobody has
	})
	t.Run("ICPT-002 those of Envoy itself do not", func(t *testing.T) {
		s.envoyHears(t, there, "9080", "other:9080")
	})
	t.Run("ICPT-005 ICPT-011 ICPT-027 nor those to ignored ports, and 22", func(t *testing.T) {
		hears(t, s.workload, there, "2049", "other:2049")
		hears(t, s.workload, there, "22", "other:22")
	})
	t.Run("ICPT-004 nor those to ignored addresses", func(t *testing.T) {
		hears(t, s.workload, third, "9080", "home:9080")
	})
	t.Run("nor those to the workload's own address", func(t *testing.T) {
		hears(t, s.workload, here, "8080", "app")
	})
	if six := s.other.Addr6(); six.IsValid() {
		t.Run("ICPT-015 ICPT-016 IPv6 is left alone until it is asked for", func(t *testing.T) {
			hears(t, s.workload, six, "9080", "other:9080")
			s.apply(t, b, append(full, "APPMESH_ENABLE_IPV6=1")...)
			hears(t, s.workload, six, "9080", "egress")
			hears(t, s.workload, six, "22", "other:22")
			hears(t, s.other, s.workload.Addr6(), "8080", "ingress")
			hears(t, s.workload, there, "9080", "egress")
			s.envoyHears(t, six, "9080", "other:9080")
			s.apply(t, b, full...)
			hears(t, s.workload, six, "9080", "other:9080")
			hears(t, s.other, s.workload.Addr6(), "8080", "app")
		})
	}
	t.Run("ICPT-012 ICPT-026 without application ports nothing is done to what arrives", func(t *testing.T) {
		s.apply(t, b, "APPMESH_START_ENABLED=1")
		hears(t, s.other, here, "8080", "app")
		hears(t, s.workload, there, "9080", "egress")
		if text := status(t, s, b); strings.Contains(text, "APPMESH_INGRESS") || !strings.Contains(text, "APPMESH_EGRESS") {
			t.Errorf("rules:\n%s", text)
		}
	})
	t.Run("ICPT-017 not enabled, the chains are there and empty", func(t *testing.T) {
		s.apply(t, b, "APPMESH_APP_PORTS=8080")
		hears(t, s.other, here, "8080", "app")
		hears(t, s.workload, there, "9080", "other:9080")
		if text := status(t, s, b); !strings.Contains(text, "APPMESH_INGRESS") || !strings.Contains(text, "APPMESH_EGRESS") {
			t.Errorf("rules:\n%s", text)
		}
	})
	t.Run("removed, twice, nothing of it is left", func(t *testing.T) {
		s.apply(t, b, append(full, "APPMESH_ENABLE_IPV6=1")...)
		for range 2 {
			if err := s.workload.Do(func() error { return b.Remove(t.Context()) }); err != nil {
				t.Fatal(err)
			}
		}
		hears(t, s.workload, there, "9080", "other:9080")
		hears(t, s.other, here, "8080", "app")
		if text := status(t, s, b); strings.Contains(text, "APPMESH_") || strings.Contains(text, "evermesh") {
			t.Errorf("rules:\n%s", text)
		}
	})
}

func status(t *testing.T, s *scene, b intercept.Backend) (text string) {
	t.Helper()
	err := s.workload.Do(func() (err error) {
		text, err = b.Status(t.Context())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// What a tool refuses changes nothing.
func TestKernelRefused(t *testing.T) {
	for _, b := range variants(t) {
		t.Run(b.Name(), func(t *testing.T) {
			s := newScene(t)
			s.apply(t, b, "APPMESH_START_ENABLED=1")
			bad := intercept.Config{Enabled: true, EgressPort: 15001, IngressPort: 15000, AppPorts: []intercept.PortRange{{First: 9, Last: 8}}}
			if err := s.workload.Do(func() error { return b.Apply(t.Context(), bad) }); err == nil {
				t.Error("taken")
			}
			hears(t, s.workload, s.other.Addr(), "9080", "egress")
		})
	}
}
