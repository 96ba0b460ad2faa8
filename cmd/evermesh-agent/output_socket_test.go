package main

import (
	"bufio"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/evermesh/evermesh/internal/agent/agenttest"
	"github.com/evermesh/evermesh/internal/testenv"
)

// Under systemd the standard streams are sockets, which nobody can open by /dev/stdout: Envoy does all the same, for its
// outlier log at its start and for access logs.
func TestStandardStreamsAreSockets(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "ours"), os.NewFile(uintptr(pair[1]), "theirs")
	said, finished := &testenv.Output{}, make(chan struct{})
	go func() {
		defer close(finished)
		for lines := bufio.NewScanner(ours); lines.Scan(); {
			fmt.Fprintln(said, lines.Text())
		}
	}()
	dir, admin, port := t.TempDir(), testenv.FreePort(t), testenv.FreePort(t)
	file := filepath.Join(dir, "resources.yaml")
	if err := os.WriteFile(file, fmt.Appendf(nil, logged, port), 0o600); err != nil {
		t.Fatal(err)
	}
	agent := exec.CommandContext(t.Context(), "/proc/self/exe")
	agent.Env = append(os.Environ(),
		part+"=agent", "TMPDIR="+dir, "ENVOY_PATH="+agenttest.Envoys(t)[0], "ENVOY_RESOURCES_CONFIG_FILE="+file, "ENVOY_ADMIN_ACCESS_PORT="+strconv.Itoa(admin),
		"APPMESH_RESOURCE_ARN=mesh/m/virtualNode/n", "AWS_REGION=us-east-1", "AWS_EC2_METADATA_DISABLED=true", "APPMESH_XDS_ENDPOINT=http://127.0.0.1:1",
		"ENVOY_INITIAL_FETCH_TIMEOUT=1", "ENVOY_CONCURRENCY=1", "LISTENER_DRAIN_WAIT_TIME_S=5", "ENVOY_ADMIN_ACCESS_LOG_FILE=/dev/null",
	)
	agent.Stdout, agent.Stderr = theirs, theirs
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	if err := theirs.Close(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = agent.Process.Kill() // which has ended where all is well
		if t.Failed() {
			t.Log(said)
		}
	})
	get := func(url string) bool {
		answer, err := http.Get(url)
		return err == nil && answer.Body.Close() == nil && answer.StatusCode == http.StatusOK
	}
	testenv.Eventually(t, "Envoy is live", func() bool { return get(fmt.Sprintf("http://127.0.0.1:%d/ready", admin)) })
	testenv.Eventually(t, "a request is answered", func() bool { return get(fmt.Sprintf("http://127.0.0.1:%d/", port)) })
	testenv.Eventually(t, "both access logs arrive", func() bool {
		return strings.Contains(said.String(), "access one /\n") && strings.Contains(said.String(), "access two /\n")
	})
	if err := agent.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := agent.Wait(); err != nil {
		t.Errorf("the agent ended with %v", err)
	}
	<-finished // nobody holds the socket any more
	if err := ours.Close(); err != nil {
		t.Error(err)
	}
}
