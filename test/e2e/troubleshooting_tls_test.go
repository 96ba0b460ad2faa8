//go:build linux

package e2e

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/evermesh/evermesh/internal/envoy/sdstest"
	"github.com/evermesh/evermesh/test/ground"
	"github.com/evermesh/evermesh/test/stage"
)

// TestSecretsOfTheWorkload has an SDS server beside two workloads, as SPIRE's agent is one, at a socket that the agents
// are told of.
func TestSecretsOfTheWorkload(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "workload", "DROP_ALL")
	root := sdstest.NewAuthority(t, "root")
	dir, err := os.MkdirTemp("", "sds") // short: sockets have at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "sds.sock")
	secrets := sdstest.Serve(t, socket) // it speaks v3, and nothing else
	for path, mode := range map[string]os.FileMode{dir: 0o755, socket: 0o777} {
		if err := os.Chmod(path, mode); err != nil { // Envoy is another user
			t.Fatal(err)
		}
	}
	secrets.PutCertificate(t, "server", root.Issue(t, m.hostname("server")))
	secrets.PutTrust(t, "authority", root)
	server := m.program("server")
	m.create("VirtualNode", "server", m.nodeWith("server", `, "tls": {"mode": "STRICT", "certificate": {"sds": {"secretName": "server"}}}`))
	service := m.service("shop", appPort, map[string]string{"rest": to("server", `{"prefix": "/"}`)})
	m.create("VirtualNode", "client", `{"backendDefaults": {"clientPolicy": {"tls": {"validation": {"trust": {"sds": {"secretName": "authority"}}}}}}, `+strings.TrimPrefix(callerSpec(service), "{"))
	env := []string{"APPMESH_SDS_SOCKET_PATH=" + socket}
	in := m.sidecar(server, stage.SidecarOptions{Resource: "server", AppPorts: fmt.Sprint(appPort), Env: env})
	client := m.host("client")
	out := m.sidecar(client, stage.SidecarOptions{Resource: "client", Env: env})

	t.Run("TLS-009 TLS-010 EMS-027 certificates and authorities come by SDS v3 from the socket's cluster", func(t *testing.T) {
		if a := ask(t, client, request{URL: fmt.Sprintf("http://%s:%d/", service, appPort)}); a.App != "server" {
			t.Fatalf("%d %s", a.Status, a.Body)
		}
		if n := m.stat(in, "listener.0.0.0.0_15000.ssl.handshake"); n == 0 {
			t.Error("the server counts no handshake")
		}
		for _, s := range []*stage.Sidecar{in, out} {
			if n := m.stat(s, "cluster.static_cluster_sds_unix_socket.upstream_cx_total"); n == 0 {
				t.Errorf("%s made no connection to the socket", s.Host.Name())
			}
		}
	})
	t.Run("TLS-009 an agent that is not told of the socket has no such cluster", func(t *testing.T) {
		other := m.host("untold")
		s := m.sidecar(other, stage.SidecarOptions{Resource: "client"})
		if a := ask(t, other, request{URL: fmt.Sprintf("http://%s:%d/", service, appPort)}); a.Status != http.StatusServiceUnavailable {
			t.Errorf("%d %s", a.Status, a.Body)
		}
		if strings.Contains(m.admin(s, "/clusters"), "static_cluster_sds_unix_socket") {
			t.Error("it has the cluster")
		}
	})
}

// TestTrustBetweenMeshes has two meshes whose gateways demand certificates, and a service in each that calls the other.
func TestTrustBetweenMeshes(t *testing.T) {
	t.Parallel()
	c := newCertificates(t)
	const port = 8443
	meshes, gates, clients := map[string]*mesh{}, map[string]*ground.Host{}, map[string]*ground.Host{}
	peer := map[string]string{"east": "west", "west": "east"}
	for name := range peer {
		meshes[name] = newMesh(t, name, "DROP_ALL")
		gates[name] = meshes[name].host("gate")
	}
	for name, other := range peer {
		m := meshes[name]
		m.create("VirtualNode", "app", m.nodeSpec("app"))
		m.program("app")
		service := m.service("own", appPort, map[string]string{"rest": to("app", `{"prefix": "/"}`)})
		m.create("VirtualGateway", "gate", fmt.Sprintf(`{"listeners": [{"portMapping": {"port": %d, "protocol": "http"}, "tls": {"mode": "STRICT", "certificate": %s, "validation": {"trust": %s, "subjectAlternativeNames": {"match": {"exact": [%q]}}}}}]}`,
			port, c.pair(name+"-gate", m.hostname("gate")), c.trust(), "client."+other+".local"))
		m.put("Create", "GatewayRoute", "gate", "rest", toService(service, `{"prefix": "/"}`, ""))
		m.sidecar(gates[name], stage.SidecarOptions{Resource: "mesh/" + name + "/virtualGateway/gate", Alone: true})
		// The other mesh's gateway, as a node of this mesh.
		m.create("VirtualNode", "peer", fmt.Sprintf(`{"listeners": [{"portMapping": {"port": %d, "protocol": "http"}}], "serviceDiscovery": {"dns": {"hostname": %q}}}`, port, "gate."+other+".local"))
		m.DNS().Set(m.hostname("peer"), nobody)
		m.create("VirtualService", m.hostname("peer"), `{"provider": {"virtualNode": {"virtualNodeName": "peer"}}}`)
		for node, certificate := range map[string]string{"client": fmt.Sprintf(`"certificate": %s, `, c.pair(name+"-client", m.hostname("client"))), "unknown": ""} {
			m.create("VirtualNode", node, fmt.Sprintf(`{"backends": [{"virtualService": {"virtualServiceName": %q, "clientPolicy": {"tls": {%s"validation": {"trust": %s}}}}}]}`, m.hostname("peer"), certificate, c.trust()))
		}
		clients[name] = m.host("client")
		m.sidecar(clients[name], stage.SidecarOptions{Resource: "client"})
	}
	for name, other := range peer {
		t.Run("MTLS-007 "+name+" reaches "+other+" through its gateway", func(t *testing.T) {
			a := ask(t, clients[name], request{URL: fmt.Sprintf("http://%s:%d/", meshes[name].hostname("peer"), port)})
			if a.App != "app" || a.Seen.Host != "own."+other+".local" {
				t.Errorf("%d from %q as %q", a.Status, a.App, a.Seen.Host)
			}
		})
	}
	t.Run("MTLS-003 the control plane has the paths of keys, and never a key", func(t *testing.T) {
		m := meshes["east"]
		ctx, cancel := m.context()
		defer cancel()
		file := filepath.Join(t.TempDir(), "backup")
		if _, err := m.control.Run(ctx, "backup", file, "--data-dir", m.control.DataDir); err != nil {
			t.Fatal(err)
		}
		stored := read(t, file)
		if path := filepath.Join(c.dir, "east-gate.key"); !bytesOrBase64(stored, path) {
			t.Errorf("the store does not have %s: the test shows nothing", path)
		}
		for _, name := range []string{"east-gate.key", "east-client.key", "west-gate.key", "west-client.key"} {
			lines := strings.Split(read(t, filepath.Join(c.dir, name)), "\n")
			if key := lines[1]; bytesOrBase64(stored, key) {
				t.Errorf("the store has the key of %s", name)
			}
			if log := read(t, m.control.Process.Log()); strings.Contains(log, lines[1]) {
				t.Errorf("the log has the key of %s", name)
			}
		}
	})
	t.Run("MTLS-007 without a certificate it does not", func(t *testing.T) {
		m := meshes["east"]
		unknown := m.host("unknown")
		m.sidecar(unknown, stage.SidecarOptions{Resource: "unknown"})
		if a := ask(t, unknown, request{URL: fmt.Sprintf("http://%s:%d/", m.hostname("peer"), port)}); a.Status != http.StatusServiceUnavailable {
			t.Errorf("%d from %q", a.Status, a.App)
		}
	})
}

// bytesOrBase64 says whether text has what is looked for, as it is or in base64 at any offset.
func bytesOrBase64(text, wanted string) bool {
	if strings.Contains(text, wanted) {
		return true
	}
	for shift := range 3 {
		// What is before and after it decides on the first and last characters.
		middle := base64.RawStdEncoding.EncodeToString([]byte(strings.Repeat("x", shift) + wanted))
		if strings.Contains(text, middle[4:len(middle)-4]) {
			return true
		}
	}
	return false
}

// TestOutsideByTLS has a node with TLS under DROP_ALL whose application calls what is not in the mesh.
func TestOutsideByTLS(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "sealed-off", "DROP_ALL")
	c := newCertificates(t)
	outside := m.program("outside")
	serveTLS(t, outside)
	const foreign, aws = "www.sealed-off.example", "sealed-off.us-east-1.amazonaws.com"
	for _, name := range []string{foreign, aws} {
		m.DNS().Set(name, outside.Addr())
	}
	node := m.create("VirtualNode", "client", `{"backendDefaults": {"clientPolicy": {"tls": {"validation": {"trust": `+c.trust()+`}}}}}`)
	client := m.host("client")
	m.sidecar(client, stage.SidecarOptions{Resource: "client"})
	advised := func() string { return strings.Join(m.explanation(t, node).Advice, "\n") }
	t.Run("TLS-029 names of AWS are reached, others not, and explain says so", func(t *testing.T) {
		if !shakesHands(t, client, aws) || shakesHands(t, client, foreign) {
			t.Errorf("%s: %v, %s: %v", aws, shakesHands(t, client, aws), foreign, shakesHands(t, client, foreign))
		}
		if !strings.Contains(advised(), "egressFilter is DROP_ALL") {
			t.Errorf("the advice is %q", advised())
		}
	})
	t.Run("TLS-029 under ALLOW_ALL both are", func(t *testing.T) {
		m.settle(m.call("UpdateMesh", `{"spec": {"egressFilter": {"type": "ALLOW_ALL"}}}`))
		if !shakesHands(t, client, foreign) || strings.Contains(advised(), "egressFilter") {
			t.Errorf("%s: %v; the advice is %q", foreign, shakesHands(t, client, foreign), advised())
		}
	})
}
