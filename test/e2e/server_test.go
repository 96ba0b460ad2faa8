//go:build linux

package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/evermesh/evermesh/test/stage"
)

// TestManagementServer shows what the management service says to proxies that it does not serve, and to those that
// name themselves in another way.
func TestManagementServer(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "server", "DROP_ALL")
	arn := m.create("VirtualNode", "node", `{}`)

	t.Run("EMS-003 the management service does not speak plaintext", func(t *testing.T) {
		ctx, cancel := m.context()
		defer cancel()
		conn, err := m.host("unknown").Dial(ctx, "tcp", m.control.XDSAddr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(wait)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"); err != nil {
			t.Fatal(err)
		}
		// Nothing but a TLS alert (record type 21) may come before the end.
		text, err := io.ReadAll(conn)
		if len(text) > 0 && text[0] != 21 {
			t.Errorf("it answered %q, %v", text, err)
		}
	})
	t.Run("EMS-006 EMS-012 a request without credentials", func(t *testing.T) {
		pem, err := os.ReadFile(m.control.CAFile)
		if err != nil {
			t.Fatal(err)
		}
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(pem)
		transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: true}
		defer transport.CloseIdleConnections()
		ctx, cancel := m.context()
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+m.control.XDSAddr+"/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/grpc")
		resp, err := transport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		status, message := resp.Header.Get("Grpc-Status")+resp.Trailer.Get("Grpc-Status"), resp.Header.Get("Grpc-Message")+resp.Trailer.Get("Grpc-Message")
		if status != "16" || message != "Missing Authentication Token" {
			t.Errorf("grpc-status %q, grpc-message %q", status, message)
		}
	})
	t.Run("EMS-009 EMS-013 an unknown node, until it is made", func(t *testing.T) {
		h := m.host("unknown")
		s := m.sidecar(h, stage.SidecarOptions{Resource: "unknown", Early: true})
		m.logs(s, "gRPC config stream", "closed", ": 3, ", "unknown")
		m.create("VirtualNode", "unknown", `{}`)
		ctx, cancel := m.context()
		defer cancel()
		if err := s.WaitLive(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Run("EMS-012 EMS-013 a wrong key", func(t *testing.T) {
		h := m.host("stranger")
		s := m.sidecar(h, stage.SidecarOptions{Resource: "node", Early: true, Env: []string{"AWS_SECRET_ACCESS_KEY=wrong"}})
		m.logs(s, "gRPC config stream", "closed", ": 16, ")
	})
	for name, o := range map[string]stage.SidecarOptions{
		"EMS-015 the short form":               {Resource: "mesh/server/virtualNode/node"},
		"EMS-015 VN-002 the ARN of the answer": {Resource: arn},
		"EMS-016 the mesh with its owner":      {Resource: "mesh/server@" + m.control.Account + "/virtualNode/node"},
		"EMS-018 the deprecated variable":      {Resource: "/", Env: []string{"APPMESH_RESOURCE_ARN=", "APPMESH_VIRTUAL_NODE_NAME=mesh/server/virtualNode/node"}},
		"EMS-019 a cluster of another's name":  {Resource: "node", Env: []string{"APPMESH_RESOURCE_CLUSTER=mesh/other/virtualNode/other"}},
	} {
		t.Run(name, func(t *testing.T) {
			h := m.host("form-" + strings.Fields(name)[0] + "-" + strings.Fields(name)[1] + strings.Fields(name)[2])
			s := m.sidecar(h, o)
			if n := m.stat(s, "control_plane.connected_state"); n != 1 {
				t.Error("the proxy is not connected")
			}
			if !strings.Contains(m.admin(s, "/clusters"), "cds_egress_server_amazonaws") {
				t.Error("the proxy has not the node's clusters")
			}
		})
	}
	t.Run("EMS-017 an ARN of another service", func(t *testing.T) {
		h := m.host("iam")
		s := m.sidecar(h, stage.SidecarOptions{Resource: "arn:aws:iam::" + m.control.Account + ":mesh/server/virtualNode/node", Early: true})
		m.logs(s, "arn:aws:iam")
	})
}

// logs waits until a line of the sidecar's log has all the words.
func (m *mesh) logs(s *stage.Sidecar, words ...string) {
	m.t.Helper()
	m.until("the log says "+strings.Join(words, " … "), func(context.Context) bool {
		for line := range strings.Lines(read(m.t, s.Process.Log())) {
			all := true
			for _, w := range words {
				all = all && strings.Contains(line, w)
			}
			if all {
				return true
			}
		}
		return false
	})
}

// TestMeshesAreApart has two meshes with nodes and services of equal names.
func TestMeshesAreApart(t *testing.T) {
	t.Parallel()
	left, right := newMesh(t, "apart-left", "DROP_ALL"), newMesh(t, "apart-right", "DROP_ALL")
	sidecars := map[*mesh]*stage.Sidecar{}
	for _, m := range []*mesh{left, right} {
		m.app("blue")
		service := "shop.apart.local"
		m.DNS().Set(service, nobody)
		m.create("VirtualRouter", "shop", `{"listeners": [{"portMapping": {"port": 9080, "protocol": "http"}}]}`)
		m.route("shop", "r", weighted("", "blue", 1))
		m.create("VirtualService", service, `{"provider": {"virtualRouter": {"virtualRouterName": "shop"}}}`)
		m.create("VirtualNode", "client", callerSpec(service))
		sidecars[m] = m.sidecar(m.host("client"), stage.SidecarOptions{Resource: "client"})
	}
	t.Run("MESH-001 a proxy has nothing of another mesh", func(t *testing.T) {
		for m, other := range map[*mesh]*mesh{left: right, right: left} {
			dump := m.admin(sidecars[m], "/config_dump")
			if !strings.Contains(dump, m.name) || strings.Contains(dump, other.name) {
				t.Errorf("the proxy of %s: its own mesh %v, the other one %v", m.name, strings.Contains(dump, m.name), strings.Contains(dump, other.name))
			}
		}
	})
	t.Run("MESH-001 nor does a change reach it", func(t *testing.T) {
		rds := "http.egress.rds.rds_egress_http_9080.update_success"
		before := right.stat(sidecars[right], rds)
		left.settle(left.put("Update", "Route", "shop", "r", weighted("", "blue", 7)))
		if after := right.stat(sidecars[right], rds); after != before {
			t.Errorf("the other mesh's proxy got %d updates", after-before)
		}
		a := ask(t, right.host("client"), request{URL: "http://shop.apart.local:9080/"})
		if a.App != "blue" {
			t.Errorf("%d %s", a.Status, a.Body)
		}
	})
}
