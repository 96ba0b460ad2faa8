//go:build linux

package platforms

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/evermesh/evermesh/internal/testenv"
)

// shimVariable makes this program a command that a page calls, such as docker: it tells the test at that socket what it was
// called with, and ends as the test says.
const shimVariable = "EVERMESH_PLATFORMS_SHIM"

// call is a command of a page as the test gets it.
type call struct {
	Args  []string // the command's name first
	Dir   string
	Input string // its standard input, where that is no terminal
}

// outcome is what becomes of it.
type outcome struct {
	Out, Err string
	Code     int
}

// playShim is the command's side. Without a socket it returns at once.
func playShim() {
	socket := os.Getenv(shimVariable)
	if socket == "" {
		return
	}
	answer, err := ask(socket)
	if err != nil {
		answer = outcome{Err: err.Error() + "\n", Code: 125}
	}
	_, outErr := io.WriteString(os.Stdout, answer.Out)
	_, errErr := io.WriteString(os.Stderr, answer.Err)
	if outErr != nil || errErr != nil {
		answer.Code = 125
	}
	os.Exit(answer.Code)
}

func ask(socket string) (answer outcome, err error) {
	c := call{Args: os.Args[1:]}
	if c.Dir, err = os.Getwd(); err != nil {
		return answer, err
	}
	if info, err := os.Stdin.Stat(); err == nil && info.Mode()&os.ModeCharDevice == 0 {
		input, err := io.ReadAll(os.Stdin)
		if err != nil {
			return answer, err
		}
		c.Input = string(input)
	}
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return answer, err
	}
	defer conn.Close()
	if err := json.NewEncoder(conn).Encode(c); err != nil {
		return answer, err
	}
	return answer, json.NewDecoder(conn).Decode(&answer)
}

// shims serves commands of these names to what has the returned folder on its PATH, until the test ends.
func shims(t *testing.T, handle func(call) outcome, names ...string) (dir string) {
	t.Helper()
	dir, err := os.MkdirTemp(world.Dir(), "shim")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "socket")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	self := filepath.Join(dir, "self")
	program, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	testenv.Script(t, self, string(program))
	for _, name := range names {
		script := fmt.Sprintf("#!/bin/sh\n%s=%s exec %s %s \"$@\"\n", shimVariable, socket, self, name)
		testenv.Script(t, filepath.Join(dir, name), script)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return // closed below
			}
			serving.Go(func() {
				defer conn.Close()
				var c call
				if json.NewDecoder(conn).Decode(&c) == nil {
					_ = json.NewEncoder(conn).Encode(handle(c)) // who has gone reads nothing
				}
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		serving.Wait()
	})
	return dir
}

func failure(err error) outcome { return outcome{Err: err.Error() + "\n", Code: 1} }
