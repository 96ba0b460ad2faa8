//go:build linux

package fields

import (
	"crypto/tls"
	"crypto/x509"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/evermesh/evermesh/internal/envoy/sdstest"
)

// pki is what a scene's certificates come from: the authorities one and two, and
// the certificates one and two, both of authority one, for the names one.example and
// two.example, and any.example.
//
// Beside each Envoy lie, in the directory where it was started, one.pem and one.key,
// two.pem and two.key, one-and-root.pem, which is one.pem with its root, ca-one.pem and
// ca-two.pem. Its own SDS server has the secrets one, two, ca-one and ca-two. The
// issuer has certificates and authorities of these ARNs, for the account:
// certificateARN and authorityARN.
type pki struct {
	authorities  map[string]*sdstest.Authority
	certificates map[string]sdstest.Certificate
	server       sdstest.Certificate // of the applications' TLS port
}

func (s scene) certificateARN(name string) string {
	return "arn:aws:acm:us-east-1:" + account + ":certificate/" + s.mesh() + "-" + name
}

func (s scene) authorityARN(name string) string {
	return "arn:aws:acm-pca:us-east-1:" + account + ":certificate-authority/" + s.mesh() + "-" + name
}

// certify makes the scene's certificates and everything that serves them, but for
// the files.
func (p *play) certify(t *testing.T) {
	t.Helper()
	p.pki = &pki{authorities: map[string]*sdstest.Authority{}, certificates: map[string]sdstest.Certificate{}}
	if err := os.MkdirAll(p.dir(""), 0o755); err != nil {
		t.Fatal(err)
	}
	sds := sdstest.Serve(t, p.sdsSocket())
	if err := os.Chmod(p.sdsSocket(), 0o777); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"one", "two"} {
		p.authorities[name] = sdstest.NewAuthority(t, "authority "+name)
		sds.PutTrust(t, "ca-"+name, p.authorities[name])
		shared.plane.issuer.Trust(p.authorityARN(name), p.authorities[name])
	}
	one := p.authorities["one"]
	for _, name := range []string{"one", "two"} {
		p.certificates[name] = shared.plane.issuer.Issue(t, p.certificateARN(name), one, name+".example", "any.example")
		sds.PutCertificate(t, name, p.certificates[name])
	}
	p.server = one.Issue(t, "server."+p.mesh(), "server.example")
}

func (p *play) sdsSocket() string { return filepath.Join(p.dir(""), "sds.sock") }

// certificateFiles writes the files beside an Envoy.
func (p *play) certificateFiles(t *testing.T, dir string) {
	t.Helper()
	one := p.certificates["one"]
	for name, text := range map[string][]byte{
		"one.pem": one.Chain, "one.key": one.Key, "two.pem": p.certificates["two"].Chain, "two.key": p.certificates["two"].Key,
		"one-and-root.pem": slices.Concat(one.Chain, p.authorities["one"].PEM),
		"ca-one.pem":       p.authorities["one"].PEM, "ca-two.pem": p.authorities["two"].PEM,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// clientTLS is for a client that has the certificate of that name, or none.
func (p *play) clientTLS(t *testing.T, name string) *tls.Config {
	t.Helper()
	out := &tls.Config{ServerName: "any.example", RootCAs: p.authorities["one"].Pool()}
	if name != "" {
		out.Certificates = []tls.Certificate{p.certificates[name].Pair(t)}
	}
	return out
}

// serverTLS is for an application, which looks at the certificates of its clients
// and judges none.
func (p *play) serverTLS(t *testing.T) *tls.Config {
	t.Helper()
	return &tls.Config{Certificates: []tls.Certificate{p.server.Pair(t)}, ClientAuth: tls.RequestClientCert}
}

// whose names a chain: whom it is for, and how long it is.
func whose(chain []*x509.Certificate) (name string, length int) {
	if len(chain) == 0 || len(chain[0].DNSNames) == 0 {
		return "", len(chain)
	}
	return chain[0].DNSNames[0], len(chain)
}
