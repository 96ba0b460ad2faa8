package aws_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/client"
	"github.com/evermesh/evermesh/internal/testenv"
)

// account is the one that moto has; with it even ARNs are alike.
const account = "123456789012"

// endpoint is where a service is, and the key of its root.
type endpoint struct {
	URL    string `json:"url"`
	ID     string `json:"id"`
	Secret string `json:"secret"`
}

// tool is a program of build/tools.
func tool(t testing.TB, name string) string {
	t.Helper()
	root, err := testenv.Root()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(root, "build", "tools", "bin", name)
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v: run make tools", err)
	}
	return path
}

// run starts a program that is ended with the test.
func run(t testing.TB, path string, arguments ...string) {
	t.Helper()
	cmd := exec.Command(path, arguments...)
	cmd.Env = append(os.Environ(), "MOTO_IAM_LOAD_MANAGED_POLICIES=true")
	var log testenv.Output
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait() // moto ends by the signal
		if t.Failed() {
			text := log.String()
			t.Logf("%s ended its log with\n%s", filepath.Base(path), text[max(0, len(text)-4096):])
		}
	})
}

// evermeshd starts the control plane as it comes, and returns its API's endpoint.
func evermeshd(t testing.TB, arguments ...string) endpoint {
	t.Helper()
	dir := t.TempDir()
	program, data := filepath.Join(dir, "evermeshd"), filepath.Join(dir, "data")
	if out, err := exec.Command("go", "build", "-o", program, "../../cmd/evermeshd").CombinedOutput(); err != nil {
		t.Fatalf("build evermeshd: %v\n%s", err, out)
	}
	run(t, program, append([]string{
		"serve", "--data-dir", data, "--account", account, "--drain-seconds", "0",
		"--api-listen", "127.0.0.1:0", "--xds-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0",
	}, arguments...)...)
	var facts client.Facts
	testenv.Eventually(t, "evermeshd says where it is", func() bool {
		var err error
		facts, err = client.ReadFacts(data)
		return err == nil && facts.Account == account // else the defaults
	})
	return key(t, facts)
}

// key reads the root's key from the file that evermeshd writes for AWS's tools.
func key(t testing.TB, facts client.Facts) endpoint {
	t.Helper()
	text, err := os.ReadFile(facts.Credentials)
	if err != nil {
		t.Fatal(err)
	}
	e := endpoint{URL: facts.APIEndpoint}
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		switch name, value, _ := strings.Cut(lines.Text(), " = "); name {
		case "aws_access_key_id":
			e.ID = value
		case "aws_secret_access_key":
			e.Secret = value
		}
	}
	return e
}

// moto starts a copy of AWS that this project did not write.
func moto(t testing.TB) endpoint {
	t.Helper()
	program := tool(t, "moto")
	address := testenv.FreeAddress(t)
	_, port, _ := net.SplitHostPort(address)
	run(t, program, "-p", port)
	testenv.Eventually(t, "moto listens", func() bool {
		c, err := net.DialTimeout("tcp", address, time.Second)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
	return endpoint{URL: "http://" + address, ID: "AKIAIOSFODNN7EXAMPLE", Secret: "secret"}
}

// cli runs the AWS CLI against the endpoint.
func cli(t testing.TB, e endpoint, line string) error {
	t.Helper()
	home := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, tool(t, "aws"), strings.Fields(line)...)
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + home, "AWS_EC2_METADATA_DISABLED=true", "AWS_ENDPOINT_URL=" + e.URL,
		"AWS_REGION=us-east-1", "AWS_DEFAULT_REGION=us-east-1", "AWS_PAGER=", "AWS_MAX_ATTEMPTS=1",
		"AWS_ACCESS_KEY_ID=" + e.ID, "AWS_SECRET_ACCESS_KEY=" + e.Secret, "PYTHONDONTWRITEBYTECODE=1",
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("aws %s: %w\n%s", line, err, out)
	}
	return nil
}
