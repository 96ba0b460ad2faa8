//go:build linux

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/evermesh/evermesh/test/stage"
)

// TestLogs reads what an Envoy writes down: of requests, as the node's spec says, and of itself.
func TestLogs(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "logs", "DROP_ALL")
	h := m.program("server")
	// Envoy's user may write where the agent keeps its own.
	file := filepath.Join(m.Dir(), "run", h.Name(), "access.log")
	spec := func(format string) string {
		return strings.TrimSuffix(m.nodeSpec("server"), "}") + fmt.Sprintf(`, "logging": {"accessLog": {"file": {"path": %q, "format": %s}}}}`, file, format)
	}
	const sample = `{"text": "%LOCAL_REPLY_BODY%:%RESPONSE_CODE%:path=%REQ(:path)%\n"}`
	m.create("VirtualNode", "server", spec(sample))
	s := m.sidecar(h, stage.SidecarOptions{Resource: "server", AppPorts: fmt.Sprint(appPort), Env: []string{"ENVOY_LOG_LEVEL=info"}})
	visitor, url := m.host("visitor"), fmt.Sprintf("http://%s:%d", m.hostname("server"), appPort)
	// logs waits for a line that the expression matches whole.
	logs := func(t *testing.T, from, expression string) []string {
		t.Helper()
		var found []string
		m.until("a line of "+from+" is "+expression, func(context.Context) bool {
			for line := range strings.Lines(read(t, from)) {
				if found = regexp.MustCompile(`^(?:` + expression + `)\n$`).FindStringSubmatch(line); found != nil {
					return true
				}
			}
			return false
		})
		return found
	}

	t.Run("OBS-002 the guide's text format gives its line", func(t *testing.T) {
		ask(t, visitor, request{URL: url + "/one?a=b", Header: map[string]string{"X-Status": "404"}})
		logs(t, file, `:404:path=/one\?a=b`)
	})
	t.Run("OBS-001 both formats, or neither, are refused", func(t *testing.T) {
		for _, format := range []string{`{}`, `{"text": "a", "json": [{"key": "a", "value": "b"}]}`} {
			_, err := m.try("UpdateVirtualNode", fmt.Sprintf(`{"virtualNodeName": "server", "spec": %s}`, spec(format)))
			if err == nil || !strings.Contains(err.Error(), "BadRequestException") {
				t.Errorf("%s: %v", format, err)
			}
		}
	})
	t.Run("OBS-003 json pairs become one object a line", func(t *testing.T) {
		m.settle(m.update("VirtualNode", "server", spec(`{"json": [{"key": "status", "value": "%RESPONSE_CODE%"}, {"key": "path", "value": "%REQ(:PATH)%"}, {"key": "said", "value": "by %PROTOCOL%"}]}`)))
		ask(t, visitor, request{URL: url + "/two"})
		line := logs(t, file, `(\{.*"/two".*\})`)[1]
		var got map[string]any
		if err := json.Unmarshal([]byte(line), &got); err != nil || len(got) != 3 || got["status"] != 200.0 || got["path"] != "/two" || got["said"] != "by HTTP/1.1" {
			t.Errorf("%v: %s", err, line)
		}
	})
	t.Run("OBS-004 the path without its query", func(t *testing.T) {
		m.settle(m.update("VirtualNode", "server", spec(`{"text": "%REQ_WITHOUT_QUERY(X-NONE?:PATH):6% %REQ_WITHOUT_QUERY(X-GIVEN?:PATH)%\n"}`)))
		ask(t, visitor, request{URL: url + "/three?secret=1", Header: map[string]string{"X-Given": "/given?secret=2"}})
		logs(t, file, `/three /given`)
	})
	t.Run("TRBL-018 a balancer's PROXY header is answered 400, and logged so", func(t *testing.T) {
		m.settle(m.update("VirtualNode", "server", strings.Replace(spec("null"), `, "format": null`, "", 1)))
		conn, err := visitor.Dial(t.Context(), "tcp", fmt.Sprintf("%s:%d", m.hostname("server"), appPort))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\x0a\x00\x00\x01\x0a\x00\x00\x02\x9c\x40\x23\x78"); err != nil {
			t.Fatal(err)
		}
		answer, err := io.ReadAll(conn)
		if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 400 Bad Request\r\n") {
			t.Errorf("%v: %s", err, answer)
		}
		logs(t, file, `\[[^]]*\] "- - HTTP/1.1" 400 DPE 0 11 \d+ - .*`)
	})
	t.Run("OBS-005 at standard output, with the log level off, access logs alone are left", func(t *testing.T) {
		m.create("VirtualNode", "silent", strings.Replace(strings.Replace(spec(`{"text": "only %REQ(:PATH)%\n"}`), file, "/dev/stdout", 1), m.hostname("server"), m.hostname("silent"), 1))
		h := m.program("silent")
		s := m.sidecar(h, stage.SidecarOptions{Resource: "silent", AppPorts: fmt.Sprint(appPort), Env: []string{"ENVOY_LOG_LEVEL=off"}})
		ask(t, visitor, request{URL: fmt.Sprintf("http://%s:%d/four", m.hostname("silent"), appPort)})
		logs(t, s.Process.Log(), `only /four`)
		for line := range strings.Lines(read(t, s.Process.Log())) {
			if strings.Contains(line, "][") && strings.Contains(line, "source/") {
				t.Errorf("Envoy says %s", line)
			}
		}
	})
	t.Run("OBS-008 OBS-009 OBS-011 debugging, which is off and can be had for a while, names the cluster that a path led to, in lines of five fields", func(t *testing.T) {
		set := func(level string) {
			resp, err := h.Client().Post("http://127.0.0.1:9902/enableLogging?level="+level, "", http.NoBody)
			if err != nil {
				t.Fatal(err)
			}
			if resp.Body.Close(); resp.StatusCode != http.StatusOK {
				t.Fatalf("level %s: %s", level, resp.Status)
			}
		}
		quiet := len(read(t, s.Process.Log()))
		ask(t, visitor, request{URL: url + "/ping"})
		if said := read(t, s.Process.Log())[quiet:]; strings.Contains(said, "match for URL") {
			t.Errorf("without debugging it says\n%s", said)
		}
		set("debug")
		ask(t, visitor, request{URL: url + "/ping"})
		cluster := fmt.Sprintf("cds_ingress_logs_server_http_%d", appPort)
		// The guide's query: "[*][*][*][*] [*] *" as Time, Thread, Level, Name, Source, Message.
		line := logs(t, s.Process.Log(), `\[([^]]*)\]\[([^]]*)\]\[([^]]*)\]\[([^]]*)\] \[([^]]*)\] (.*cluster '`+cluster+`' match for URL '/ping'.*)`)
		if line[3] != "debug" || line[4] != "router" || !strings.HasPrefix(line[5], "source/") {
			t.Errorf("the line has the fields %q", line[1:])
		}
		set("info")
	})
}
