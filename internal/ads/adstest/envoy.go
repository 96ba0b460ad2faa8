package adstest

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/testenv"
)

// Envoy is a real Envoy that is connected to a management service by a unix
// socket. It runs in a network namespace of its own where the machine allows,
// so that its listeners disturb nobody, unless it is told not to.
type Envoy struct {
	client *http.Client
	log    testenv.Output
}

// StartEnvoy starts Envoy with that node id; it ends with the test.
func StartEnvoy(t testing.TB, o Options, sockets ...string) *Envoy {
	t.Helper()
	binary := testenv.Envoy(t)
	LogEnvoy(t)
	admin := Socket(t)
	dir := filepath.Dir(admin)
	bootstrap := filepath.Join(dir, "bootstrap.json")
	Must(t, os.WriteFile(bootstrap, bootstrapFor(t, o, admin, sockets), 0o600))

	e := &Envoy{client: &http.Client{Timeout: Patience, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", admin)
		},
	}}}
	run := func(isolated bool) (*exec.Cmd, error) {
		cmd := exec.Command(binary, "-c", bootstrap, "--disable-hot-restart", "--concurrency", "1", "--log-level", "info",
			"--drain-time-s", strconv.Itoa(max(int(o.Drain.Seconds()), 1)))
		cmd.Stdout, cmd.Stderr = &e.log, &e.log
		if isolated {
			cmd.SysProcAttr = ownNetwork()
		}
		return cmd, cmd.Start()
	}
	cmd, err := run(!o.Host)
	if err != nil {
		cmd, err = run(false)
	}
	if err != nil {
		t.Fatalf("start envoy: %v", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("Envoy's log:\n%s", e.log.String())
		}
	})
	e.Wait(t, "its admin interface", func() bool { _, err := e.get("/ready"); return err == nil })
	return e
}

// Socket is a path for a unix socket, in a directory of its own that goes with
// the test. It is short: such a path has at most 107 bytes.
func Socket(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ads")
	Must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "socket")
}

// LogEnvoy says which Envoy the test runs with; the count of requirements looks
// for it in each test and subtest.
func LogEnvoy(t testing.TB) {
	t.Helper()
	binary := testenv.Envoy(t)
	out, err := exec.Command(binary, "--version").Output()
	version := regexp.MustCompile(`/(\d+\.\d+\.\d+)`).FindSubmatch(out)
	if err != nil || version == nil {
		t.Fatalf("%s --version: %v\n%s", binary, err, out)
	}
	t.Logf("real envoy: %s", version[1])
}

// ownNetwork isolates the process as root does it, or in a user namespace.
func ownNetwork() *syscall.SysProcAttr {
	if os.Getuid() == 0 {
		return &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	}
	return &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: os.Getuid(), HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: os.Getgid(), HostID: os.Getgid(), Size: 1}},
	}
}

func bootstrapFor(t testing.TB, o Options, admin string, sockets []string) []byte {
	t.Helper()
	var metadata []any
	for k, v := range o.Headers {
		metadata = append(metadata, map[string]any{"key": k, "value": v})
	}
	var endpoints []any
	for _, s := range sockets {
		endpoints = append(endpoints, map[string]any{"endpoint": map[string]any{"address": map[string]any{"pipe": map[string]any{"path": s}}}})
	}
	// As an agent's Envoy it waits for its first configuration, however long that takes.
	ads := map[string]any{"ads": map[string]any{}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"}
	kind := "GRPC"
	if o.Delta {
		kind = "DELTA_GRPC"
	}
	text, err := json.Marshal(map[string]any{
		"node":  map[string]any{"id": o.Node, "cluster": "test", "metadata": map[string]any{"evermesh.instance": o.Instance}},
		"admin": map[string]any{"address": map[string]any{"pipe": map[string]any{"path": admin}}},
		"dynamic_resources": map[string]any{
			"ads_config": map[string]any{
				"api_type": kind, "transport_api_version": "V3", "set_node_on_first_message_only": !o.NodeAlways,
				"grpc_services": []any{map[string]any{
					"envoy_grpc": map[string]any{"cluster_name": "management", "retry_policy": map[string]any{
						"retry_back_off": map[string]any{"base_interval": "0.1s", "max_interval": "0.5s"},
					}},
					"initial_metadata": metadata,
				}},
			},
			"cds_config": ads, "lds_config": ads,
		},
		"static_resources": map[string]any{"clusters": []any{map[string]any{
			"name": "management", "type": "STATIC", "connect_timeout": "1s",
			"load_assignment": map[string]any{"cluster_name": "management", "endpoints": []any{map[string]any{"lb_endpoints": endpoints}}},
			"typed_extension_protocol_options": map[string]any{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": map[string]any{
				"@type":                "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
				"explicit_http_config": map[string]any{"http2_protocol_options": map[string]any{}},
			}},
		}}},
	})
	Must(t, err)
	return text
}

func (e *Envoy) get(path string) (string, error) {
	resp, err := e.client.Get("http://envoy" + path)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}

// Get reads a path of the admin interface.
func (e *Envoy) Get(t testing.TB, path string) string {
	t.Helper()
	body, err := e.get(path)
	if err != nil {
		t.Fatalf("GET %s of Envoy's admin interface: %v", path, err)
	}
	return body
}

// Stat is the value of a counter or gauge; -1 when Envoy does not have it.
func (e *Envoy) Stat(t testing.TB, name string) int {
	t.Helper()
	for line := range strings.SplitSeq(e.Get(t, "/stats?filter=^"+regexp.QuoteMeta(name)+"$"), "\n") {
		if v, ok := strings.CutPrefix(line, name+": "); ok {
			n, err := strconv.Atoi(strings.TrimSpace(v))
			Must(t, err)
			return n
		}
	}
	return -1
}

// Sum is the sum of all counters and gauges whose names match a regular expression, and
// how many those are.
func (e *Envoy) Sum(t testing.TB, names string) (sum, of int) {
	t.Helper()
	for line := range strings.SplitSeq(e.Get(t, "/stats?filter="+url.QueryEscape(names)), "\n") {
		_, value, _ := strings.Cut(line, ": ")
		if n, err := strconv.Atoi(strings.TrimSpace(value)); err == nil {
			sum, of = sum+n, of+1
		}
	}
	return sum, of
}

// Log is what Envoy has logged so far.
func (e *Envoy) Log() string { return e.log.String() }

// Wait waits until ok holds; what says what was awaited.
func (e *Envoy) Wait(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * Patience); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("Envoy: waited in vain for %s", what)
		}
	}
}
