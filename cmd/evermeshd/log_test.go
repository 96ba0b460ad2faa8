package main

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/ads/adstest"
	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/client"
)

// In JSON every line is an object with time, level and msg, in text it begins
// with them; a level leaves out what is below; and at no level is a secret told.
func TestLogFormats(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		args []string
		line *regexp.Regexp // of every line; nil for JSON
		none bool           // nothing at all is said
	}{
		{"json", []string{"--log-format", "json", "--log-level", "debug", "--access-log", "on"}, nil, false},
		{"text", []string{"--log-format", "text", "--log-level", "debug", "--access-log", "on"}, regexp.MustCompile(`^time=\d{4}-\d\d-\d\dT\S+ level=(DEBUG|INFO|WARN|ERROR) msg=`), false},
		{"nothing below an error", []string{"--log-level", "error"}, nil, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := launch(t, t.TempDir(), c.args...)
			eventually(t, "the control plane answers", func() bool {
				return p.call(t.Context(), "ListMeshes", map[string]any{}, nil) == nil
			})
			if err := p.call(t.Context(), "CreateMesh", api.CreateMeshInput{MeshName: "logged"}, nil); err != nil {
				t.Fatal(err)
			}
			if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			if code := p.exit(t); code != 0 {
				t.Errorf("exit code %d", code)
			}
			said := p.said(t)
			if (said == "") != c.none {
				t.Fatalf("it said %q", said)
			}
			for line := range strings.Lines(said) {
				switch {
				case c.line != nil:
					if !c.line.MatchString(line) {
						t.Errorf("not of the format: %s", line)
					}
				default:
					checkLine(t, line)
				}
			}
			if !c.none && (!strings.Contains(said, "CreateMesh") || !strings.Contains(said, "control plane is up") || !strings.Contains(said, "control plane is leaving")) {
				t.Errorf("it lacks a line:\n%s", said)
			}
			for _, file := range []string{"credentials", "master-key"} {
				text, err := os.ReadFile(filepath.Join(p.dir, file))
				if err != nil {
					t.Fatal(err)
				}
				for _, word := range strings.Fields(string(text)) {
					if len(word) > 25 && strings.Contains(said, word) {
						t.Errorf("the log has a secret of %s", file)
					}
				}
			}
		})
	}
}

// checkLine checks a line in JSON: what every line has, and that its other keys
// are among logKeys.
func checkLine(t *testing.T, line string) {
	t.Helper()
	var doc map[string]any
	if err := json.Unmarshal([]byte(line), &doc); err != nil {
		t.Errorf("%v: %s", err, line)
		return
	}
	at, _ := doc["time"].(string)
	if _, err := time.Parse(time.RFC3339Nano, at); err != nil {
		t.Errorf("%v: %s", err, line)
	}
	level, _ := doc["level"].(string)
	msg, _ := doc["msg"].(string)
	if !slices.Contains([]string{"DEBUG", "INFO", "WARN", "ERROR"}, level) || msg == "" {
		t.Errorf("no level or msg: %s", line)
	}
	for key := range doc {
		if !slices.Contains(logKeys, key) && !strings.HasPrefix(msg, "etcd: ") { // whose keys are etcd's
			t.Errorf("key %q is none of those that lines may have: %s", key, line)
		}
	}
}

// logKeys are all keys that a line may have: those of D13, and those of a few lines each.
var logKeys = []string{
	"time", "level", "msg", "mesh", "key", "proxy", "revision", "request_id", "err",
	// When the control plane comes and goes.
	"api", "xds", "admin", "account", "region", "version", "fips", "drain", "endpoints", "again", "until",
	// The access log.
	"method", "path", "operation", "status", "code", "took", "principal", "access_key", "addr",
	// What policies said, at level debug.
	"action", "resource", "decision", "layer", "policy", "statement",
	// Streams.
	"dialect", "peer", "type",
	// A resource that has a problem, and endpoints.
	"reason", "problem", "source", "failing", "namespace", "service", "instances",
	// The store and its keys.
	"free_bytes", "least_bytes", "writes", "bytes", "most_bytes", "keys",
}

// A replica that leaves says so on /readyz from the first moment, while its
// streams end one after another; /healthz says that it lives.
func TestReadyzWhileDraining(t *testing.T) {
	t.Parallel()
	p := start(t, t.TempDir(), "--auth", "off", "--drain-seconds", "60") // more than the test needs to look
	for _, call := range []struct {
		operation string
		in        any
	}{
		{"CreateMesh", api.CreateMeshInput{MeshName: "shop"}},
		{"CreateVirtualNode", map[string]any{"meshName": "shop", "virtualNodeName": "front", "spec": map[string]any{}}},
	} {
		if err := p.call(t.Context(), call.operation, call.in, nil); err != nil {
			t.Fatal(err)
		}
	}
	facts, err := client.ReadFacts(p.dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Run("while there are streams", func(t *testing.T) { // which end with it
		conn := adstest.Dial(t, strings.TrimPrefix(facts.XDSEndpoint, "http://"))
		for range 4 {
			adstest.Connect(t, conn, adstest.Options{Node: "mesh/shop/virtualNode/front", Delta: true})
		}
		eventually(t, "the proxies are content", func() bool { return value(p.scrape(t), "evermesh_proxies", "state=CURRENT") == 4 })
		if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		eventually(t, "/readyz says that it drains", func() bool {
			status, body := p.get(t, "/readyz")
			return status == http.StatusServiceUnavailable && body == "{\"ready\":false,\"reason\":\"draining\"}\n"
		})
		if status, body := p.get(t, "/healthz"); status != http.StatusOK || body != "ok\n" {
			t.Errorf("/healthz: %d %q", status, body)
		}
	})
	if code := p.exit(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
}
