package envoy_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/envoy"
	"github.com/evermesh/evermesh/internal/envoy/envoytest"
	"github.com/evermesh/evermesh/internal/mesh"
	"github.com/evermesh/evermesh/internal/testenv"
)

// parameters are given to the commands that need one.
var parameters = map[string]string{
	"REQ": "(:METHOD)", "RESP": "(X-NONE?:STATUS)", "TRAILER": "(a)", "REQ_WITHOUT_QUERY": "(:PATH)", "STREAM_INFO_REQ": "(:METHOD)", "QUERY_PARAM": "(q)", "ENVIRONMENT": "(HOME)",
	"FILTER_STATE": "(a)", "UPSTREAM_FILTER_STATE": "(a)", "DYNAMIC_METADATA": "(a)", "CLUSTER_METADATA": "(a)", "UPSTREAM_METADATA": "(a)",
	"METADATA": "(LISTENER:aws.appmesh.aggregate_stats:config)", "COMMON_DURATION": "(DS_RX_BEG:DS_TX_END:us)",
}

// TestEveryCommandIsLogged has every command that formats may use in a log of each
// kind, and reads the line of one request.
func TestEveryCommandIsLogged(t *testing.T) {
	t.Parallel()
	const separator = " | "
	names := slices.Sorted(maps.Keys(envoy.Commands()))
	var text []string
	var pairs []api.JSONFormatRef
	for _, name := range names {
		text = append(text, name+"=%"+name+parameters[name]+"%")
		pairs = append(pairs, api.JSONFormatRef{Key: name, Value: "%" + name + parameters[name] + "%"})
	}
	for kind, c := range map[string]struct {
		format *api.LoggingFormat
		read   func(line string) map[string]string
	}{
		"VN-028 as text": {&api.LoggingFormat{Text: strings.Join(text, separator) + "\n"}, func(line string) map[string]string {
			out := map[string]string{}
			for part := range strings.SplitSeq(line, separator) {
				name, value, _ := strings.Cut(part, "=")
				out[name] = value
			}
			return out
		}},
		"VN-028 as json": {&api.LoggingFormat{JSON: pairs}, func(line string) map[string]string {
			var all map[string]any
			if err := json.Unmarshal([]byte(line), &all); err != nil {
				t.Error(err)
			}
			out := map[string]string{}
			for name, value := range all {
				if out[name] = fmt.Sprint(value); value == nil {
					out[name] = "-"
				}
			}
			return out
		}},
	} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "access.log")
			got := c.read(logged(t, file, c.format))
			if missing := slices.DeleteFunc(slices.Clone(names), func(name string) bool { _, ok := got[name]; return ok }); len(missing) > 0 {
				t.Errorf("nothing is logged of %q", missing)
			}
			for name, want := range map[string]string{
				"REQ": "GET", "RESP": "200", "REQ_WITHOUT_QUERY": "/a", "QUERY_PARAM": "1", "RESPONSE_CODE": "200", "PROTOCOL": "HTTP/1.1", "PATH": "/a?q=1",
				"UPSTREAM_CLUSTER": "cds_ingress_colors_front_http_8080", "METADATA": `{"tags":[]}`, "RESPONSE_FLAGS": "-",
			} {
				if got[name] != want {
					t.Errorf("%s is %q, want %q", name, got[name], want)
				}
			}
		})
	}
}

// logged is the line that an Envoy writes of a request to a node with that format.
func logged(t *testing.T, file string, format *api.LoggingFormat) string {
	t.Helper()
	resources := envoytest.Parse(t, "here", []byte(`
- mesh: colors
- kind: virtualNode
  name: front
  spec:
    listeners: [{portMapping: {port: 8080, protocol: http}}]
    serviceDiscovery: {dns: {hostname: front.local}}
`))
	resources[1].VirtualNodeSpec().Logging = &api.Logging{AccessLog: &api.AccessLog{File: &api.FileAccessLog{Path: file, Format: format}}}
	view, _, _ := mesh.NewSnapshot(1, resources).View(mesh.Client{Key: resources[1].Key})
	bundle, problems := new(envoy.Builder).Build(view, nil)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	conn := envoytest.Intercepted(t, bundle).Connect(t, "lds_ingress_0.0.0.0_15000", netip.MustParseAddrPort("10.0.0.1:8080"))
	if _, err := fmt.Fprint(conn, "GET /a?q=1 HTTP/1.1\r\nHost: front.local\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || answer.StatusCode != http.StatusOK {
		t.Fatalf("%v %v", answer, err)
	}
	answer.Body.Close()
	var line string
	testenv.Eventually(t, "the request is logged", func() bool {
		text, err := os.ReadFile(file)
		line, _, _ = strings.Cut(string(text), "\n")
		return err == nil && strings.Contains(string(text), "\n")
	})
	return line
}
