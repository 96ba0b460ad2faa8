package envoy_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/envoy/sdstest"
	"github.com/evermesh/evermesh/internal/testenv"
)

const arn = "arn:aws:acm:eu-west-1:123456789012:certificate/"

// fill puts certificates behind all names of case traffic_tls.
func (l *tlsLab) fill(t *testing.T) {
	t.Helper()
	own := func(name string, names ...string) { l.certificate(name, l.root.Issue(t, names...)) }
	for name := range l.nodes {
		own(name, name+".local")
	}
	own("front", "front.local")
	own("guest", "guest.local")
	own("ingress", "gateway.example.com")
	own("ingress-client", "ingress.local")
	replace := func(name string, c sdstest.Certificate) {
		for i, s := range l.secrets {
			if s.GetName() == "file-certificate:/certs/"+name+".pem:/certs/"+name+".key" {
				l.secrets = append(l.secrets[:i:i], l.secrets[i+1:]...)
			}
		}
		l.certificate(name, c)
	}
	replace("other-name", l.root.Issue(t, "somebody-else.local"))
	replace("other-ca", l.stranger.Issue(t, "other-ca.local"))
	replace("expired", l.root.IssueUntil(t, time.Now().Add(-time.Hour), "expired.local"))
	replace("listed", l.root.Issue(t, "spiffe://mesh.local/listed"))
	own("wild", "*.apps.local")
	l.secret("file-trust:/certs/ca.pem", sdstest.Certificate{}, l.root)
	l.secret("file-trust:/certs/other-root.pem", sdstest.Certificate{}, l.stranger)
	l.files("file-certificate:/certs/missing.pem:/certs/missing.key", filepath.Join(l.dir, "none.pem"), filepath.Join(l.dir, "none.key"))
	l.files("file-trust:/certs/missing.pem", filepath.Join(l.dir, "none.pem"), "")
	l.secret("acm-certificate:"+arn+"acm", l.root.Issue(t, "acm.local"), nil)
	l.secret("acm-issuer:"+arn+"acm", sdstest.Certificate{}, l.root)
	l.secret("acm-certificate:"+arn+"acm-other", l.root.Issue(t, "acm-other.local"), nil)
	l.secret("acm-issuer:"+arn+"acm-other", sdstest.Certificate{}, l.stranger)
	l.secret("acm-certificate:"+arn+"map", l.root.Issue(t, "mesh-endpoint.apps.local"), nil)
	const ca = "arn:aws:acm-pca:eu-west-1:123456789012:certificate-authority/"
	l.secret("acm-trust:"+ca+"ca,"+ca+"other", sdstest.Certificate{}, l.root)
	l.spire.PutCertificate(t, "spiffe://mesh.local/front", l.root.Issue(t, "spiffe://mesh.local/front"))
	l.spire.PutCertificate(t, "spiffe://mesh.local/spire", l.root.Issue(t, "spiffe://mesh.local/spire"))
	l.spire.PutTrust(t, "spiffe://mesh.local", l.root)
}

// call is a request of an application to a service through its own Envoy.
func (p *proxy) call(t *testing.T, host string, port int, http2 bool) (status int, body string) {
	t.Helper()
	return p.request(t, host, port, http2, nil)
}

func (p *proxy) request(t *testing.T, host string, port int, http2 bool, config *tls.Config) (status int, body string) {
	t.Helper()
	status, body, err := p.try(host, port, http2, config)
	if err != nil {
		t.Fatalf("%s: %v", host, err)
	}
	return status, body
}

func (p *proxy) try(host string, port int, http2 bool, config *tls.Config) (status int, body string, err error) {
	return requestTo(p.address, host, port, http2, config)
}

// requestTo asks whoever listens at the address; with TLS when there is a
// config.
func requestTo(at netip.Addr, host string, port int, http2 bool, config *tls.Config) (status int, body string, err error) {
	one := &http.Protocols{}
	one.SetHTTP1(!http2)
	one.SetHTTP2(http2 && config != nil)
	one.SetUnencryptedHTTP2(http2 && config == nil)
	transport := &http.Transport{
		Protocols: one, TLSClientConfig: config,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", netip.AddrPortFrom(at, uint16(port)).String())
		},
	}
	defer transport.CloseIdleConnections()
	scheme := "http"
	if config != nil {
		scheme = "https"
	}
	resp, err := (&http.Client{Timeout: 20 * time.Second, Transport: transport}).Get(fmt.Sprintf("%s://%s:%d/", scheme, host, port))
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text), err
}

// expectTLS wants the request to arrive, and a handshake for it where it goes by
// TLS, none where it is plaintext.
func (p *proxy) arrives(t *testing.T, service, node string, port int, protocol string, byTLS bool) {
	t.Helper()
	cluster := fmt.Sprintf("cluster.cds_egress_colors_%s_%s_%d.", node, protocol, port)
	status, body := p.call(t, service, port, protocol != "http")
	if want := node + " HTTP/"; status != 200 || !strings.HasPrefix(body, want) || !strings.HasSuffix(body, "tls=false") {
		t.Errorf("%s: %d %q, want an answer of %s to plaintext", service, status, body, node)
	}
	if got := p.stat(t, cluster+"ssl.handshake"); got > 0 != byTLS {
		t.Errorf("%s: %d handshakes, want TLS %t", service, got, byTLS)
	}
	if p.stat(t, cluster+"upstream_cx_total") == 0 {
		t.Errorf("%s: no connection", service)
	}
}

// fails wants the request to fail, and a counter of the cluster to say why.
func (p *proxy) fails(t *testing.T, service, node string, port int, protocol, counter string) {
	t.Helper()
	cluster := fmt.Sprintf("cluster.cds_egress_colors_%s_%s_%d.", node, protocol, port)
	status, body := p.call(t, service, port, protocol != "http")
	if status != 503 {
		t.Errorf("%s: %d %q, want 503", service, status, body)
	}
	if counter != "" && p.stat(t, cluster+counter) == 0 {
		t.Errorf("%s: counter %s is 0", service, cluster+counter)
	}
}

// TestTLS sends requests between real Envoys whose listeners and clusters have
// TLS, through ADS and SDS as in a mesh.
func TestTLS(t *testing.T) {
	t.Parallel()
	l := newTLSLab(t, testenv.Envoy(t), "traffic_tls")
	l.fill(t)
	servers := l.servers(t)
	front, bare, guest, ingress := l.client(t, "front"), l.client(t, "bare"), l.client(t, "guest"), l.client(t, "ingress")
	trusting := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}

	t.Run("TLS-001 TLS-012 TLS-017 an enforced policy: TLS between the proxies, plaintext at both applications", func(t *testing.T) {
		front.arrives(t, "strict.local", "strict", 9080, "http", true)
		front.arrives(t, "permissive.local", "permissive", 9080, "http", true)
		front.fails(t, "plain.local", "plain", 9080, "http", "upstream_cx_connect_fail")
	})
	t.Run("TLS-013 VN-027 a policy for other ports is none", func(t *testing.T) {
		front.arrives(t, "ports-out.local", "ports-out", 9080, "http", false)
		front.fails(t, "ports.local", "ports", 9080, "http", "upstream_cx_connect_fail")
	})
	t.Run("TLS-033 a policy that is not enforced follows the target", func(t *testing.T) {
		front.arrives(t, "lax.local", "lax", 9080, "http", true)
		front.arrives(t, "lax-plain.local", "lax-plain", 9080, "http", false)
	})
	t.Run("TLS-031 an application speaks plaintext to its own proxy, which takes no TLS for a service", func(t *testing.T) {
		if status, body, err := front.try("strict.local", 9080, false, trusting); err == nil {
			t.Errorf("%d %q", status, body)
		}
	})
	t.Run("TLS-014 without policy and without TLS at the server it is plaintext", func(t *testing.T) {
		bare.arrives(t, "plain.local", "plain", 9080, "http", false)
		bare.arrives(t, "disabled.local", "disabled", 9080, "http", false)
	})
	t.Run("TLS-015 TLS-016 without policy, TLS as the server has it; a file's certificate is not looked at", func(t *testing.T) {
		bare.arrives(t, "strict.local", "strict", 9080, "http", true)
		bare.arrives(t, "permissive.local", "permissive", 9080, "http", true)
		bare.arrives(t, "other-name.local", "other-name", 9080, "http", true)
		bare.arrives(t, "other-ca.local", "other-ca", 9080, "http", true)
	})
	t.Run("TLS-016 without policy, an issued certificate must come from its issuer's root", func(t *testing.T) {
		bare.arrives(t, "acm.local", "acm", 9080, "http", true)
		bare.fails(t, "acm-other.local", "acm-other", 9080, "http", "ssl.fail_verify_error")
	})
	t.Run("TLS-002 TLS-006 EMS-031 issued certificates and authorities come as secrets", func(t *testing.T) {
		front.arrives(t, "map.local", "map", 9080, "http", true)
		if dump := servers.page("/config_dump?resource=dynamic_active_secrets"); !strings.Contains(dump, "acm-certificate:"+arn+"map") {
			t.Errorf("the secret is not there:\n%.2000s", dump)
		}
	})
	t.Run("TLS-004 the certificate of a Cloud Map node is for service.namespace", func(t *testing.T) {
		front.arrives(t, "map.local", "map", 9080, "http", true)
	})
	t.Run("TLS-003 TLS-019 the certificate must be for the discovery name", func(t *testing.T) {
		front.arrives(t, "strict.local", "strict", 9080, "http", true)
		front.fails(t, "other-name.local", "other-name", 9080, "http", "ssl.fail_verify_san")
	})
	t.Run("TLS-005 TRBL-025 MTLS-012 a certificate for another name: 503, and the counter says so", func(t *testing.T) {
		status, body := front.call(t, "other-name.local", 9080, false)
		if status != 503 || !strings.Contains(body, "upstream connect error or disconnect/reset before headers") {
			t.Errorf("%d %q", status, body)
		}
		testenv.Eventually(t, "the access log tells Envoy's reason", func() bool {
			for line := range strings.Lines(front.log.String()) {
				if strings.HasPrefix(line, "other-name.local:9080 ") && strings.Contains(line, "268435581:SSL_routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED") {
					return true
				}
			}
			return false
		})
		if n := front.stat(t, "cluster.cds_egress_colors_other-name_http_9080.ssl.fail_verify_san"); n == 0 {
			t.Error("fail_verify_san is 0")
		}
	})
	t.Run("a certificate of another root, or an old one, is refused", func(t *testing.T) {
		front.fails(t, "other-ca.local", "other-ca", 9080, "http", "ssl.fail_verify_error")
		front.fails(t, "expired.local", "expired", 9080, "http", "ssl.fail_verify_error")
	})
	t.Run("TLS-018 one of the listed names must be there", func(t *testing.T) {
		front.arrives(t, "listed.local", "listed", 9080, "http", true)
		front.fails(t, "unlisted.local", "unlisted", 9080, "http", "ssl.fail_verify_san")
	})
	t.Run("TLS-020 TLS-003 a wildcard is accepted unless the policy is enforced", func(t *testing.T) {
		front.fails(t, "wild.apps.local", "wild", 9080, "http", "ssl.fail_verify_san")
		front.arrives(t, "wild-lax.apps.local", "wild-lax", 9080, "http", true)
	})
	t.Run("TLS-021 STRICT takes TLS alone", func(t *testing.T) {
		if status, body, err := requestTo(l.nodes["strict"], "strict.local", 9080, false, nil); err == nil {
			t.Errorf("plaintext: %d %q", status, body)
		}
		if status, _, err := requestTo(l.nodes["strict"], "strict.local", 9080, false, trusting); status != 200 {
			t.Errorf("TLS: %d, %v", status, err)
		}
	})
	t.Run("TLS-021 PERMISSIVE takes both", func(t *testing.T) {
		for _, config := range []*tls.Config{nil, trusting} {
			if status, _, err := requestTo(l.nodes["permissive"], "permissive.local", 9080, false, config); status != 200 {
				t.Errorf("TLS %t: %d, %v", config != nil, status, err)
			}
		}
	})
	t.Run("TLS-021 DISABLED takes plaintext alone", func(t *testing.T) {
		if status, _, err := requestTo(l.nodes["disabled"], "disabled.local", 9080, false, nil); status != 200 {
			t.Errorf("plaintext: %d, %v", status, err)
		}
		if status, body, err := requestTo(l.nodes["disabled"], "disabled.local", 9080, false, trusting); err == nil {
			t.Errorf("TLS: %d %q", status, body)
		}
	})
	t.Run("TLS-023 counters of errors are there, and 0 where all is well", func(t *testing.T) {
		all := front.page("/stats?filter=cds_egress_colors_strict_http_9080.ssl")
		for _, name := range []string{"connection_error", "fail_verify_cert_hash", "fail_verify_error", "fail_verify_no_cert", "fail_verify_san"} {
			if !strings.Contains(all, "cluster.cds_egress_colors_strict_http_9080.ssl."+name+": 0\n") {
				t.Errorf("no %s of 0 in\n%s", name, all)
			}
		}
	})
	t.Run("TRBL-027 TRBL-028 both ends tell their certificates, and connections add up", func(t *testing.T) {
		if certs := servers.page("/certs"); !strings.Contains(certs, "strict.local") {
			t.Errorf("the server's certificate is not in\n%.1000s", certs)
		}
		if certs := front.page("/certs"); !strings.Contains(certs, `"ca_cert": [`) {
			t.Errorf("the client's authorities are not in\n%.1000s", certs)
		}
		front.arrives(t, "lax.local", "lax", 9080, "http", true)
		for prefix, p := range map[string]*proxy{"cluster.cds_egress_colors_lax_http_9080.upstream_cx_total": front, "listener.lax.downstream_cx_total": servers} {
			ssl := prefix[:strings.LastIndex(prefix, ".")] + ".ssl."
			all, failed, done := p.stat(t, prefix), p.stat(t, ssl+"connection_error"), p.stat(t, ssl+"handshake")+p.stat(t, ssl+"session_reused")
			if all == 0 || all-failed != done {
				t.Errorf("%s: %d connections, %d errors, %d handshakes or reused sessions", prefix, all, failed, done)
			}
		}
	})
	t.Run("health checks speak TLS, and one of HTTP/1 not HTTP/2", func(t *testing.T) {
		for _, cluster := range []string{"cluster.cds_egress_colors_strict_http_9080.", "cluster.cds_egress_colors_h2_http2_9083."} {
			testenv.Eventually(t, "checks of "+cluster, func() bool { return front.stat(t, cluster+"health_check.success") > 0 })
		}
	})
	t.Run("TLS-030 http2 and grpc by TLS, agreed on by ALPN", func(t *testing.T) {
		front.arrives(t, "h2.local", "h2", 9083, "http2", true)
		if _, body := front.call(t, "h2.local", 9083, true); !strings.Contains(body, "HTTP/2.0") {
			t.Errorf("it arrived as %q", body)
		}
		for _, name := range []string{"h2", "strict"} {
			port := map[string]int{"h2": 9083, "strict": 9080}[name]
			conn, err := tls.Dial("tcp", netip.AddrPortFrom(l.nodes[name], uint16(port)).String(), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2", "http/1.1"}})
			if err != nil {
				t.Fatal(err)
			}
			if got, want := conn.ConnectionState().NegotiatedProtocol, map[string]string{"h2": "h2"}[name]; got != want {
				t.Errorf("%s agrees on %q, want %q", name, got, want)
			}
			conn.Close()
		}
	})
	t.Run("MTLS-001 TLS-030 tcp by TLS, with certificates of both, also where the server speaks first", func(t *testing.T) {
		front.talk(t, 5432, "db")
		if n := front.stat(t, "cluster.cds_egress_colors_db_tcp_5432.ssl.handshake"); n == 0 {
			t.Error("no handshake")
		}
		if said := hear(t, netip.AddrPortFrom(bare.address, 5432)); said != "" {
			t.Errorf("without a certificate the server says %q", said)
		}
	})
	t.Run("TLS-021 TLS-030 PERMISSIVE tcp takes TLS at once, and plaintext where the server speaks first", func(t *testing.T) {
		front.talk(t, 3306, "db-both")
		if n := front.stat(t, "cluster.cds_egress_colors_db-both_tcp_3306.ssl.handshake"); n == 0 {
			t.Error("no handshake")
		}
		start := time.Now()
		if said := hear(t, netip.AddrPortFrom(l.nodes["db-both"], 3306)); said != "db-both" || time.Since(start) > 10*time.Second {
			t.Errorf("plaintext: the server says %q after %v", said, time.Since(start))
		}
	})
	t.Run("MTLS-004 MTLS-005 a server with authorities demands a certificate; who has one shows it", func(t *testing.T) {
		front.arrives(t, "mutual.local", "mutual", 9080, "http", true)
		bare.fails(t, "mutual.local", "mutual", 9080, "http", "")
		if status, body, err := requestTo(l.nodes["mutual"], "mutual.local", 9080, false, trusting); err == nil {
			t.Errorf("without a certificate: %d %q", status, body)
		}
		if n := servers.stat(t, "listener.mutual.ssl.fail_verify_no_cert"); n == 0 {
			t.Error("fail_verify_no_cert is 0")
		}
	})
	t.Run("MTLS-011 handshakes count, and none without the peer's certificate", func(t *testing.T) {
		front.arrives(t, "mutual.local", "mutual", 9080, "http", true)
		if handshakes, without := servers.stat(t, "listener.mutual.ssl.handshake"), servers.stat(t, "listener.mutual.ssl.no_certificate"); handshakes == 0 || without != 0 {
			t.Errorf("%d handshakes, %d without certificate", handshakes, without)
		}
		if n := servers.stat(t, "listener.strict.ssl.no_certificate"); n == 0 {
			t.Error("a server that does not ask counts no handshake without certificate: the counter shows nothing")
		}
	})
	t.Run("MTLS-004 a server without names takes any of the authority's clients, one with names those", func(t *testing.T) {
		guest.arrives(t, "mutual.local", "mutual", 9080, "http", true)
		front.arrives(t, "mutual-names.local", "mutual-names", 9080, "http", true)
		guest.fails(t, "mutual-names.local", "mutual-names", 9080, "http", "")
		if n := servers.stat(t, "listener.mutual-names.ssl.fail_verify_san"); n == 0 {
			t.Error("fail_verify_san is 0")
		}
		front.fails(t, "mutual-strangers.local", "mutual-strangers", 9080, "http", "")
		if n := servers.stat(t, "listener.mutual-strangers.ssl.fail_verify_error"); n == 0 {
			t.Error("fail_verify_error is 0")
		}
	})
	t.Run("TLS-011 MTLS-002 certificates and authorities of a workload's own SDS server; a new one for new connections, old ones go on", func(t *testing.T) {
		front.arrives(t, "spire.local", "spire", 9082, "grpc", true)
		before := servers.stat(t, "listener.spire.downstream_cx_destroy")
		l.spire.PutCertificate(t, "spiffe://mesh.local/spire", l.root.Issue(t, "spiffe://mesh.local/spire", "renewed.local"))
		testenv.Eventually(t, "the new certificate is shown", func() bool { return leaf(t, l.nodes["spire"], 9082) == "renewed.local" })
		front.arrives(t, "spire.local", "spire", 9082, "grpc", true)
		if n := servers.stat(t, "listener.spire.downstream_cx_drain_close") + servers.stat(t, "listener_manager.total_listeners_draining"); n > 0 {
			t.Errorf("%d connections or listeners drain (%d connections had ended before)", n, before)
		}
	})
	t.Run("MTLS-006 VN-026 a backend's own policy replaces the node's", func(t *testing.T) {
		// spire.local has a policy with another certificate and other names than the default.
		front.arrives(t, "spire.local", "spire", 9082, "grpc", true)
	})
	t.Run("a certificate that cannot be read harms its own chain and cluster alone", func(t *testing.T) {
		front.fails(t, "missing.local", "missing", 9080, "http", "")
		if status, _, err := requestTo(l.nodes["missing"], "missing.local", 9080, false, nil); status != 200 {
			t.Errorf("plaintext beside the chain without certificate: %d, %v", status, err)
		}
		front.arrives(t, "strict.local", "strict", 9080, "http", true)
	})
	t.Run("VG-008 TLS-021 a gateway's listeners: STRICT, PERMISSIVE, DISABLED", func(t *testing.T) {
		outside := &tls.Config{RootCAs: l.root.Pool(), ServerName: "gateway.example.com"}
		for _, c := range []struct {
			port  int
			tls   *tls.Config
			http2 bool
			want  int // 0: no connection
		}{
			{8443, outside, false, 200},
			{8443, nil, false, 0},
			{8445, outside, true, 200},
			{8445, nil, true, 200},
			{8080, nil, false, 200},
			{8080, outside, false, 0},
			{8446, outside, true, 404}, // TLS is taken; no gRPC route is for this path
		} {
			if status, body, err := ingress.try("shop.example.com", c.port, c.http2, c.tls); status != c.want {
				t.Errorf("port %d, TLS %t: %d %q %v, want %d", c.port, c.tls != nil, status, body, err, c.want)
			}
		}
	})
	t.Run("VG-022 MTLS-008 a gateway that demands a certificate", func(t *testing.T) {
		for _, c := range []struct {
			name string
			by   *sdstest.Authority
			want int
		}{{"outside.example.com", l.stranger, 200}, {"other.example.com", l.stranger, 0}, {"outside.example.com", l.root, 0}} {
			config := &tls.Config{RootCAs: l.root.Pool(), ServerName: "gateway.example.com", Certificates: []tls.Certificate{c.by.Issue(t, c.name).Pair(t)}}
			if status, body, err := ingress.try("shop.example.com", 8444, false, config); status != c.want {
				t.Errorf("%s: %d %q %v, want %d", c.name, status, body, err, c.want)
			}
		}
		if status, body, err := ingress.try("shop.example.com", 8444, false, &tls.Config{RootCAs: l.root.Pool(), ServerName: "gateway.example.com"}); err == nil {
			t.Errorf("without a certificate: %d %q", status, body)
		}
	})
	t.Run("VG-007 MTLS-006 a gateway's one policy is for all behind it", func(t *testing.T) {
		if status, body := ingress.call(t, "shop.example.com", 8080, false); status != 200 || !strings.HasPrefix(body, "mutual ") {
			t.Errorf("%d %q, want an answer of the node that demands a certificate", status, body)
		}
		status, body, err := requestPath(ingress.address, "shop.example.com", 8080, "/plain/")
		if status != 503 {
			t.Errorf("a node without TLS behind an enforced policy: %d %q %v", status, body, err)
		}
	})
}

// leaf is the last DNS name in the certificate that is shown at an address.
func leaf(t *testing.T, at netip.Addr, port uint16) string {
	t.Helper()
	conn, err := net.DialTimeout("tcp", netip.AddrPortFrom(at, port).String(), testenv.Patience)
	if err != nil {
		return ""
	}
	defer conn.Close()
	name := ""
	client := tls.Client(conn, &tls.Config{InsecureSkipVerify: true, VerifyConnection: func(s tls.ConnectionState) error {
		if names := s.PeerCertificates[0].DNSNames; len(names) > 0 {
			name = names[len(names)-1]
		}
		return nil
	}})
	_ = client.SetDeadline(time.Now().Add(testenv.Patience))
	_ = client.Handshake() // the server may demand a certificate afterwards
	return name
}

func requestPath(at netip.Addr, host string, port int, path string) (status int, body string, err error) {
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", netip.AddrPortFrom(at, uint16(port)).String())
	}}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Timeout: 20 * time.Second, Transport: transport}).Get("http://" + host + path)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text), err
}

// hear is the first line that whoever listens there says to a silent client.
func hear(t *testing.T, at netip.AddrPort) string {
	t.Helper()
	conn, err := net.Dial("tcp", at.String())
	if err != nil {
		return ""
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(12 * time.Second))
	line, _ := bufio.NewReader(conn).ReadString('\n')
	return strings.TrimSpace(line)
}

// talk wants a tcp node to speak first, and to send back what it is sent.
func (p *proxy) talk(t *testing.T, port uint16, node string) {
	t.Helper()
	conn, err := net.Dial("tcp", netip.AddrPortFrom(p.address, port).String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(testenv.Patience))
	reader := bufio.NewReader(conn)
	if line, err := reader.ReadString('\n'); line != node+"\n" {
		t.Fatalf("%s says %q, %v", node, line, err)
	}
	fmt.Fprintln(conn, "hello")
	if line, err := reader.ReadString('\n'); line != "hello\n" {
		t.Fatalf("%s sends back %q, %v", node, line, err)
	}
}
