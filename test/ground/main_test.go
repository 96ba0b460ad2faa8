//go:build linux

package ground_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"

	"github.com/evermesh/evermesh/internal/testenv"
	"github.com/evermesh/evermesh/test/ground"
)

// part is the variable that makes this test program play a small part instead of running tests: a workload on a
// host, or a program that enters a ground of its own.
const part = "GROUND_TEST_PART"

// wait bounds everything that is expected to happen at once.
const wait = testenv.Patience

func TestMain(m *testing.M) {
	if words := strings.Fields(os.Getenv(part)); len(words) > 0 {
		if err := play(words[0], words[1:]); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	exit, inside, err := ground.Enter(context.Background())
	if missing, ok := errors.AsType[*ground.Missing](err); ok {
		os.Exit(testsWithout(m, missing))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if !inside {
		os.Exit(exit)
	}
	os.Exit(m.Run())
}

// nowhere is why this machine allows no ground; nil where it does.
var nowhere *ground.Missing

// testsWithout runs the one test that then says so.
func testsWithout(m *testing.M, missing *ground.Missing) int {
	nowhere = missing
	if err := flag.Set("test.run", "^TestGround$"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// TestGround says whether there is a ground at all; without one it is the only
// test that runs.
func TestGround(t *testing.T) {
	if nowhere != nil {
		t.Skipf("this machine allows no ground: %v", nowhere)
	}
}

func play(what string, args []string) error {
	switch what {
	case "resolve": // NAME: prints its addresses, as the machine's resolver finds them
		addrs, err := net.LookupHost(args[0])
		fmt.Print(strings.Join(addrs, " "))
		return err
	case "read": // ADDRESS: prints what a connection says
		conn, err := net.DialTimeout("tcp", args[0], wait)
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = io.Copy(os.Stdout, conn)
		return err
	case "hold": // SOCKET: holds a connection to it for as long as the program lives
		conn, err := net.Dial("unix", args[0])
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, conn)
		return err
	case "enter": // COMMAND...: enters a ground and does it there
		return enter(args)
	}
	return fmt.Errorf("no such part: %s", what)
}

func enter(args []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	exit, inside, err := ground.Enter(ctx)
	if err != nil {
		return err
	}
	if !inside {
		os.Exit(exit)
	}
	switch args[0] {
	case "exit":
		os.Exit(7)
	case "wait": // for SIGTERM, which the program outside sends when it is interrupted
		term := make(chan os.Signal, 1)
		signal.Notify(term, syscall.SIGTERM)
		fmt.Println("waiting")
		<-term
		os.Exit(9)
	case "host": // SOCKET: runs a holder on a host
		g, err := ground.New()
		if err != nil {
			return err
		}
		h, err := g.Host("a")
		if err != nil {
			return err
		}
		p, err := h.Start(ground.Command{Path: "/proc/self/exe", Env: []string{part + "=hold " + args[1]}})
		if err != nil {
			return err
		}
		return errors.Join(p.Err(), g.Close())
	}
	return nil
}

// newGround is a ground for one test.
func newGround(t *testing.T) *ground.Ground {
	t.Helper()
	g, err := ground.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	return g
}

func newHost(t *testing.T, g *ground.Ground, name string) *ground.Host {
	t.Helper()
	h, err := g.Host(name)
	if err != nil {
		t.Fatal(err)
	}
	return h
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

// hear returns what a connection from the host to addr says.
func hear(t *testing.T, h *ground.Host, addr string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	conn, err := h.Dial(ctx, "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	text, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// run plays a part on the host to its end and returns what it printed.
func run(t *testing.T, g *ground.Ground, h *ground.Host, uid uint32, words string) (string, error) {
	t.Helper()
	self, err := g.Tool("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	return h.Run(ctx, ground.Command{Name: "part", Path: self, Env: []string{part + "=" + words}, UID: uid})
}
