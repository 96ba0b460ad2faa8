package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/evermesh/evermesh/internal/agent/agenttest"
	"github.com/evermesh/evermesh/internal/testenv"
)

// TestAsk has a running agent's answers to the verbs that ask it.
func TestAsk(t *testing.T) {
	var got []string
	refuses := false
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = append(got, r.Method+" "+r.URL.RequestURI())
		if refuses {
			http.Error(w, "not now\n", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintf(w, "{\"asked\": %q}\n", r.URL.Path)
	}))
	defer server.Close()
	_, port, _ := strings.Cut(strings.TrimPrefix(server.URL, "http://"), ":")
	t.Setenv("APPNET_AGENT_ADMIN_MODE", "tcp")
	t.Setenv("APPNET_AGENT_HTTP_PORT", port)
	for _, test := range []struct{ verb, request, stdout string }{
		{"status", "GET /status", `{"asked": "/status"}` + "\n"},
		{"drain", "POST /drain_listeners?inboundonly", `{"asked": "/drain_listeners"}` + "\n"},
	} {
		t.Run(test.verb+" asks, and prints the answer", func(t *testing.T) {
			got, refuses = nil, false
			if code, stdout, stderr := call(t, test.verb); code != 0 || stdout != test.stdout || stderr != "" || strings.Join(got, "\n") != test.request {
				t.Errorf("%d %q %q after %q", code, stdout, stderr, got)
			}
		})
		t.Run(test.verb+" is refused", func(t *testing.T) {
			got, refuses = nil, true
			if code, stdout, stderr := call(t, test.verb); code != 1 || stdout != "" || !strings.Contains(stderr, "503 Service Unavailable: not now") || strings.Join(got, "\n") != test.request {
				t.Errorf("%d %q %q after %q", code, stdout, stderr, got)
			}
		})
	}
}

func TestPreflight(t *testing.T) {
	control := agenttest.NewControlPlane(t, "")
	t.Setenv("APPMESH_RESOURCE_ARN", "mesh/m/virtualNode/n")
	t.Setenv("AWS_REGION", "us-east-1")
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	nobody := fmt.Sprintf("127.0.0.1:%d", testenv.FreePort(t))
	for _, test := range []struct {
		name, endpoints string
		code            int
		stdout          []string // a line for each endpoint
		stderr          string
	}{
		{"preflight of an endpoint that serves", "http://" + control.Addr, 0, []string{control.Addr + ": serves"}, ""},
		{"preflight of two, of which one serves", "http://" + nobody + ",http://" + control.Addr, 0, []string{nobody + "): TCP failed", control.Addr + ": serves"}, ""},
		{"preflight where nobody is", "http://" + nobody, 1, []string{nobody + "): TCP failed"}, "no endpoint of the control plane serves this proxy"},
	} {
		t.Run("TRBL-002 "+test.name, func(t *testing.T) {
			t.Setenv("APPMESH_XDS_ENDPOINT", test.endpoints)
			code, stdout, stderr := call(t, "preflight", "--timeout", "60s")
			if code != test.code || !strings.Contains(stderr, test.stderr) || (test.stderr == "" && stderr != "") {
				t.Errorf("%d %q\n%s", code, stderr, stdout)
			}
			for _, line := range test.stdout {
				if !strings.Contains(stdout, line) {
					t.Errorf("there is no %q in\n%s", line, stdout)
				}
			}
		})
	}
}
