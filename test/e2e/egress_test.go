//go:build linux

package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"maps"
	"math/big"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/evermesh/evermesh/test/ground"
	"github.com/evermesh/evermesh/test/stage"
)

// stat is a counter or gauge of the sidecar's Envoy.
func (m *mesh) stat(s *stage.Sidecar, name string) int {
	m.t.Helper()
	ctx, cancel := m.context()
	defer cancel()
	n, err := s.Stat(ctx, name)
	if err != nil {
		m.t.Fatal(err)
	}
	return n
}

// until polls done.
func (m *mesh) until(what string, done func(context.Context) bool) {
	m.t.Helper()
	ctx, cancel := m.context()
	defer cancel()
	if err := stage.Until(ctx, what, done); err != nil {
		m.t.Fatal(err)
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return string(text)
}

// reach tells what a request ends with: an application's name, a status, or "closed" without an answer.
func reach(t *testing.T, h *ground.Host, url, host string) string {
	t.Helper()
	return reachWithin(t, wait, h, url, host)
}

// reachWithin is reach for a time after which it is "silent".
func reachWithin(t *testing.T, d time.Duration, h *ground.Host, url, host string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	a, err := send(ctx, h, request{URL: url, Host: host})
	switch {
	case err != nil && ctx.Err() == nil:
		return "closed"
	case err != nil:
		return "silent"
	case a.App != "":
		return a.App
	}
	return fmt.Sprint(a.Status)
}

// TestEgressFilter calls what is in the mesh and what is not, under both filters.
func TestEgressFilter(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "egress", "DROP_ALL")
	m.app("blue")
	m.app("undeclared")
	outside := m.program("outside")
	other, err := m.Host(m.name + "-other")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.App(other, stage.App{Name: "other", Listen: []string{":9999"}}); err != nil {
		t.Fatal(err)
	}
	service := m.service("shop", appPort, map[string]string{"r": weighted("", "blue", 1)})
	hidden := m.service("hidden", appPort, map[string]string{"r": weighted("", "undeclared", 1)})
	m.create("VirtualNode", "client", callerSpec(service))
	m.create("VirtualNode", "alone", `{}`)
	m.DNS().Set("unqualified", nobody) // as a resolver's search list would find it
	m.DNS().Set("s3.us-east-1.amazonaws.com", outside.Addr())
	m.DNS().Set("www.example.com", outside.Addr())
	serveTLS(t, outside)
	client, alone := m.host("client"), m.host("alone")
	first := m.sidecar(client, stage.SidecarOptions{Resource: "client"})
	second := m.sidecar(alone, stage.SidecarOptions{Resource: "alone"})
	port := func(h string, n int) string { return fmt.Sprintf("http://%s:%d/", h, n) }

	type try struct{ name, url, host, want string }
	check := func(t *testing.T, from *ground.Host, tries ...try) {
		t.Helper()
		for _, c := range tries {
			m.until(c.name+" is "+c.want, func(context.Context) bool { return reach(t, from, c.url, c.host) == c.want })
		}
	}
	t.Run("MESH-002 EMS-033 EMS-034 DROP_ALL forwards to declared backends only", func(t *testing.T) {
		check(t, client,
			try{"a backend", port(service, appPort), "", "blue"},
			try{"a service that is no backend", port(hidden, appPort), "", "404"},
			try{"a foreign host on a modelled port", port(outside.Addr().String(), appPort), "", "404"},
			try{"a port that no backend uses", port(other.Addr().String(), 9999), "", "closed"})
	})
	t.Run("EMS-067 a short name is not the service's", func(t *testing.T) {
		check(t, client, try{"the short name", port("unqualified", appPort), fmt.Sprintf("shop:%d", appPort), "404"})
	})
	t.Run("EMS-025 EMS-065 AWS's own names are reached under DROP_ALL", func(t *testing.T) {
		for name, want := range map[string]bool{"s3.us-east-1.amazonaws.com": true, "www.example.com": false} {
			for _, h := range []*ground.Host{client, alone} {
				if got := shakesHands(t, h, name); got != want {
					t.Errorf("TLS from %s to %s succeeds: %v, want %v", h.Name(), name, got, want)
				}
			}
		}
	})
	t.Run("MESH-002 VN-001 a node without backends reaches nothing under DROP_ALL", func(t *testing.T) {
		check(t, alone, try{"a service", port(service, appPort), "", "closed"}, try{"a host", port(outside.Addr().String(), appPort), "", "closed"})
	})
	t.Run("EMS-028 no allow-all cluster under DROP_ALL", func(t *testing.T) {
		if strings.Contains(m.admin(first, "/clusters"), "mesh-allow-all") {
			t.Error("there is one")
		}
	})
	m.settle(m.call("UpdateMesh", `{"spec": {"egressFilter": {"type": "ALLOW_ALL"}}}`))
	t.Run("MESH-003 MESH-004 MESH-005 ALLOW_ALL passes on what is not modelled", func(t *testing.T) {
		check(t, client,
			try{"a backend", port(service, appPort), "", "blue"},
			try{"a foreign host on a modelled port", port(outside.Addr().String(), appPort), "", "outside"},
			try{"a port that no backend uses", port(other.Addr().String(), 9999), "", "other"})
		check(t, alone, try{"a host, from a node without backends", port(outside.Addr().String(), appPort), "", "outside"})
	})
	t.Run("EMS-028 the allow-all cluster's name", func(t *testing.T) {
		for _, s := range []*stage.Sidecar{first, second} {
			if !strings.Contains(m.admin(s, "/clusters"), "cds_egress_egress_mesh-allow-all") {
				t.Error("there is none on " + s.Host.Name())
			}
		}
	})
	t.Run("EMS-036 a connection to Envoy's own port does not loop", func(t *testing.T) {
		if got := reach(t, outside, port(client.Addr().String(), 15001), ""); got != "closed" {
			t.Errorf("it ended with %s, want closed", got)
		}
		if n := m.stat(first, "cluster.cds_egress_egress_mesh-allow-all.upstream_cx_total"); n > 10 {
			t.Errorf("Envoy made %d connections", n)
		}
	})
	m.settle(m.call("UpdateMesh", `{"spec": {"egressFilter": {"type": "DROP_ALL"}}}`))
	t.Run("MESH-005 and back", func(t *testing.T) {
		check(t, client, try{"a foreign host on a modelled port", port(outside.Addr().String(), appPort), "", "404"},
			try{"a port that no backend uses", port(other.Addr().String(), 9999), "", "closed"})
	})
}

// serveTLS answers TLS on port 443 of the host with a certificate of its own.
func serveTLS(t *testing.T, h *ground.Host) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	l, err := h.Listen("tcp", ":443")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.NotFoundHandler(), ReadHeaderTimeout: wait, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(tls.NewListener(l, &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}})) // ends with Close
	}()
	t.Cleanup(func() { server.Close(); <-done })
}

// shakesHands says whether a TLS connection from the host to the name's port 443 comes about.
func shakesHands(t *testing.T, h *ground.Host, name string) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	conn, err := h.Dial(ctx, "tcp", name+":443")
	if err != nil {
		return false
	}
	defer conn.Close()
	// The certificate is anybody's: what counts is that somebody answers.
	client := tls.Client(conn, &tls.Config{ServerName: name, InsecureSkipVerify: true, MinVersion: tls.VersionTLS12})
	return client.HandshakeContext(ctx) == nil
}

// TestNodes looks at what a node's Envoy is called and does on its own side.
func TestNodes(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "nodes", "DROP_ALL")
	server := m.program("server")
	m.create("VirtualNode", "server", fmt.Sprintf(`{"listeners": [{"portMapping": {"port": %d, "protocol": "http"},
		"timeout": {"http": {"perRequest": {"unit": "ms", "value": 500}}}}], "serviceDiscovery": {"dns": {"hostname": %q}}}`, appPort, m.hostname("server")))
	m.app("plain")
	service := m.service("shop", appPort, map[string]string{"r": weighted(`"timeout": {"perRequest": {"unit": "s", "value": 30}}`, "server", 1)})
	byARN := m.service("other", 9081, map[string]string{"r": weighted("", "plain", 1)})
	arn := fmt.Sprintf("arn:aws:appmesh:%s:%s:mesh/%s/virtualService/%s", m.control.Region, m.control.Account, m.name, byARN)
	// A service of the name under which a real one is known, which has an address.
	real := m.hostname("real")
	m.program("real")
	m.create("VirtualService", real, `{"provider": {"virtualNode": {"virtualNodeName": "plain"}}}`)
	// Servers whose listener waits as long as the default, and longer.
	usual := m.app("usual")
	patient := m.program("patient")
	m.create("VirtualNode", "patient", fmt.Sprintf(`{"listeners": [{"portMapping": {"port": %d, "protocol": "http"},
		"timeout": {"http": {"perRequest": {"unit": "s", "value": 40}}}}], "serviceDiscovery": {"dns": {"hostname": %q}}}`, appPort, m.hostname("patient")))
	long := `"timeout": {"perRequest": {"unit": "s", "value": 40}}`
	waits := map[string]string{ // services by the name of what they show
		"VN-021 RT-038 a long route before a usual listener": m.service("long-usual", appPort, map[string]string{"r": weighted(long, "usual", 1)}),
		"VN-021 RT-038 a usual route before a long listener": m.service("usual-long", appPort, map[string]string{"r": weighted("", "patient", 1)}),
		"VN-021 RT-038 both long":                            m.service("long-long", appPort, map[string]string{"r": weighted(long, "patient", 1)}),
	}
	m.create("VirtualNode", "client", callerSpec(append(slices.Collect(maps.Values(waits)), service, arn, real)...))
	m.sidecar(usual, stage.SidecarOptions{Resource: "usual", AppPorts: fmt.Sprint(appPort)})
	m.sidecar(patient, stage.SidecarOptions{Resource: "patient", AppPorts: fmt.Sprint(appPort)})
	in := m.sidecar(server, stage.SidecarOptions{Resource: "server", AppPorts: fmt.Sprint(appPort)})
	client := m.host("client")
	out := m.sidecar(client, stage.SidecarOptions{Resource: "client"})
	url := fmt.Sprintf("http://%s:%d/", service, appPort)

	waiting := map[string]func(*testing.T) answer{}
	bothLong := func(name string) bool { return strings.HasSuffix(name, "both long") }
	for name, s := range waits {
		delay := "1h" // what is to be ended is not answered before
		if bothLong(name) {
			delay = "16s"
		}
		waiting[name] = later(t, client, request{URL: fmt.Sprintf("http://%s:%d/", s, appPort), Header: map[string]string{"X-Delay": delay}})
	}
	t.Run("VS-005 VS-006 VS-008 a service of a real one's name", func(t *testing.T) {
		if a := ask(t, client, request{URL: fmt.Sprintf("http://%s:%d/", real, appPort)}); a.App != "plain" {
			t.Errorf("%d from %q, want plain: the mesh decides", a.Status, a.App)
		}
		if a := ask(t, m.host("visitor"), request{URL: fmt.Sprintf("http://%s:%d/", real, appPort)}); a.App != "real" {
			t.Errorf("%d from %q, want real: outside of the mesh the name is what it was", a.Status, a.App)
		}
	})
	t.Run("VN-023 VN-024 backends by name and by ARN", func(t *testing.T) {
		for target, want := range map[string]string{url: "server", fmt.Sprintf("http://%s:9081/", byARN): "plain"} {
			if a := ask(t, client, request{URL: target}); a.App != want {
				t.Errorf("%s: %d %s", target, a.Status, a.Body)
			}
		}
	})
	t.Run("EMS-020 EMS-021 listener names", func(t *testing.T) {
		for s, want := range map[*stage.Sidecar][]string{
			in: {"lds_egress_0.0.0.0_15001::0.0.0.0:15001", "lds_ingress_0.0.0.0_15000::0.0.0.0:15000"}, out: {"lds_egress_0.0.0.0_15001::0.0.0.0:15001"},
		} {
			got := strings.Fields(m.admin(s, "/listeners"))
			for _, name := range want {
				if !slices.Contains(got, name) {
					t.Errorf("%s has %v, want %s", s.Host.Name(), got, name)
				}
			}
			if len(got) != len(want) {
				t.Errorf("%s has %v, want %v", s.Host.Name(), got, want)
			}
		}
	})
	t.Run("EMS-022 EMS-023 EMS-025 cluster names", func(t *testing.T) {
		for s, want := range map[*stage.Sidecar][]string{
			in: {"cds_ingress_nodes_server_http_9080", "cds_egress_nodes_amazonaws"},
			out: {
				"cds_egress_nodes_server_http_9080", "cds_egress_nodes_plain_http_9080", "cds_egress_nodes_usual_http_9080",
				"cds_egress_nodes_patient_http_9080", "cds_egress_nodes_amazonaws",
			},
		} {
			clusters := m.admin(s, "/clusters")
			names := map[string]bool{}
			for line := range strings.Lines(clusters) {
				if name, _, _ := strings.Cut(line, "::"); strings.HasPrefix(name, "cds_") {
					names[name] = true
				}
			}
			for _, name := range want {
				if !names[name] {
					t.Errorf("%s has %v, want %s", s.Host.Name(), names, name)
				}
			}
			if len(names) != len(want) {
				t.Errorf("%s has %v, want %v", s.Host.Name(), names, want)
			}
		}
	})
	t.Run("EMS-024 EMS-029 statistics under the names that users know", func(t *testing.T) {
		for name, s := range map[string]*stage.Sidecar{
			"http.ingress.downstream_rq_2xx": in, "cluster.cds_ingress_nodes_server_http_9080.upstream_rq_200": in,
			"http.egress.downstream_rq_2xx": out, "cluster.cds_egress_nodes_server_http_9080.upstream_rq_200": out,
			"http.egress.rds.rds_egress_http_9080.update_success": out, "http.ingress.rds.rds_ingress_http_9080.update_success": in,
		} {
			if m.stat(s, name) == 0 {
				t.Errorf("%s is 0 on %s", name, s.Host.Name())
			}
		}
	})
	t.Run("EMS-048 EMS-049 the management server's statistics", func(t *testing.T) {
		for _, name := range []string{"listener_manager.lds.update_success", "cluster_manager.cds.update_success", "control_plane.connected_state"} {
			if m.stat(out, name) == 0 {
				t.Errorf("%s is 0", name)
			}
		}
	})
	t.Run("VN-019 EMS-059 the listener's perRequest acts on the server's side", func(t *testing.T) {
		// The route has 30 s: it is not what ends the request.
		a := ask(t, client, request{URL: url, Header: map[string]string{"X-Delay": "29s"}})
		if a.Status != http.StatusGatewayTimeout || a.Took < 500*time.Millisecond || a.Took > 15*time.Second {
			t.Errorf("status %d after %v, want 504 after half a second", a.Status, a.Took)
		}
		if n := m.stat(in, "cluster.cds_ingress_nodes_server_http_9080.upstream_rq_timeout"); n == 0 {
			t.Error("the server's Envoy counts no time-out")
		}
	})
	t.Run("ICPT-003 ICPT-014 ICPT-029 what arrives for the application goes through Envoy", func(t *testing.T) {
		before := m.stat(in, "http.ingress.downstream_rq_total")
		a := ask(t, m.host("visitor"), request{URL: fmt.Sprintf("http://%s:%d/", m.hostname("server"), appPort)})
		if a.App != "server" || m.stat(in, "http.ingress.downstream_rq_total") != before+1 {
			t.Errorf("%d %s; Envoy counted %d requests before and %d after", a.Status, a.Body, before, m.stat(in, "http.ingress.downstream_rq_total"))
		}
	})
	for name, answer := range waiting {
		t.Run(name, func(t *testing.T) {
			a, want, least := answer(t), http.StatusGatewayTimeout, 15*time.Second
			if bothLong(name) {
				want, least = http.StatusOK, 16*time.Second
			}
			within(t, a, want, least)
		})
	}
}
