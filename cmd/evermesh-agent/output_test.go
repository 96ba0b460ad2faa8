package main

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/evermesh/evermesh/internal/agent/agenttest"
	"github.com/evermesh/evermesh/internal/testenv"
)

// logged is a listener of the user's own that writes a line for each request to Envoy's standard output.
const logged = `static_resources:
  listeners:
  - name: logged
    address: {socket_address: {address: 127.0.0.1, port_value: %d}}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: logged
          route_config: {virtual_hosts: [{name: all, domains: ["*"], routes: [{match: {prefix: /}, direct_response: {status: 200}}]}]}
          http_filters: [{name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]
          access_log:
          - name: out
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog
              log_format: {text_format_source: {inline_string: "access one %%REQ(:path)%%\n"}}
          - name: file
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
              path: /dev/stdout
              log_format: {text_format_source: {inline_string: "access two %%REQ(:path)%%\n"}}
`

// agentWithLog runs an agent with a real Envoy until it is live, whose listener answers at url.
func agentWithLog(t *testing.T, lines ...string) (agent *exec.Cmd, stderr *testenv.Output, url string) {
	t.Helper()
	dir, admin, port := t.TempDir(), testenv.FreePort(t), testenv.FreePort(t)
	file := filepath.Join(dir, "resources.yaml")
	if err := os.WriteFile(file, fmt.Appendf(nil, logged, port), 0o600); err != nil {
		t.Fatal(err)
	}
	agent, stderr = exec.CommandContext(t.Context(), "/proc/self/exe"), &testenv.Output{}
	agent.Env = append(append(os.Environ(),
		part+"=agent", "TMPDIR="+dir, "ENVOY_PATH="+agenttest.Envoys(t)[0], "ENVOY_RESOURCES_CONFIG_FILE="+file, "ENVOY_ADMIN_ACCESS_PORT="+strconv.Itoa(admin),
		"APPMESH_RESOURCE_ARN=mesh/m/virtualNode/n", "AWS_REGION=us-east-1", "AWS_EC2_METADATA_DISABLED=true", "APPMESH_XDS_ENDPOINT=http://127.0.0.1:1",
		"ENVOY_INITIAL_FETCH_TIMEOUT=1", "ENVOY_ADMIN_ACCESS_LOG_FILE=/dev/null", "ENVOY_CONCURRENCY=1", "LISTENER_DRAIN_WAIT_TIME_S=5",
	), lines...)
	agent.Stdout, agent.Stderr = stderr, stderr
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = agent.Process.Kill() // which may have ended
		_ = agent.Wait()
		if t.Failed() {
			t.Log(stderr)
		}
	})
	testenv.Eventually(t, "Envoy is live", func() bool {
		answer, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/ready", admin))
		if err != nil {
			return false
		}
		defer answer.Body.Close()
		return answer.StatusCode == http.StatusOK
	})
	return agent, stderr, fmt.Sprintf("http://127.0.0.1:%d/", port)
}

// What Envoy and the agent say goes into one file, which makes room for another while they write: nothing is lost.
func TestLogFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	agent, stderr, url := agentWithLog(t, "APPNET_ENVOY_LOG_DESTINATION="+dir, "APPNET_ENVOY_LOG_NAME=e.log", "APPNET_AGENT_MAX_LOG_FILE_SIZE=0.01", "APPNET_AGENT_MAX_RETENTION_COUNT=100")
	const requests = 400
	for i := range requests {
		answer, err := http.Get(url + strconv.Itoa(i))
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
	}
	if err := agent.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := agent.Wait(); err != nil {
		t.Error(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "e.log.*"))
	if err != nil || len(files) < 2 {
		t.Errorf("full files: %q, %v", files, err)
	}
	slices.Sort(files)
	text := ""
	for _, file := range append(files, filepath.Join(dir, "e.log")) {
		part, err := os.ReadFile(file)
		if err != nil {
			t.Error(err)
		}
		text += string(part)
	}
	for i := range requests {
		for _, log := range []string{"one", "two"} {
			if n := strings.Count(text, fmt.Sprintf("access %s /%d\n", log, i)); n != 1 {
				t.Fatalf("request %d is in access log %s %d times", i, log, n)
			}
		}
	}
	const at = `(?m)^\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}\]\[\d+\]\[info\]`
	for what, line := range map[string]string{
		"Envoy's first lines": at + `\[main\] \[source/server/server.cc:\d+\] initializing epoch 0`,
		"the agent's first":   at + ` \[AppNet Agent\] environment variable=APPMESH_RESOURCE_ARN value=mesh/m/virtualNode/n$`,
		"the agent's last":    at + ` \[AppNet Agent\] envoy stopped`,
	} {
		if !regexp.MustCompile(line).MatchString(text) {
			t.Errorf("%s are not in the file", what)
		}
	}
	if out := stderr.String(); out != "" {
		t.Errorf("on the standard streams: %q", out)
	}
}

// A directory that is not there is no reason not to start.
func TestNoLogFile(t *testing.T) {
	t.Parallel()
	_, stderr, url := agentWithLog(t, "APPNET_ENVOY_LOG_DESTINATION="+filepath.Join(t.TempDir(), "no"), "ENVOY_LOG_LEVEL=warning")
	answer, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	testenv.Eventually(t, "Envoy writes to the standard output", func() bool { return strings.Contains(stderr.String(), "access one /\n") })
	if got := stderr.String(); !strings.Contains(got, "[warning] [AppNet Agent] no log file in APPNET_ENVOY_LOG_DESTINATION: the standard streams are used err=") {
		t.Error("no warning")
	}
}
