//go:build linux

package e2e

import (
	"context"
	"crypto/tls"
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

// TestForwardProxy has an application whose environment names a forward proxy, which knows nothing of the mesh.
func TestForwardProxy(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "forward", "ALLOW_ALL")
	m.app("blue")
	service := m.service("shop", appPort, map[string]string{"rest": to("blue", `{"prefix": "/"}`)})
	m.create("VirtualNode", "client", callerSpec(service))
	forward := m.host("proxy")
	if _, err := m.App(forward, stage.App{Name: "proxy", Listen: []string{":3128"}, Status: http.StatusInternalServerError}); err != nil {
		t.Fatal(err)
	}
	proxy := []string{"HTTP_PROXY=http://" + m.hostname("proxy") + ":3128", "HTTPS_PROXY=http://" + m.hostname("proxy") + ":3128"}
	h := m.host("client")
	start := func(port int, env ...string) {
		t.Helper()
		a := stage.App{Name: "client", Listen: []string{fmt.Sprintf(":%d", port)}, Calls: fmt.Sprintf("http://%s:%d/", service, appPort), Env: env}
		if _, err := m.App(h, a); err != nil {
			t.Fatal(err)
		}
	}
	start(8001, proxy...)
	start(8002, append(proxy, "NO_PROXY=localhost,127.0.0.1,169.254.169.254,169.254.170.2,.forward.local")...)
	// Its Envoy has the variables too.
	m.sidecar(h, stage.SidecarOptions{Resource: "client", Env: proxy})
	local := func(t *testing.T, port int) answer {
		t.Helper()
		ctx, cancel := m.context()
		defer cancel()
		var a answer
		if err := stage.Until(ctx, "the application answers", func(ctx context.Context) bool {
			var err error
			a, err = send(ctx, h, request{URL: fmt.Sprintf("http://127.0.0.1:%d/", port)})
			return err == nil
		}); err != nil {
			t.Fatal(err)
		}
		return a
	}
	t.Run("TRBL-016 names of the mesh are asked of the proxy, which answers 500", func(t *testing.T) {
		if a := local(t, 8001); a.Status != http.StatusInternalServerError || a.App != "client proxy" {
			t.Errorf("%d by %q, want 500 by the proxy", a.Status, a.App)
		}
	})
	t.Run("TRBL-016 with NO_PROXY they are asked of the mesh; Envoy has no use for the variables", func(t *testing.T) {
		if a := local(t, 8002); a.Status != http.StatusOK || a.App != "client blue" {
			t.Errorf("%d by %q, want 200 by blue", a.Status, a.App)
		}
	})
}

// certificates is a directory of certificates and keys that Envoy's user may read.
type certificates struct {
	*sdstest.Authority
	t   *testing.T
	dir string
}

func newCertificates(t *testing.T) *certificates {
	t.Helper()
	dir, err := os.MkdirTemp("", "certificates")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil { // Envoy is another user, who watches it
		t.Fatal(err)
	}
	return &certificates{sdstest.NewAuthority(t, "root"), t, dir}
}

func (c *certificates) file(name string, text []byte) string {
	c.t.Helper()
	path := filepath.Join(c.dir, name)
	if err := os.WriteFile(path, text, 0o644); err != nil {
		c.t.Fatal(err)
	}
	return path
}

// pair is a certificate for the names and its key, as a resource names them.
func (c *certificates) pair(name string, of ...string) string {
	c.t.Helper()
	issued := c.Issue(c.t, of...)
	return fmt.Sprintf(`{"file": {"certificateChain": %q, "privateKey": %q}}`, c.file(name+".pem", issued.Chain), c.file(name+".key", issued.Key))
}

// trust is the authority as a resource trusts it.
func (c *certificates) trust() string {
	c.t.Helper()
	return fmt.Sprintf(`{"file": {"certificateChain": %q}}`, c.file("ca.pem", c.PEM))
}

// TestBypass has servers with TLS that callers reach in other ways than through proxies on both sides.
func TestBypass(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "bypass", "DROP_ALL")
	c := newCertificates(t)
	services := map[string]string{}
	for _, name := range []string{"wired", "bare"} {
		m.create("VirtualNode", name, m.nodeWith(name, `, "tls": {"mode": "STRICT", "certificate": `+c.pair(name, m.hostname(name))+`}`))
		services[name] = m.service(name+"-service", appPort, map[string]string{"rest": to(name, `{"prefix": "/"}`)})
	}
	m.create("VirtualNode", "client", `{"logging": {"accessLog": {"file": {"path": "/dev/stdout", "format": {"text": "%RESPONSE_CODE% by %UPSTREAM_CLUSTER%: %UPSTREAM_TRANSPORT_FAILURE_REASON%\n"}}}}, "backendDefaults": {"clientPolicy": {"tls": {"validation": {"trust": `+c.trust()+`}}}}, `+strings.TrimPrefix(callerSpec(services["wired"], services["bare"]), "{"))
	wired, bare := m.program("wired"), m.program("bare")
	in := m.sidecar(wired, stage.SidecarOptions{Resource: "wired", AppPorts: fmt.Sprint(appPort)})
	m.sidecar(bare, stage.SidecarOptions{Resource: "bare", AppPorts: "9999"}) // not the application's
	client := m.host("client")
	out := m.sidecar(client, stage.SidecarOptions{Resource: "client"})

	t.Run("TRBL-026 requests that reach the application past its proxy say WRONG_VERSION_NUMBER", func(t *testing.T) {
		a := ask(t, client, request{URL: fmt.Sprintf("http://%s:%d/", services["bare"], appPort)})
		if a.Status != http.StatusServiceUnavailable || !strings.Contains(a.Body, "remote connection failure") {
			t.Errorf("%d %s", a.Status, a.Body)
		}
		// Envoys of today keep the reason for their logs.
		const cluster = "cds_egress_bypass_bare_http_9080"
		m.logs(out, "503 by "+cluster, "TLS_error:|268435703:SSL_routines:OPENSSL_internal:WRONG_VERSION_NUMBER")
		if n := m.stat(out, "cluster."+cluster+".ssl.connection_error"); n == 0 {
			t.Error("the caller counts no error of TLS")
		}
		if a := ask(t, client, request{URL: fmt.Sprintf("http://%s:%d/", services["wired"], appPort)}); a.App != "wired" {
			t.Errorf("where its ports are right: %d %s", a.Status, a.Body)
		}
	})
	balancer := m.host("balancer")
	over := func(t *testing.T, scheme string) (string, error) {
		t.Helper()
		ctx, cancel := m.context()
		defer cancel()
		transport := &http.Transport{DialContext: balancer.Dial, TLSClientConfig: &tls.Config{RootCAs: c.Pool(), MinVersion: tls.VersionTLS12}}
		defer transport.CloseIdleConnections()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("%s://%s:%d/ping", scheme, m.hostname("wired"), appPort), http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := (&http.Client{Transport: transport}).Do(req)
		if err != nil {
			return "", err
		}
		return resp.Header.Get("X-App"), resp.Body.Close()
	}
	t.Run("TRBL-029 a balancer speaks TLS to a node with TLS, and checks it by HTTPS or TCP at the listener's port", func(t *testing.T) {
		if app, err := over(t, "https"); err != nil || app != "wired" {
			t.Errorf("by HTTPS: %q, %v", app, err)
		}
		if app, err := over(t, "http"); err == nil {
			t.Errorf("by HTTP: answered by %q", app)
		}
		connects(t, balancer, fmt.Sprintf("%s:%d", m.hostname("wired"), appPort))
		if n := m.stat(in, "listener.0.0.0.0_15000.ssl.handshake"); n == 0 {
			t.Error("the node counts no handshake")
		}
	})
	t.Run("TLS-025 TLS-026 files at another path are used as soon as the node names them, without a restart", func(t *testing.T) {
		serial := func() string {
			conn, err := balancer.Dial(t.Context(), "tcp", fmt.Sprintf("%s:%d", m.hostname("wired"), appPort))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			over := tls.Client(conn, &tls.Config{RootCAs: c.Pool(), ServerName: m.hostname("wired"), MinVersion: tls.VersionTLS12})
			if err := over.HandshakeContext(t.Context()); err != nil {
				t.Fatal(err)
			}
			return over.ConnectionState().PeerCertificates[0].SerialNumber.String()
		}
		before, pid := serial(), envoyOf(t, in)
		m.settle(m.update("VirtualNode", "wired", m.nodeWith("wired", `, "tls": {"mode": "STRICT", "certificate": `+c.pair("another", m.hostname("wired"))+`}`)))
		m.until("the other certificate is shown", func(context.Context) bool { return serial() != before })
		if now := envoyOf(t, in); now != pid {
			t.Errorf("Envoy is process %d and was %d", now, pid)
		}
	})
}

// connects shows that a TCP connection comes about, which is what a balancer's TCP check looks at.
func connects(t *testing.T, from *ground.Host, addr string) {
	t.Helper()
	conn, err := from.Dial(t.Context(), "tcp", addr)
	if err != nil {
		t.Error(err)
		return
	}
	conn.Close()
}

// TestBalancers has a gateway of two replicas behind one name, and what balancers check.
func TestBalancers(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "balanced", "DROP_ALL")
	node := m.app("blue")
	m.sidecar(node, stage.SidecarOptions{Resource: "blue", AppPorts: fmt.Sprint(appPort)})
	service := m.service("shop", appPort, map[string]string{"rest": to("blue", `{"prefix": "/"}`)})
	m.create("VirtualGateway", "gate", `{"listeners": [{"portMapping": {"port": 8088, "protocol": "http"}}]}`)
	m.put("Create", "GatewayRoute", "gate", "rest", toService(service, `{"prefix": "/"}`, ""))
	name := m.hostname("gate")
	var gates []*stage.Sidecar
	for _, h := range []*ground.Host{m.host("gate-1"), m.host("gate-2")} {
		gates = append(gates, m.sidecar(h, stage.SidecarOptions{Resource: "mesh/balanced/virtualGateway/gate", Alone: true}))
	}
	outside := m.host("outside")
	t.Run("VG-013 outsiders reach each of a gateway's replicas by one name", func(t *testing.T) {
		for _, g := range gates {
			m.DNS().Set(name, g.Host.Addr())
			before := m.stat(g, "http.ingress.downstream_rq_2xx")
			if a := ask(t, outside, request{URL: fmt.Sprintf("http://%s:8088/", name)}); a.App != "blue" {
				t.Errorf("%d %s", a.Status, a.Body)
			}
			if n := m.stat(g, "http.ingress.downstream_rq_2xx"); n != before+1 {
				t.Errorf("%s counts %d requests, want %d", g.Host.Name(), n, before+1)
			}
		}
	})
	t.Run("TRBL-004 a gateway is checked by TCP, a node by a path of its application", func(t *testing.T) {
		for _, g := range gates {
			connects(t, outside, fmt.Sprintf("%s:8088", g.Host.Addr()))
		}
		a := ask(t, outside, request{URL: fmt.Sprintf("http://%s:%d/ping", m.hostname("blue"), appPort)})
		if a.App != "blue" || a.Seen.Path != "/ping" || a.Seen.Header.Get("X-Request-Id") == "" {
			t.Errorf("%d %s: want the application's answer, through Envoy", a.Status, a.Body)
		}
	})
}
