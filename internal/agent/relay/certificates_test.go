package relay

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"github.com/evermesh/evermesh/internal/agent/agenttest"
)

// domain is a CA that issues certificates with SPIFFE ids.
type domain struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newDomain(t *testing.T) *domain {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := &x509.Certificate{
		SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	if cert.Raw, err = x509.CreateCertificate(rand.Reader, cert, cert, key.Public(), key); err != nil {
		t.Fatal(err)
	}
	if cert, err = x509.ParseCertificate(cert.Raw); err != nil {
		t.Fatal(err)
	}
	return &domain{cert, key}
}

func (d *domain) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: d.cert.Raw})
}

func (d *domain) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(d.cert)
	return pool
}

// issue makes a certificate with an id and no name, and its PEM forms.
func (d *domain) issue(t *testing.T, id string, ips ...net.IP) (pair tls.Certificate, chain, key []byte) {
	t.Helper()
	uri, err := url.Parse(id)
	if err != nil {
		t.Fatal(err)
	}
	own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), URIs: []*url.URL{uri}, IPAddresses: ips, NotBefore: d.cert.NotBefore, NotAfter: d.cert.NotAfter,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, d.cert, own.Public(), d.key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(own)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: own},
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
}

// Authorities and SVIDs are files that are replaced: the next stream goes by the new ones, and an open one goes on.
func TestCertificatesAreRotated(t *testing.T) {
	t.Parallel()
	const server = "spiffe://prod.example/ns/evermesh/sa/evermeshd"
	dir := t.TempDir()
	place := func(name string, text []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path+".new", text, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
		return path
	}
	var now atomic.Pointer[tls.Config]
	ids := make(chan string, 1)
	c := agenttest.NewControlPlane(t, "", grpc.Creds(credentials.NewTLS(&tls.Config{
		MinVersion: tls.VersionTLS12, GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return now.Load(), nil },
	})))
	echo := c.Delta
	c.Delta = func(s discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
		p, _ := peer.FromContext(s.Context())
		if info, ok := p.AuthInfo.(credentials.TLSInfo); ok {
			ids <- info.State.PeerCertificates[0].URIs[0].String()
		}
		return echo(s)
	}
	rotate := func(id string) (d *domain, lines []string) {
		d = newDomain(t)
		pair, _, _ := d.issue(t, server, net.IPv4(127, 0, 0, 1))
		now.Store(&tls.Config{
			MinVersion: tls.VersionTLS12, NextProtos: []string{"h2"}, Certificates: []tls.Certificate{pair},
			ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: d.pool(),
		})
		_, chain, key := d.issue(t, id)
		return d, []string{
			"APPMESH_XDS_CA_FILE=" + place("bundle.pem", d.pem()), "APPMESH_XDS_CLIENT_KEY_FILE=" + place("key.pem", key),
			"APPMESH_XDS_CLIENT_CERT_FILE=" + place("svid.pem", chain), "EVERMESH_ROLE_ARN=arn:aws:iam::111122223333:role/orders",
		}
	}
	first, second := "spiffe://prod.example/ns/shop/sa/orders", "spiffe://prod.example/ns/shop/sa/orders/2"
	_, lines := rotate(first)
	_, client := newTestRelay(t, append(lines, "APPMESH_XDS_ENDPOINT=https://"+c.Addr)...)
	open := converse(t, client)
	if got := <-ids; got != first {
		t.Errorf("came as %s, want %s", got, first)
	}
	rotate(second)
	converse(t, client)
	if got := <-ids; got != second {
		t.Errorf("came as %s, want %s", got, second)
	}
	if err := open.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: "later"}); err != nil {
		t.Fatal(err)
	}
	if r, err := open.Recv(); err != nil || r.TypeUrl != "later" {
		t.Errorf("the open stream: %v, %v", r, err)
	}
}

// A control plane with an SVID is known by its SPIFFE id, whatever its address, and by nothing else.
func TestServerIsKnownByItsID(t *testing.T) {
	t.Parallel()
	const id = "spiffe://prod.example/ns/evermesh/sa/evermeshd"
	d, stranger := newDomain(t), newDomain(t)
	pair, _, _ := d.issue(t, id)
	c := agenttest.NewControlPlane(t, "", grpc.Creds(credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}})))
	for _, test := range []struct {
		name, asked string
		ca          *domain
		says        string // "" when it serves
	}{
		{"its id", id, d, ""},
		{"another id", "spiffe://prod.example/ns/evermesh/sa/other", d, "EVERMESH_XDS_SERVER_ID must be the SPIFFE id in the server's certificate"},
		{"its id, of another authority", id, stranger, "unknown authority"},
		{"no id, and so the name", "", d, "in the server's certificate"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			log, _ := agenttest.Log(t)
			r := preflight(t, log, "APPMESH_XDS_ENDPOINT=https://"+c.Addr, "APPMESH_XDS_CA_FILE="+write(t, "ca.pem", string(test.ca.pem())),
				"EVERMESH_XDS_SERVER_ID="+test.asked, "EVERMESH_TOKEN_FILE="+write(t, "token", "a.b.c"))
			if r.OK() != (test.says == "") || !strings.Contains(strings.Join(r.Lines(), "\n"), test.says) {
				t.Errorf("got %q, want %q", r.Lines(), test.says)
			}
		})
	}
}

// The same over IPv6, where the authority has brackets.
func TestRelayOverIPv6(t *testing.T) {
	t.Parallel()
	d := newDomain(t)
	pair, _, _ := d.issue(t, "spiffe://prod.example/evermeshd", net.IPv6loopback)
	c := agenttest.NewControlPlane(t, "[::1]:0", grpc.Creds(credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}})))
	_, client := newTestRelay(t, "APPMESH_XDS_ENDPOINT=https://"+c.Addr, "APPMESH_XDS_CA_FILE="+write(t, "ca.pem", string(d.pem())), "EVERMESH_TOKEN_FILE="+write(t, "token", "a.b.c"))
	converse(t, client)
}
