//go:build linux

package e2e

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/evermesh/evermesh/test/stage"
)

// TestEndpointNames has a management service under the names that App Mesh's had, and others, on both families.
func TestEndpointNames(t *testing.T) {
	t.Parallel()
	onGround(t)
	const mine = "xds.evermesh.example"
	aws := func(name, domain string) string { return name + ".us-east-1." + domain }
	usual, preview := aws("appmesh-envoy-management", "amazonaws.com"), aws("appmesh-preview-envoy-management", "amazonaws.com")
	fips, dual := aws("appmesh-envoy-management-fips", "amazonaws.com"), aws("appmesh-envoy-management", "api.aws")
	c := newCertificates(t)
	own := c.Issue(t, mine, usual, preview, fips, dual)
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	control, err := world.Control(ctx, stage.ControlOptions{Name: "names", Ports: []int{7190, 443, 7192}, Args: []string{
		"--xds-listen", "[::]:443", "--xds-tls-cert", c.file("xds.pem", own.Chain), "--xds-tls-key", c.file("xds.key", own.Key),
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), wait)
		defer cancel()
		if err := control.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
	control.CAFile, control.XDS = c.file("ca.pem", c.PEM), "" // what is not set is App Mesh's name
	m := newMeshOn(t, control, "names", "DROP_ALL")
	m.create("VirtualNode", "node", `{}`)
	home := world.Home()
	for _, name := range []string{mine, usual, preview, fips} {
		m.DNS().Set(name, home.Addr())
	}
	if m.DNS().Set(dual, home.Addr6()); !home.Addr6().IsValid() {
		m.DNS().Set(dual, home.Addr()) // a kernel without IPv6
	}
	connected := func(t *testing.T, host string, o stage.SidecarOptions) {
		t.Helper()
		o.Resource = "node"
		if s := m.sidecar(m.host(host), o); m.stat(s, "control_plane.connected_state") != 1 {
			t.Error("it is not connected")
		}
	}
	t.Run("EMS-002 the name that App Mesh's had is the default", func(t *testing.T) {
		before := m.DNS().Queries(usual)
		connected(t, "usual", stage.SidecarOptions{})
		if m.DNS().Queries(usual) == before {
			t.Error("nobody asked for " + usual)
		}
	})
	t.Run("EMS-002 the preview's, whose requests are signed as such", func(t *testing.T) {
		connected(t, "preview", stage.SidecarOptions{Env: []string{"APPMESH_PREVIEW=1"}})
	})
	t.Run("EMS-002 EMS-004 a name of one's own, and FIPS's", func(t *testing.T) {
		for host, name := range map[string]string{"mine": mine, "fips": fips} {
			connected(t, host, stage.SidecarOptions{Env: []string{"APPMESH_XDS_ENDPOINT=" + name + ":443"}})
		}
	})
	t.Run("EMS-005 the dual-stack name, which has an IPv6 address alone", func(t *testing.T) {
		connected(t, "dual", stage.SidecarOptions{Env: []string{"APPMESH_DUALSTACK_ENDPOINT=1"}})
	})
	t.Run("SEC-008 a host that lets nothing out but to port 443", func(t *testing.T) {
		server, host := m.program("server"), m.host("walled")
		reaches := func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			conn, err := host.Dial(ctx, "tcp", fmt.Sprintf("%s:%d", server.Addr(), appPort))
			return err == nil && conn.Close() == nil
		}
		m.until("it reaches other ports, before there is a wall", func(context.Context) bool { return reaches() })
		wall(t, host)
		if reaches() {
			t.Fatal("it reaches other ports: there is no wall")
		}
		connected(t, "walled", stage.SidecarOptions{Env: []string{"APPMESH_XDS_ENDPOINT=" + mine + ":443"}})
	})
	t.Run("EMS-061 whose authority the proxy does not know is not trusted, and plaintext is not tried", func(t *testing.T) {
		untrusted := *control
		untrusted.CAFile = ""
		s := m.sidecar(m.host("untrusting"), stage.SidecarOptions{Resource: "node", XDS: []*stage.Control{&untrusted}, Early: true})
		m.logs(s, "certificate signed by unknown authority")
		if m.stat(s, "control_plane.connected_state") == 1 && m.stat(s, "listener_manager.lds.update_success") > 0 {
			t.Error("it was given a configuration")
		}
	})
}

// TestWhoMayStream has gateways whose proxies come with the key of another account, and a management service that asks
// nobody.
func TestWhoMayStream(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "streams", "DROP_ALL")
	c := newCertificates(t)
	m.create("VirtualGateway", "plain", `{"listeners": [{"portMapping": {"port": 8088, "protocol": "http"}}]}`)
	m.create("VirtualGateway", "sealed", `{"listeners": [{"portMapping": {"port": 8088, "protocol": "http"}, "tls": {"mode": "STRICT", "certificate": `+c.pair("gate", "gate")+`}}]}`)
	m.create("VirtualNode", "node", m.nodeSpec("node"))
	other := *m.control
	other.Key, _ = newAccount(t, m.control, "999900002223")
	for name, resource := range map[string]string{
		"VG-017 a gateway without TLS":        "virtualGateway/plain",
		"VG-017 a gateway with TLS":           "virtualGateway/sealed",
		"EMS-055 EMS-010 a node, without TLS": "virtualNode/node",
	} {
		t.Run(name, func(t *testing.T) {
			host := "other-" + filepath.Base(resource)
			// The mesh is named with its owner: without, it would be the other account's own.
			s := m.sidecar(m.host(host), stage.SidecarOptions{
				Resource: "mesh/" + m.name + "@" + m.control.Account + "/" + resource, XDS: []*stage.Control{&other}, Early: true, Alone: true,
			})
			m.logs(s, "gRPC config stream", "closed", ": 7, ", "Unauthorized to perform appmesh:StreamAggregatedResources")
			if n := m.stat(s, "listener_manager.lds.update_success"); n != 0 {
				t.Errorf("it has listeners, of %d updates", n)
			}
			m.sidecar(m.host("own-"+filepath.Base(resource)), stage.SidecarOptions{Resource: "mesh/" + m.name + "/" + resource, Alone: true})
		})
	}
	t.Run("EMS-055 a management service that asks nobody serves without", func(t *testing.T) {
		ctx, cancel := m.context()
		defer cancel()
		open, err := world.Control(ctx, stage.ControlOptions{Name: "open", Ports: []int{7193, 7194, 7195}, Args: []string{"--auth", "off", "--insecure-plaintext"}})
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			ctx, cancel := context.WithTimeout(context.Background(), wait)
			defer cancel()
			if err := open.Stop(ctx); err != nil {
				t.Error(err)
			}
		}()
		o := newMeshOn(t, open, "open", "DROP_ALL")
		o.create("VirtualNode", "node", `{}`)
		o.sidecar(o.host("nobody"), stage.SidecarOptions{Resource: "node", Env: []string{"AWS_ACCESS_KEY_ID=AKIANOBODY", "AWS_SECRET_ACCESS_KEY=wrong"}})
	})
}
