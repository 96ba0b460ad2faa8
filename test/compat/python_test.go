package compat

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
)

// tool is a Python client in build/tools, where `make tools` puts it.
func tool(t testing.TB, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("../..", "build", "tools", "bin", name))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v: run make tools", err)
	}
	return path
}

// home is a directory with the only settings that the Python clients get.
func home(t testing.TB, w wrong) string {
	t.Helper()
	dir := t.TempDir()
	settings := "[default]\ncli_timestamp_format = iso8601\n"
	if w != (wrong{}) {
		settings += "[plugins]\nwrong = wrong\n" // wrong.py, of the CLI's working directory
	}
	if err := os.WriteFile(filepath.Join(dir, "config"), []byte(settings), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// botoClient is boto3 in one process, boto.py.
type botoClient struct {
	mu  sync.Mutex
	in  io.WriteCloser
	out *bufio.Scanner
}

func newBotoClient(t testing.TB, e endpoint) client {
	t.Helper()
	cmd := exec.Command(tool(t, "python"), "boto.py")
	cmd.Env = environment(t, home(t, e.wrong), e)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("boto.py: %v\n%s", err, stderr.Bytes())
		}
	})
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	return &botoClient{in: in, out: lines}
}

func (b *botoClient) ask(request any) (output map[string]any, count int, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	line, err := json.Marshal(request)
	if err != nil {
		return nil, 0, err
	}
	if _, err := b.in.Write(append(line, '\n')); err != nil {
		return nil, 0, err
	}
	if !b.out.Scan() {
		return nil, 0, errors.Join(errors.New("boto.py ended"), b.out.Err())
	}
	var answer struct {
		Output map[string]any
		Count  int
		Error  *failure
	}
	if err := json.Unmarshal(b.out.Bytes(), &answer); err != nil {
		return nil, 0, fmt.Errorf("%s: %w", b.out.Bytes(), err)
	}
	if answer.Error != nil {
		return nil, 0, answer.Error
	}
	return answer.Output, answer.Count, nil
}

func (b *botoClient) call(_ context.Context, operation string, input map[string]any) (map[string]any, error) {
	output, _, err := b.ask(map[string]any{"op": operation, "input": input})
	return output, err
}

func (b *botoClient) all(_ context.Context, operation string, input map[string]any) (int, error) {
	_, n, err := b.ask(map[string]any{"op": operation, "input": input, "all": listMember(operation)})
	return n, err
}

// listMember is where a list's items are: ListVirtualNodes answers virtualNodes.
func listMember(operation string) string {
	name := strings.TrimPrefix(operation, "List")
	return strings.ToLower(name[:1]) + name[1:]
}

// cliClient is the AWS CLI, a process a call.
type cliClient struct {
	path     string
	home     string
	env      []string
	unsigned bool
}

func newCLIClient(t testing.TB, e endpoint) client {
	t.Helper()
	dir := home(t, e.wrong)
	return &cliClient{path: tool(t, "aws"), home: dir, env: environment(t, dir, e), unsigned: e.wrong.Unsigned}
}

// command is `aws appmesh` with the arguments.
func (c *cliClient) command(ctx context.Context, arguments ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, c.path, append([]string{"appmesh"}, arguments...)...)
	cmd.Env = c.env
	if c.unsigned {
		cmd.Args = append(cmd.Args, "--no-sign-request")
	}
	return cmd
}

// run runs a command and returns what it printed.
func (c *cliClient) run(ctx context.Context, arguments ...string) ([]byte, error) {
	cmd := c.command(ctx, arguments...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		if f := said(stderr.String()); f != nil {
			return nil, f
		}
		return nil, fmt.Errorf("aws appmesh %s: %w\n%s", strings.Join(arguments, " "), err, stderr.Bytes())
	}
	return out, nil
}

func (c *cliClient) call(ctx context.Context, operation string, input map[string]any) (map[string]any, error) {
	body, err := json.Marshal(input)
	if err != nil {
		return nil, err
	}
	argument := string(body)
	if len(body) > 64<<10 { // a system has a limit for an argument's size
		file := filepath.Join(c.home, "input.json")
		if err := os.WriteFile(file, body, 0o600); err != nil {
			return nil, err
		}
		argument = "file://" + file
	}
	out, err := c.run(ctx, spelled(operation), "--output", "json", "--cli-input-json", argument)
	if err != nil {
		return nil, err
	}
	output := map[string]any{}
	if len(bytes.TrimSpace(out)) == 0 {
		return output, nil
	}
	return output, json.Unmarshal(out, &output)
}

func (c *cliClient) all(ctx context.Context, operation string, input map[string]any) (int, error) {
	out, err := c.run(ctx, spelled(operation), "--mesh-name", input["meshName"].(string), "--page-size", "2", "--output", "json")
	if err != nil {
		return 0, err
	}
	var output map[string][]any
	err = json.Unmarshal(out, &output)
	return len(output[listMember(operation)]), err
}

// spelled is the CLI's spelling: ListTagsForResource is list-tags-for-resource.
func spelled(operation string) string {
	return strings.ToLower(regexp.MustCompile(`([a-z])([A-Z])`).ReplaceAllString(operation, "$1-$2"))
}

// said reads the CLI's error line.
func said(stderr string) *failure {
	m := regexp.MustCompile(`(?s)An error occurred \((\w+)\) when calling the \w+ operation(?: \(reached max retries: \d+\))?: (.*)`).FindStringSubmatch(stderr)
	if m == nil {
		return nil
	}
	return &failure{Code: m[1], Message: strings.TrimSpace(m[2])}
}
