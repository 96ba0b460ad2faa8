//go:build linux

// Package tour runs the README's tour as a reader would paste it, line by line,
// and looks at what each line prints.
package tour

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/evermesh/evermesh/test/ground"
)

const (
	root      = "../.."
	wholeTour = 5 * time.Minute
)

// TestMain gives the tour a network of its own where the machine allows it: its
// ports are the ones that the README names.
func TestMain(m *testing.M) {
	exit, inside, err := ground.Enter(context.Background())
	var missing *ground.Missing
	switch {
	case errors.As(err, &missing) || inside:
		os.Exit(m.Run())
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(exit)
}

var tourPart = regexp.MustCompile(`(?s)<!-- tour -->(.*)<!-- /tour -->`)

// lines are the tour's commands, in order.
func lines(t *testing.T) []string {
	t.Helper()
	readme, err := os.ReadFile(root + "/README.md")
	if err != nil {
		t.Fatal(err)
	}
	m := tourPart.FindSubmatch(readme)
	if m == nil {
		t.Fatal("README.md has no tour")
	}
	var out []string
	inside := false
	for _, line := range strings.Split(string(m[1]), "\n") {
		switch {
		case line == "```sh":
			inside = true
		case strings.HasPrefix(line, "```"):
			inside = false
		case inside && line != "":
			out = append(out, line)
		}
	}
	return out
}

func TestReadmeTour(t *testing.T) {
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("the tour uses curl, which is not here")
	}
	for _, port := range []string{"7070", "7071", "7072", "8081", "8082", "8088", "9901", "15001"} {
		l, err := net.Listen("tcp", ":"+port)
		if err != nil {
			t.Fatalf("the tour needs port %s: %v", port, err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	said := run(t, lines(t))

	for _, want := range []struct{ after, text string }{
		{"curl -sS --retry 30 --retry-delay 1 --retry-connrefused http://127.0.0.1:7072/readyz", `"ready":true`},
		{"aws appmesh create-mesh", `"meshName": "shop"`},
		{"aws appmesh create-gateway-route", `"status": "ACTIVE"`},
		{"curl -sS --retry 30 --retry-delay 1 --retry-connrefused http://127.0.0.1:8088/", "orders, version 1"},
		{"evermesh plan", "1 to update; another configuration for 1 node or gateway"},
		{"evermesh rollout", ""},
		{"evermesh explain", "Accepted by all connected proxies that it concerns (1)."},
		{"for i in", "orders, version 1"},
		{"for i in", "orders, version 2"},
		{"evermesh proxies", "virtualGateway/front"},
		{"envoy --mode validate", "OK"},
	} {
		found := false
		for _, s := range said {
			if strings.HasPrefix(s.line, want.after) {
				found = true
				if !strings.Contains(s.output, want.text) {
					t.Errorf("%s\nprinted no %q:\n%s", s.line, want.text, s.output)
				}
			}
		}
		if !found {
			t.Errorf("no line of the tour begins with %q", want.after)
		}
	}
}

type answer struct{ line, output string }

// run pastes the lines into one shell, which ends at the first that fails, and
// returns what each printed. What the tour makes goes into a temporary folder
// instead of build/tour, where a reader's own tour may be.
func run(t *testing.T, lines []string) []answer {
	t.Helper()
	const mark = "@@ "
	dir := t.TempDir()
	script := bytes.NewBufferString("set -eo pipefail\n")
	for i, line := range lines {
		fmt.Fprintf(script, "echo; echo '%s%d'\n%s\n", mark, i, strings.ReplaceAll(line, "build/tour", dir))
	}
	ctx, cancel := context.WithTimeout(t.Context(), wholeTour)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-c", script.String())
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "AWS_PAGER=")
	cmd.WaitDelay = 10 * time.Second
	out, err := cmd.CombinedOutput()
	var said []answer
	for i, part := range strings.Split(string(out), "\n"+mark)[1:] {
		_, text, _ := strings.Cut(part, "\n")
		said = append(said, answer{lines[i], text})
	}
	if err != nil {
		for _, log := range []string{"evermeshd.log", "agent.log"} {
			text, _ := os.ReadFile(dir + "/" + log)
			t.Logf("%s:\n%s", log, text)
		}
		last := answer{"nothing", string(out)}
		if len(said) > 0 {
			last = said[len(said)-1]
		}
		t.Fatalf("%v, at:\n%s\n%s", err, last.line, last.output)
	}
	return said
}
