//go:build linux

package e2e

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/evermesh/evermesh/internal/envoy/sdstest"
	"github.com/evermesh/evermesh/test/stage"
)

// TestWithoutSDSServer has certificates of type sds at proxies whose agents were told of no SDS server: what needs them
// fails, and their listeners, clusters and changes beside it are as ever.
func TestWithoutSDSServer(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "keyless", "DROP_ALL")
	const sds = `{"sds": {"secretName": "spiffe://keyless.local/%s"}}`
	green := m.program("green")
	h := m.program("half")
	arns := []string{
		m.create("VirtualNode", "green", m.nodeSpec("green")),
		// Plaintext and TLS side by side.
		m.create("VirtualNode", "half", m.nodeWith("half", fmt.Sprintf(`, "tls": {"mode": "PERMISSIVE", "certificate": `+sds+`}`, "half"))),
	}
	m.sidecar(green, stage.SidecarOptions{Resource: "green", AppPorts: fmt.Sprint(appPort)})
	m.sidecar(h, stage.SidecarOptions{Resource: "half", AppPorts: fmt.Sprint(appPort)})
	books := m.service("books", appPort, map[string]string{"rest": to("green", `{"prefix": "/"}`)})
	safe := m.service("safe", appPort, map[string]string{"rest": to("half", `{"prefix": "/"}`)})
	backend := fmt.Sprintf(`{"virtualService": {"virtualServiceName": %q, "clientPolicy": {"tls": {"certificate": `+sds+`, "validation": {"trust": `+sds+`}}}}}`, safe, "client", "root")
	arns = append(arns, m.create("VirtualNode", "client", strings.TrimSuffix(callerSpec(books), "]}")+", "+backend+"]}"))
	client := m.host("client")
	sidecar := m.sidecar(client, stage.SidecarOptions{Resource: "client"})
	m.settle(arns...)

	t.Run("what needs the certificate fails, its neighbours do not", func(t *testing.T) {
		if a := ask(t, client, request{URL: fmt.Sprintf("http://%s:%d/", safe, appPort)}); a.Status != http.StatusServiceUnavailable {
			t.Errorf("with a certificate that it cannot get, the client is answered %d %s", a.Status, a.Body)
		}
		if a := ask(t, client, request{URL: fmt.Sprintf("http://%s:%d/", books, appPort)}); a.App != "green" {
			t.Errorf("%d %s", a.Status, a.Body)
		}
		if a := ask(t, m.host("visitor"), request{URL: fmt.Sprintf("http://%s:%d/", m.hostname("half"), appPort)}); a.App != "half" {
			t.Errorf("plaintext at the node without its certificate: %d %s", a.Status, a.Body)
		}
	})
	t.Run("explain tells what to do", func(t *testing.T) {
		for _, arn := range arns[1:] {
			m.until("the problem of "+arn, func(context.Context) bool {
				for _, p := range m.explanation(t, arn).Problems {
					if p.Reason == "SecretDenied" && strings.Contains(p.Message, "spiffe://keyless.local/") && strings.Contains(p.Message, "APPMESH_SDS_SOCKET_PATH") {
						return true
					}
				}
				return false
			})
		}
	})
	t.Run("nothing is refused, and later changes arrive", func(t *testing.T) {
		arn := m.route("books", "new", when("half", `{"prefix": "/new"}`))
		m.settle(arn, arns[1], arns[2])
		if a := ask(t, client, request{URL: fmt.Sprintf("http://%s:%d/new", books, appPort)}); a.Status != http.StatusServiceUnavailable {
			t.Errorf("through the backend's policy to %s: %d %s", a.App, a.Status, a.Body)
		}
		for _, name := range []string{"cluster_manager.cds.update_rejected", "listener_manager.lds.update_rejected"} {
			if n := m.stat(sidecar, name); n != 0 {
				t.Errorf("%s is %d", name, n)
			}
		}
	})
	t.Run("TLS-009 AGENT-035 with the socket in APPMESH_SDS_SOCKET_PATH the secrets come from there", func(t *testing.T) {
		root := sdstest.NewAuthority(t, "root")
		dir, err := os.MkdirTemp("", "sds")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		if err := os.Chmod(dir, 0o755); err != nil { // Envoy is another user
			t.Fatal(err)
		}
		socket := filepath.Join(dir, "s")
		second := m.host("second")
		env := []string{"APPMESH_SDS_SOCKET_PATH=" + socket}
		m.sidecar(second, stage.SidecarOptions{Resource: "client", Env: env})
		m.settle(arns[2])
		if a := ask(t, second, request{URL: fmt.Sprintf("http://%s:%d/", books, appPort)}); a.App != "green" {
			t.Errorf("while nobody serves the socket: %d %s", a.Status, a.Body)
		}
		server := sdstest.Serve(t, socket)
		if err := os.Chmod(socket, 0o777); err != nil {
			t.Fatal(err)
		}
		server.PutCertificate(t, "spiffe://keyless.local/half", root.Issue(t, m.hostname("half")))
		server.PutCertificate(t, "spiffe://keyless.local/client", root.Issue(t, m.hostname("client")))
		server.PutTrust(t, "spiffe://keyless.local/root", root)
		other := m.program("other")
		m.DNS().Set(m.hostname("half"), other.Addr())
		m.sidecar(other, stage.SidecarOptions{Resource: "half", AppPorts: fmt.Sprint(appPort), Env: env})
		m.until("requests arrive", func(context.Context) bool {
			return ask(t, second, request{URL: fmt.Sprintf("http://%s:%d/", safe, appPort)}).App == "other"
		})
	})
}
