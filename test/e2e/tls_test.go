//go:build linux

package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/evermesh/evermesh/internal/envoy/sdstest"
	"github.com/evermesh/evermesh/test/stage"
)

// TestTLS has mutual TLS from files between two sidecars, through the real control plane, and the statistics by which
// App Mesh's users tell.
func TestTLS(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "sealed", "DROP_ALL")
	root := sdstest.NewAuthority(t, "root")
	dir, err := os.MkdirTemp("", "certificates")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil { // Envoy is another user, who watches it
		t.Fatal(err)
	}
	file := func(name string, text []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, text, 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	pair := func(name string, of ...string) string {
		c := root.Issue(t, of...)
		return fmt.Sprintf(`{"file": {"certificateChain": %q, "privateKey": %q}}`, file(name+".pem", c.Chain), file(name+".key", c.Key))
	}
	trust := fmt.Sprintf(`{"file": {"certificateChain": %q}}`, file("ca.pem", root.PEM))
	sidecars, arns := map[string]*stage.Sidecar{}, []string{}
	for name, certificate := range map[string]string{"green": m.hostname("green"), "stray": "somebody.else"} {
		h := m.program(name)
		arns = append(arns, m.create("VirtualNode", name, m.nodeWith(name, fmt.Sprintf(`, "tls": {"mode": "STRICT", "certificate": %s, "validation": {"trust": %s}}`, pair(name, certificate), trust))))
		sidecars[name] = m.sidecar(h, stage.SidecarOptions{Resource: name, AppPorts: fmt.Sprint(appPort)})
	}
	books := m.service("books", appPort, map[string]string{"rest": to("green", `{"prefix": "/"}`), "stray": to("stray", `{"prefix": "/stray"}`)})
	m.create("VirtualNode", "client", fmt.Sprintf(`{"backendDefaults": {"clientPolicy": {"tls": {"certificate": %s, "validation": {"trust": %s}}}}, %s`,
		pair("client", m.hostname("client")), trust, strings.TrimPrefix(callerSpec(books), "{")))
	host := m.host("client")
	client := m.sidecar(host, stage.SidecarOptions{Resource: "client"})
	url := fmt.Sprintf("http://%s:%d", books, appPort)
	m.settle(arns...)

	t.Run("TLS-001 TLS-022 MTLS-011 the applications speak plaintext, the proxies mutual TLS", func(t *testing.T) {
		if a := ask(t, host, request{URL: url + "/"}); a.App != "green" {
			t.Fatalf("%d %s", a.Status, a.Body)
		}
		if n := m.stat(sidecars["green"], "listener.0.0.0.0_15000.ssl.handshake"); n == 0 {
			t.Error("the server counts no handshake")
		}
		if n := m.stat(sidecars["green"], "listener.0.0.0.0_15000.ssl.no_certificate"); n != 0 {
			t.Errorf("%v handshakes without a certificate", n)
		}
	})
	t.Run("TLS-023 errors are counted, and none happened", func(t *testing.T) {
		for _, name := range []string{"connection_error", "fail_verify_cert_hash", "fail_verify_error", "fail_verify_no_cert", "fail_verify_san"} {
			if all := m.admin(sidecars["green"], "/stats?filter=listener.0.0.0.0_15000.ssl"); !strings.Contains(all, "listener.0.0.0.0_15000.ssl."+name+": 0\n") {
				t.Errorf("no %s of 0 in\n%s", name, all)
			}
		}
	})
	t.Run("MTLS-012 TLS-005 a certificate for another name is refused, and the client's statistic says so", func(t *testing.T) {
		if a := ask(t, host, request{URL: url + "/stray"}); a.Status != http.StatusServiceUnavailable {
			t.Errorf("%d %s", a.Status, a.Body)
		}
		if n := m.stat(client, "cluster.cds_egress_sealed_stray_http_9080.ssl.fail_verify_san"); n == 0 {
			t.Error("fail_verify_san is 0")
		}
	})
	t.Run("TLS-021 who comes without TLS is turned away", func(t *testing.T) {
		ctx, cancel := m.context()
		defer cancel()
		visitor := m.host("visitor")
		if a, err := send(ctx, visitor, request{URL: fmt.Sprintf("http://%s:%d/", m.hostname("green"), appPort)}); err == nil {
			t.Errorf("%d %s", a.Status, a.Body)
		}
	})
}
